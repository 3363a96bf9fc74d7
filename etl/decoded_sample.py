"""Samples from decoded photos: the same bytes as from the photo's own, since a sample's crop is cut after decoding.

Decoding never depends on the crop: there is no scaled decoding in a sample. Policies come after the crop.
"""

import os
import time
from hashlib import blake2b

import numpy as np
import PIL
from PIL import Image

from etl.decoded_cache import DecodedCache, is_kept
from etl.decoded_rows import unpacked
from etl.operations import apply
from etl.sample import decode, from_image, native, operations, rectangles, words_of
from etl.spec import VERSION, Key, Spec

_MAKER = f"{VERSION} {PIL.__version__} ".encode()
"""Part of a photo's key: another version of Pillow may decode what is no JPEG to other pixels."""

SETTLED_S = 2.0
"""A file that was changed later than so long ago is not kept: within one tick of a file system's clock it could change
again and look the same."""


def file_key(path: str, status: os.stat_result, changes: bool = True) -> bytes:
    """16 bytes for the content of a file: another one for each version of it, unless somebody sets its times back.

    ``changes``: whether the time of the last change of its inode counts, which nobody can set. AIStore changes that
    whenever it notes that an object was read.
    """
    marks = status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns if changes else 0
    return blake2b(_MAKER + repr(marks).encode() + os.fsencode(path), digest_size=16).digest()


def is_settled(status: os.stat_result, changes: bool = True) -> bool:
    """Whether the file's times are old enough to tell it from its next version."""
    return max(status.st_mtime, status.st_ctime if changes else 0) < time.time() - SETTLED_S


def sample_from_cache(
    cache: DecodedCache, photo_key: bytes, spec: Spec, key: Key | None, out: np.ndarray, wait: bool = True
) -> bool:
    """Make the sample of ``transform`` in ``out`` from a kept photo; False where it is not there, or damaged.

    ``out`` then holds anything. ``wait`` and BlockingIOError are as in ``DecodedCache.rows``.
    """
    photo = cache.find(photo_key)
    if photo is None or not is_kept(photo.width, photo.height):
        return False
    words = words_of(spec, key)
    module = native()
    resample_rows = getattr(module, "resample_rows", None)
    if resample_rows is None:
        rows = cache.rows(photo, 0, photo.height, wait)
        pixels = unpacked(rows, photo) if rows is not None else None
        if pixels is None:
            return False
        out[...] = np.asarray(from_image(Image.fromarray(pixels), spec, words))
    else:
        (left, top, width, height), full, window, flip = rectangles((photo.width, photo.height), spec, words)
        rows = cache.rows(photo, top, height, wait)
        if rows is None:
            return False
        seed, box, bicubic = (photo.seed + top) % (1 << 64), (left, width, height), spec.interpolation == "bicubic"
        if not resample_rows(rows, seed, photo.width, out, box, full, window, bicubic, flip):
            return False
    if spec.is_augmented:
        apply(out, operations(spec, words), module)
    return True


def keep(cache: DecodedCache, photo_key: bytes, data: bytes) -> bool:
    """Decode a photo whole, and keep it; whether there was room. Raises CorruptSample for what is no image."""
    pixels = None if cache.full else decoded(data)
    return pixels is not None and cache.keep(photo_key, pixels)


def decoded(data: bytes) -> np.ndarray | None:
    """All pixels of a photo, uint8 [height, width, 3]; None for one that is too large to be kept.

    Raises CorruptSample.
    """
    module = native()
    shape: tuple[int, int] | None = module.size(data) if module is not None else None
    if module is not None and shape is not None:
        if not is_kept(*shape):
            return None
        pixels, whole = np.empty((shape[1], shape[0], 3), np.uint8), (0, 0, *shape)
        if module.resample(
            data, pixels, whole, shape, whole, False, False
        ):  # a resize to the same size changes nothing
            return pixels
    return np.asarray(decode(data))
