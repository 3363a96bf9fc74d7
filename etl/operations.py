"""What the policies do to pixels: operations on uint8 RGB, by NumPy and Pillow or by the native module.

Both make the same bytes on every machine. Where Pillow's own arithmetic may depend on the processor, as in
``Image.blend``, whose multiplication and addition arm64's compilers fuse, NumPy takes its place; geometry goes through
Pillow with matrices that its arithmetic holds exactly.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

AUGMENT_VERSION = 1
"""Version of the operations' definition: it changes whenever any pixel of any of them would."""

NEAREST, BILINEAR = 16, 20
"""Fractional bits of a matrix, which tell the interpolation."""

Operation = tuple[str, tuple[Any, ...]]
"""Name and arguments of a function of this file, and of one of the native module."""

_RESAMPLING = {NEAREST: Image.Resampling.NEAREST, BILINEAR: Image.Resampling.BILINEAR}


def apply(out: np.ndarray, operations: Sequence[Operation], module: ModuleType | None) -> None:
    """Do ``operations`` to pixels uint8 [H, W, 3] in place, by ``module`` where it has these operations."""
    if module is not None and getattr(module, "AUGMENT_VERSION", 0) == AUGMENT_VERSION:
        for name, arguments in operations:
            getattr(module, name)(out, *arguments)
        return
    image = Image.fromarray(out)
    for name, arguments in operations:
        image = _OPERATIONS[name](image, *arguments)
    out[...] = np.asarray(image)


def affine(image: Image.Image, matrix: Sequence[int], bits: int, fill: tuple[int, int, int]) -> Image.Image:
    """Move pixels: the one at (x, y) comes from ((a2 + a0 x + a1 y), (a5 + a3 x + a4 y)) / 2**bits, or is ``fill``.

    Places are those of corners: the centre of the first pixel is at (1/2, 1/2). Pillow takes them from centre to
    centre. It rounds its matrix to 16 bits for NEAREST, and for BILINEAR computes in doubles, which hold 20 + 12 bits
    of a place and 8 of a value: nothing is rounded but the result, downward.
    """
    a0, a1, a2, a3, a4, a5 = matrix
    doubled = (2 * a0, 2 * a1, 2 * a2 - a0 - a1, 2 * a3, 2 * a4, 2 * a5 - a3 - a4)
    data = [number / (2 << bits) for number in doubled]
    return image.transform(image.size, Image.Transform.AFFINE, data, _RESAMPLING[bits], fillcolor=fill)


def table(image: Image.Image, values: bytes) -> Image.Image:
    """Give each value the one that stands in its place among 256, or among 768, 256 for each channel."""
    return image.point(list(values) * (768 // len(values)))


def contrast(image: Image.Image, alpha: np.float32) -> Image.Image:
    """Blend with the mean of the image in grey."""
    grey = np.asarray(image.convert("L"))
    total = int(grey.sum(dtype=np.int64))
    mean = (2 * total + grey.size) // (2 * grey.size)
    ramp = np.arange(256, dtype=np.uint8)
    return table(image, blend(np.uint8(mean), ramp, alpha).tobytes())


def color(image: Image.Image, alpha: np.float32) -> Image.Image:
    """Blend with the image in grey."""
    return Image.fromarray(blend(np.asarray(image.convert("L"))[..., None], np.asarray(image), alpha))


def sharpness(image: Image.Image, alpha: np.float32) -> Image.Image:
    """Blend with the image smoothed: the centre counts five times, its eight neighbours once; the rim stays."""
    return Image.fromarray(blend(np.asarray(image.filter(ImageFilter.SMOOTH)), np.asarray(image), alpha))


def autocontrast(image: Image.Image) -> Image.Image:
    """Stretch each channel to 0 … 255: i * scale + offset in float64, each rounded, cut off."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image) -> Image.Image:
    """Give each channel an even histogram, by Pillow's integers; what would be more than 255 is 255."""
    return ImageOps.equalize(image)


def grey(image: Image.Image) -> Image.Image:
    """Three equal channels: (19595 R + 38470 G + 7471 B + 2**15) >> 16."""
    return image.convert("L").convert("RGB")


def blur(image: Image.Image, radius: np.float32, weight: int) -> Image.Image:
    """Three box filters across and three down. ``weight``: of a whole pixel, which Pillow computes from the radius."""
    for box in [(float(radius), 0.0)] * 3 + [(0.0, float(radius))] * 3:
        image = image.filter(ImageFilter.BoxBlur(box))
    return image


def blend(degenerate: np.ndarray | np.uint8, pixels: np.ndarray, alpha: np.float32) -> np.ndarray:
    """``degenerate + alpha * (pixels - degenerate)`` as uint8: two operations of float32, cut off to 0 … 255."""
    base = np.asarray(degenerate, np.float32)
    made = np.subtract(pixels, base, dtype=np.float32)
    np.multiply(made, alpha, out=made)
    np.add(made, base, out=made)
    return np.clip(made, 0, 255, out=made).astype(np.uint8)


_OPERATIONS: dict[str, Callable[..., Image.Image]] = {
    function.__name__: function
    for function in (affine, table, contrast, color, sharpness, autocontrast, equalize, grey, blur)
}
