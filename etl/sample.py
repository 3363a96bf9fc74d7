"""The sample: image bytes, a spec and a key in; uint8 RGB pixels out.

This module makes every training and validation sample, wherever that happens: in the training process, in its loader's
workers, or in an ETL on a storage node. It needs NumPy and Pillow, nothing else; where the module
``imagenet_ais_native`` is installed (``native/``), that makes the same bytes of most JPEGs in less time.

Three promises, each with committed test vectors in ``tests/unit/vectors/``:

* *A sample is a pure function of (bytes, spec, key).* All randomness is drawn from Philox4x64-10 (Salmon et al.,
  "Parallel random numbers: as easy as 1, 2, 3", SC 2011) keyed by the seed and counted by (index, epoch, view).
* *Integer arithmetic decides the crop.* No ``exp``, ``log`` or ``sqrt`` of a C library, whose last bit may differ
  between glibc, musl and macOS: the fixed point of ``etl/fixed_point.py``.
* *Pixels are Pillow's*: libjpeg-turbo decode, crop, fixed-point antialiased resize in two explicit passes,
  horizontal then vertical. Pillow 13 swaps the passes inside its own two-dimensional call for some tall crops, and a
  sample must not change with a Pillow upgrade. So a sample equals torchvision's PIL pipeline for the same box and flip
  byte for byte under Pillow 11 and 12, and for bilinear within one level under Pillow 13.
"""

import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from PIL import Image, UnidentifiedImageError

from etl.crop import ATTEMPTS, center_crop, horizontal_flip, random_resized_crop_box, resized_shape
from etl.jpeg_index import Entry, can_use
from etl.operations import Operation, apply
from etl.policies import plan, words_needed
from etl.resize import resize
from etl.spec import VERSION, Key, Spec

NATIVE_VARIABLE = "IMAGENET_AIS_NATIVE"
"""Environment variable that keeps to Pillow when it is 0."""

_NATIVE_REVISION = 2
"""The oldest revision of the native module whose answers are Pillow's, as far as anybody knows."""

RANDOM_DOMAIN = 0
"""The second word of this module's Philox keys; the other domains are those of ``sources/randomness.py``."""

_WORDS = 1 + 4 * ATTEMPTS


class CorruptSample(ValueError):  # noqa: N818  # the name is part of the wire contract
    """Bytes that are no image, or an image that cannot be decoded. Takes one string, so that it survives pickling."""


def transform(
    data: bytes, spec: Spec, key: Key | None = None, out: np.ndarray | None = None, entry: Entry | None = None
) -> np.ndarray:
    """Make one sample: uint8, shape [spec.size, spec.size, 3], RGB, C order, writable; in ``out``, if that is given.

    ``out`` is of this kind, and holds anything after an error. ``key`` is needed by the train recipe and ignored by the
    val recipe. ``entry`` is the photo's in a JPEG index, which changes no pixel. Any image that Pillow reads becomes
    RGB by ``convert("RGB")`` as in torchvision's ImageFolder (no EXIF rotation). Raises CorruptSample for bytes that
    are no image, ValueError for a train spec without a key and for another ``out``.
    """
    if spec.recipe == "train" and key is None:
        raise ValueError("the train recipe needs a Key(seed, epoch, index)")
    out = np.empty((spec.size, spec.size, 3), np.uint8) if out is None else out
    if out.shape != (spec.size, spec.size, 3) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be uint8 [{spec.size}, {spec.size}, 3] in C order, not {out.dtype} {out.shape}")
    words = words_of(spec, key)
    if not _transform_natively(data, spec, words, out, entry):
        out[...] = np.asarray(from_image(decode(data), spec, words))
    if spec.is_augmented:
        apply(out, operations(spec, words), native())
    return out


def operations(spec: Spec, words: Sequence[int]) -> list[Operation]:
    """What the spec's policy and jitter do to the crop of a key with these random words."""
    return plan(
        words,
        spec.size,
        spec.augment,
        spec.augment_ops,
        spec.augment_magnitude,
        spec.augment_interpolation,
        spec.jitter,
    )


def words_of(spec: Spec, key: Key | None) -> list[int]:
    """The random words of a sample of ``spec``; none for the val recipe."""
    if spec.recipe == "val" or key is None:
        return []
    return random_words(key, words_needed(spec.augment, spec.augment_ops, spec.jitter))


def from_image(image: Image.Image, spec: Spec, words: list[int]) -> Image.Image:
    """The crop of a decoded photo, resized, by Pillow."""
    if spec.recipe == "val":
        full = resized_shape(*image.size, spec.resize)
        return resize(image, full, center_crop(*full, spec.size), spec.size, spec.interpolation)
    top, left, height, width = random_resized_crop_box(*image.size, spec.scale, spec.ratio, words)
    image = image.crop((left, top, left + width, top + height))
    image = resize(image, (spec.size, spec.size), (0, 0), spec.size, spec.interpolation)
    if horizontal_flip(words):
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def native() -> ModuleType | None:
    """The module ``imagenet_ais_native``, which makes the same bytes as Pillow in less time, or None to use Pillow.

    None where it is not installed, was built for another version of the sample, is too old, or IMAGENET_AIS_NATIVE=0 is
    set. It is imported here, at need, since this code travels to pods where it is absent.
    """
    if os.environ.get(NATIVE_VARIABLE) == "0":
        return None
    try:
        import imagenet_ais_native
    except ImportError:
        sys.modules.setdefault("imagenet_ais_native", None)  # type: ignore[arg-type]  # the next try is a quick no
        return None
    if imagenet_ais_native.SAMPLE_VERSION != VERSION:
        return None
    return imagenet_ais_native if getattr(imagenet_ais_native, "REVISION", 1) >= _NATIVE_REVISION else None


def decode(data: bytes) -> Image.Image:
    """Decode to RGB as torchvision's ``pil_loader`` does. Raises CorruptSample with the reason."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        start = data[:12]
        raise CorruptSample(f"not an image: {len(data)} bytes that start with {start!r}") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
        reason = str(error).removesuffix(".")
        raise CorruptSample(f"a broken image of {len(data)} bytes: {reason}") from error


def random_words(key: Key, count: int = _WORDS) -> list[int]:
    """The key's first random words of 64 bits: word 0 decides the flip, words 1 + 4a … 4 + 4a crop attempt a.

    Those of the ten attempts are 41; what follows is a policy's. More words begin with the same ones.

    NumPy's Philox4x64-10 with key (seed, RANDOM_DOMAIN) and counter (0, index, epoch, view), of which NumPy increments
    the first word before each block of four; its raw stream is fixed by NumPy's compatibility policy (NEP 19).
    """
    generator = np.random.Philox(key=[key.seed, RANDOM_DOMAIN], counter=[0, key.index, key.epoch, key.view])
    words: list[int] = generator.random_raw(count).tolist()
    return words


def _transform_natively(data: bytes, spec: Spec, words: list[int], out: np.ndarray, entry: Entry | None = None) -> bool:
    """As transform(), or False for what Pillow must do: any file but a plain baseline JPEG without a defect."""
    module = native()
    shape: tuple[int, int] | None = module.size(data) if module is not None else None
    entry = entry if can_use(module) else None
    if module is None or shape is None:
        if entry:
            entry.refuse(data)
        return False
    box, full, window, flip = rectangles(shape, spec, words)
    geometry = box, full, window, spec.interpolation == "bicubic", flip
    done: bool = entry.resample(module, data, out, *geometry) if entry else module.resample(data, out, *geometry)
    return done


Box = tuple[int, int, int, int]


def rectangles(shape: tuple[int, int], spec: Spec, words: list[int]) -> tuple[Box, tuple[int, int], Box, bool]:
    """How a photo of ``shape`` (width, height) becomes a sample: (box, full, window, flip).

    ``box`` (left, top, width, height) of the photo is resized to ``full`` (width, height), ``window`` (left, top,
    width, height) of that is the sample, mirrored if ``flip``.
    """
    if spec.recipe == "train":
        top, left, height, width = random_resized_crop_box(*shape, spec.scale, spec.ratio, words)
        size = spec.size, spec.size
        return (left, top, width, height), size, (0, 0, *size), horizontal_flip(words)
    full = resized_shape(*shape, spec.resize)
    return (0, 0, *shape), full, (*center_crop(*full, spec.size), spec.size, spec.size), False
