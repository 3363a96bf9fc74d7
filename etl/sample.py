"""The sample: image bytes, a spec and a key in; uint8 RGB pixels out.

This module, with the policies of ``etl/policies.py``, makes every training and validation sample, wherever that
happens: in the training process, in its loader's workers, or in an ETL on a storage node. It needs NumPy and Pillow,
nothing else; where the module ``imagenet_ais_native`` is installed (``native/``), that makes the same bytes of most
JPEGs in less time.

Three promises, each with committed test vectors in ``tests/unit/vectors/``:

* *A sample is a pure function of (bytes, spec, key).* All randomness is drawn from Philox4x64-10 (Salmon et al.,
  "Parallel random numbers: as easy as 1, 2, 3", SC 2011) keyed by the seed and counted by (index, epoch, view).
* *Integer arithmetic decides the crop.* No ``exp``, ``log`` or ``sqrt`` of a C library, whose last bit may differ
  between glibc, musl and macOS: fixed point with 32 fractional bits, written out below.
* *Pixels are Pillow's*: libjpeg-turbo decode, crop, fixed-point antialiased resize in two explicit passes,
  horizontal then vertical. Pillow 13 swaps the passes inside its own two-dimensional call for some tall crops, and a
  sample must not change with a Pillow upgrade. So a sample equals torchvision's PIL pipeline for the same box and flip
  byte for byte under Pillow 11 and 12, and for bilinear within one level under Pillow 13.
"""

import inspect
import io
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, UnidentifiedImageError

from etl.operations import Operation, apply
from etl.policies import MOST_LAYERS, MOST_MAGNITUDE, MOST_MAGNITUDE_OF_TIMM, plan, words_needed
from etl.resize import FILTERS, resize

VERSION = 1
"""Version of the sample's definition: it changes whenever any pixel of any sample would."""

NATIVE_VARIABLE = "IMAGENET_AIS_NATIVE"
"""Environment variable that keeps to Pillow when it is 0."""

_NATIVE_REVISION = 2
"""The oldest revision of the native module whose answers are Pillow's, as far as anybody knows."""

RANDOM_DOMAIN = 0
"""The second word of this module's Philox keys; the other domains are those of ``sources/randomness.py``."""

Interpolation = Literal["bilinear", "bicubic"]
Augment = Literal["", "ta_wide", "ra", "aa", "3a", "ra_timm"]
AUGMENTS = get_args(Augment)[1:]
"""The policies of ``etl/policies.py``; "" is none."""

POLICY_FIELDS = ("augment", "augment_ops", "augment_magnitude", "augment_interpolation", "jitter")
"""What a spec says of its policy. Versions before these fields made the same samples of all other specs."""

Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels, in the order of torchvision's ``RandomResizedCrop.get_params``."""

_ATTEMPTS = 10  # as many as torchvision's RandomResizedCrop makes before it falls back to a central crop
_WORDS = 1 + 4 * _ATTEMPTS
_ONE = 1 << 32  # 1.0 in fixed point with 32 fractional bits ("Q32")
_LOGARITHMS: dict[tuple[float, float], tuple[int, int]] = {}  # of the last few ratios, to base 2
_REMEMBERED = 64  # ratios; a pod lives for weeks, and each request may bring another one


class CorruptSample(ValueError):  # noqa: N818  # the name is part of the wire contract
    """Bytes that are no image, or an image that cannot be decoded. Takes one string, so that it survives pickling."""


@dataclass(frozen=True)
class Key:
    """What a sample's randomness depends on: non-negative integers below 2**63.

    ``index`` is the sample's place in the manifest, not in an epoch's shuffled order; ``view`` counts repeated
    augmentations of one image within an epoch.
    """

    seed: int
    epoch: int
    index: int
    view: int = 0

    def __post_init__(self) -> None:
        for name in ("seed", "epoch", "index", "view"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
                raise ValueError(f"Key.{name} must be an integer from 0 to 2**63 - 1, not {shown(value)}")


@dataclass(frozen=True)
class Spec:
    """What a sample looks like. Use ``Spec.train`` or ``Spec.val``.

    ``train`` is RandomResizedCrop(size, scale, ratio) and a horizontal flip with p = 0.5, then a policy and a colour
    jitter, if any; ``val`` is Resize(resize) of the short side and CenterCrop(size). Both antialias. Raises ValueError
    for sizes and ranges that make no sense. What a policy does not read is its default here, whatever was given: two
    specs of the same samples are equal.
    """

    recipe: Literal["train", "val"]
    size: int
    resize: int = 0
    scale: tuple[float, float] = (0.0, 0.0)
    ratio: tuple[float, float] = (0.0, 0.0)
    interpolation: Interpolation = "bilinear"
    augment: Augment = ""
    augment_ops: int = 2
    augment_magnitude: int = 9
    augment_interpolation: Literal["nearest", "bilinear"] = "nearest"
    jitter: float = 0.0
    version: int = VERSION

    @classmethod
    def train(
        cls,
        size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        augment: Augment | Literal["none"] = "",
        augment_ops: int = 2,
        augment_magnitude: int = 9,
        augment_interpolation: Literal["nearest", "bilinear"] = "nearest",
        jitter: float = 0.0,
    ) -> "Spec":
        """RandomResizedCrop and flip; ``scale`` is a share of the image's area, ``ratio`` is width / height.

        ``augment`` names a policy, of which ``ra`` has ``augment_ops`` operations of ``augment_magnitude`` of 30, and
        ``ra_timm`` two of around ``augment_magnitude`` of 10; ``jitter``: by how much brightness, contrast and
        saturation may differ from 1.
        """
        return cls(
            "train",
            size,
            scale=scale,
            ratio=ratio,
            interpolation=interpolation,
            augment="" if augment == "none" else augment,
            augment_ops=augment_ops,
            augment_magnitude=augment_magnitude,
            augment_interpolation=augment_interpolation,
            jitter=jitter,
        )

    @classmethod
    def val(cls, size: int = 224, resize: int = 256, interpolation: Interpolation = "bilinear") -> "Spec":
        """Resize of the short side to ``resize`` pixels, then the central ``size`` x ``size``."""
        return cls("val", size, resize=resize, interpolation=interpolation)

    @classmethod
    def of(cls, recipe: str, **fields: Any) -> "Spec":
        """That of ``train`` or ``val`` with the fields that are given; errors as for those."""
        return (cls.train if recipe == "train" else cls.val)(**fields)

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"this code makes samples of version {VERSION}, not {shown(self.version)}")
        if self.recipe not in ("train", "val"):
            raise ValueError(f"recipe must be train or val, not {shown(self.recipe)}")
        if not isinstance(self.interpolation, str) or self.interpolation not in FILTERS:
            raise ValueError(f"interpolation must be one of {', '.join(FILTERS)}, not {shown(self.interpolation)}")
        for name in ("size", "resize"):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral):
                raise ValueError(f"{name} must be a whole number of pixels, not {shown(value)}")
        for name in ("scale", "ratio"):
            object.__setattr__(self, name, _two_numbers(name, getattr(self, name)))
        if not 1 <= self.size <= 4096:
            raise ValueError(f"size must be from 1 to 4096 pixels, not {shown(self.size)}")
        self._check_policy()
        if self.recipe == "val":
            if not self.size <= self.resize <= 8192:
                raise ValueError(f"resize must be from size ({self.size}) to 8192 pixels, not {shown(self.resize)}")
            return
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two shares of the area with 0 < low <= high <= 1, not {self.scale}")
        if not 1 / 16 <= self.ratio[0] <= self.ratio[1] <= 16:
            raise ValueError(f"ratio must be width / height with 1/16 <= low <= high <= 16, not {self.ratio}")

    @property
    def is_augmented(self) -> bool:
        """Whether a policy or a jitter changes the crop."""
        return bool(self.augment or self.jitter)

    def _check_policy(self) -> None:
        if self.augment not in ("", *AUGMENTS):
            raise ValueError(f"augment must be one of none, {', '.join(AUGMENTS)}, not {shown(self.augment)}")
        for name, low, high in (("augment_ops", 1, MOST_LAYERS), ("augment_magnitude", 0, MOST_MAGNITUDE)):
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}, not {shown(value)}")
        if self.augment_interpolation not in ("nearest", "bilinear"):
            raise ValueError(
                f"augment_interpolation must be nearest or bilinear, not {shown(self.augment_interpolation)}"
            )
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, Real) or not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be a number from 0 to 1, not {shown(self.jitter)}")
        if self.recipe == "val" and self.is_augmented:
            raise ValueError("augment and jitter are of the train recipe: a validation sample has none")
        if self.augment == "ra_timm" and self.augment_magnitude > MOST_MAGNITUDE_OF_TIMM:
            most = f"ra_timm has magnitudes from 0 to {MOST_MAGNITUDE_OF_TIMM}"
            raise ValueError(f"augment_magnitude={self.augment_magnitude} is too much: {most}")
        unread: dict[str, object] = {} if self.augment == "ra" else {"augment_ops": 2}
        if self.augment not in ("ra", "ra_timm"):
            unread["augment_magnitude"] = 9
        if self.augment in ("", "3a"):  # they move nothing
            unread["augment_interpolation"] = "nearest"
        for name, default in ({"jitter": float(self.jitter)} | unread).items():
            object.__setattr__(self, name, default)


RECIPES: dict[str, dict[str, Any]] = {
    recipe: {name: field.default for name, field in inspect.signature(getattr(Spec, recipe)).parameters.items()}
    for recipe in ("train", "val")
}
"""By recipe its fields, in their order, with their defaults: requests and options are made of these."""


def _two_numbers(name: str, value: object) -> tuple[float, float]:
    """Two floats. Raises ValueError for anything else, and for integers that no float can hold."""
    numbers = list(value) if isinstance(value, list | tuple) else []
    if len(numbers) != 2 or any(isinstance(number, bool) or not isinstance(number, Real) for number in numbers):
        raise ValueError(f"{name} must be two numbers, low and high, not {shown(value)}")
    try:
        return float(numbers[0]), float(numbers[1])
    except OverflowError:
        raise ValueError(f"{name} must be two numbers that a float can hold, not {shown(value)}") from None


def shown(value: object) -> str:
    """A value for a sentence, however long it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:37]}..."


def transform(data: bytes, spec: Spec, key: Key | None = None, out: np.ndarray | None = None) -> np.ndarray:
    """Make one sample: uint8, shape [spec.size, spec.size, 3], RGB, C order, writable; in ``out``, if that is given.

    ``out`` is of this kind, and holds anything after an error. ``key`` is needed by the train recipe and ignored by the
    val recipe. Any image that Pillow reads becomes RGB by ``convert("RGB")`` as in torchvision's ImageFolder (no EXIF
    rotation). Raises CorruptSample for bytes that are no image, ValueError for a train spec without a key and for
    another ``out``.
    """
    if spec.recipe == "train" and key is None:
        raise ValueError("the train recipe needs a Key(seed, epoch, index)")
    out = np.empty((spec.size, spec.size, 3), np.uint8) if out is None else out
    if out.shape != (spec.size, spec.size, 3) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be uint8 [{spec.size}, {spec.size}, 3] in C order, not {out.dtype} {out.shape}")
    policy = spec.augment, spec.augment_ops, spec.jitter
    words = random_words(key, words_needed(*policy)) if spec.recipe == "train" and key is not None else []
    if not _transform_natively(data, spec, words, out):
        out[...] = np.asarray(_transform(decode(data), spec, words))
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


def _transform(image: Image.Image, spec: Spec, words: list[int]) -> Image.Image:
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


def horizontal_flip(words: list[int]) -> bool:
    """Whether the sample is mirrored: the highest bit of word 0, p = 1/2."""
    return bool(words[0] >> 63)


def random_resized_crop_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], words: list[int]
) -> Box:
    """The crop of an image of width x height pixels: torchvision's RandomResizedCrop in integers.

    Up to ten attempts with area = width * height * U(scale), aspect = 2 ** U(log2(ratio)), w = round(sqrt(area *
    aspect)), h = round(sqrt(area / aspect)), and a uniform position; then the largest central crop with an aspect in
    ``ratio``. The high 32 bits of a word are its uniform variable. All intermediate values fit 128 bits.
    """
    scale_low, scale_high = _q32(scale[0]), _q32(scale[1])
    logarithms = _LOGARITHMS.get(ratio)
    if logarithms is None:
        logarithms = _log2_q32(_q32(ratio[0])), _log2_q32(_q32(ratio[1]))
        if len(_LOGARITHMS) >= _REMEMBERED:
            _LOGARITHMS.clear()
        _LOGARITHMS[ratio] = logarithms
    log_low, log_high = logarithms
    for attempt in range(_ATTEMPTS):
        u_area, u_aspect, u_top, u_left = (word >> 32 for word in words[1 + 4 * attempt : 5 + 4 * attempt])
        area = width * height * (scale_low + ((scale_high - scale_low) * u_area >> 32))
        aspect = _exp2_q32(log_low + ((log_high - log_low) * u_aspect >> 32))
        # round(sqrt(x)) = floor((sqrt(4x) + 1) / 2); area and aspect have 32 fractional bits each.
        crop_width = (math.isqrt(area * aspect >> 62) + 1) >> 1
        crop_height = (math.isqrt(4 * area // aspect) + 1) >> 1
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = (height - crop_height + 1) * u_top >> 32
            left = (width - crop_width + 1) * u_left >> 32
            return top, left, crop_height, crop_width
    crop_width, crop_height = width, height
    if width * _ONE < height * _q32(ratio[0]):  # too tall
        crop_height = max(1, (2 * width * _ONE // _q32(ratio[0]) + 1) >> 1)
    elif width * _ONE > height * _q32(ratio[1]):  # too wide
        crop_width = max(1, (height * _q32(ratio[1]) * 2 // _ONE + 1) >> 1)
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def resized_shape(width: int, height: int, resize: int) -> tuple[int, int]:
    """(width, height) after torchvision's Resize(resize): the short side exactly, the long side rounded down."""
    if width <= height:
        return resize, resize * height // width
    return resize * width // height, resize


def center_crop(width: int, height: int, size: int) -> tuple[int, int]:
    """(left, top) of torchvision's CenterCrop(size), which rounds halves to even."""
    return round((width - size) / 2), round((height - size) / 2)


def _transform_natively(data: bytes, spec: Spec, words: list[int], out: np.ndarray) -> bool:
    """As transform(), or False for what Pillow must do: any file but a plain baseline JPEG without a defect."""
    module = native()
    shape: tuple[int, int] | None = module.size(data) if module is not None else None
    if module is None or shape is None:
        return False
    box, full, window, flip = (0, 0, *shape), (spec.size, spec.size), (0, 0, spec.size, spec.size), False
    if spec.recipe == "train":
        top, left, height, width = random_resized_crop_box(*shape, spec.scale, spec.ratio, words)
        box, flip = (left, top, width, height), horizontal_flip(words)
    else:
        full = resized_shape(*shape, spec.resize)
        window = (*center_crop(*full, spec.size), spec.size, spec.size)
    done: bool = module.resample(data, out, box, full, window, spec.interpolation == "bicubic", flip)
    return done


def _q32(value: float) -> int:
    """``value`` in fixed point; exact, since scaling a float by a power of two is, but for the final rounding."""
    return round(value * _ONE)


def _log2_q32(value: int) -> int:
    """floor(log2(value)) with 32 fractional bits for value > 0 in Q32, one bit per squaring."""
    exponent = value.bit_length() - 33
    mantissa = value << 30 >> exponent if exponent >= 0 else value << 30 << -exponent  # in [1, 2), 62 fractional bits
    result = exponent
    for _ in range(32):
        mantissa = mantissa * mantissa >> 62
        carry = mantissa >> 63
        mantissa >>= carry
        result = result << 1 | carry
    return result


def _roots_of_two() -> list[int]:
    """2 ** (1/2), 2 ** (1/4), … 2 ** (2 ** -32), rounded down, with 62 fractional bits."""
    roots = [math.isqrt(2 << 124)]
    while len(roots) < 32:
        roots.append(math.isqrt(roots[-1] << 62))
    return roots


_ROOTS = _roots_of_two()


def _exp2_q32(value: int) -> int:
    """2 ** value for value in Q32 (of either sign), in Q32, rounded down: a product of the roots of two."""
    fraction, result = value & (_ONE - 1), 1 << 62
    for bit, root in enumerate(_ROOTS):
        if fraction >> (31 - bit) & 1:
            result = result * root >> 62
    shift = 30 - (value >> 32)
    return result >> shift
