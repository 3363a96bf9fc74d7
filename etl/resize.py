"""Pillow's antialiased resize in two explicit passes, horizontal then vertical, of a window of the result alone."""

import numpy as np
from PIL import Image

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_LARGEST = 1 << 26  # pixels between the two passes, 256 MB in Pillow; what needs more is resized by its window alone
_LONGEST = 1 << 20  # pixels of a side after Resize, for each of which Pillow keeps its coefficients: 40 MB
_PRECISION = 22  # fractional bits of Pillow's coefficients: 32 - 8 of the pixel - 2 for overshoot


def resize(
    image: Image.Image, full: tuple[int, int], start: tuple[int, int], size: int, interpolation: str
) -> Image.Image:
    """The window of ``size`` x ``size`` pixels at ``start`` (left, top) of the image resized to ``full``.

    A photo goes through Pillow's two passes. What would take a gigabyte between them, as a strip of 1 x 65,500 pixels,
    gets the same pixels from the coefficients that the window needs alone.
    """
    (left, top), filter_ = start, FILTERS[interpolation]
    if max(full) > _LONGEST or full[0] * image.height > _LARGEST or size * full[1] > _LARGEST:
        return resize_window(image, full, start, size, interpolation)
    # The vertical pass treats every column alike, so the columns that the crop drops need not go through it.
    image = image.resize((full[0], image.height), filter_)
    if full[0] != size:
        image = image.crop((left, 0, left + size, image.height))
    image = image.resize((size, full[1]), filter_)
    return image if full[1] == size else image.crop((0, top, size, top + size))


def resize_window(
    image: Image.Image, full: tuple[int, int], start: tuple[int, int], size: int, interpolation: str
) -> Image.Image:
    """As ``resize``, by the coefficients of the window."""
    across = _coefficients(image.width, full[0], start[0], size, interpolation)
    down = _coefficients(image.height, full[1], start[1], size, interpolation)
    left, top = (min(first for first, _ in axis) for axis in (across, down))
    right, bottom = (max(first + len(weights) for first, weights in axis) for axis in (across, down))
    lines = np.asarray(image.crop((left, top, right, bottom))).swapaxes(0, 1)
    for axis, origin in ((across, left), (down, top)):
        lines = np.stack([_weigh(lines[first - origin :], weights) for first, weights in axis]).swapaxes(0, 1)
    return Image.fromarray(np.ascontiguousarray(lines.swapaxes(0, 1)))


def _weigh(lines: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted sum of the first lines uint8 [n, m, 3], rounded to uint8 [m, 3]."""
    sums = np.tensordot(weights, lines[: len(weights)].astype(np.int64), 1)
    return np.clip(sums + (1 << _PRECISION - 1) >> _PRECISION, 0, 255).astype(np.uint8)


def _coefficients(inputs: int, length: int, start: int, size: int, interpolation: str) -> list[tuple[int, np.ndarray]]:
    """Of outputs ``start`` … ``start + size`` of an axis resized to ``length``: the first input, int64 weights.

    The arithmetic of Pillow's ``ImagingResample``, operation for operation: doubles, then 22 fractional bits.
    """
    weight, reach = (_cubic, 2.0) if interpolation == "bicubic" else (_triangle, 1.0)
    scale = inputs / length
    stretch = max(scale, 1.0)
    inverse, support, axis = 1.0 / stretch, reach * stretch, []
    for output in range(start, start + size):
        centre, total = (output + 0.5) * scale, 0.0
        first, end = max(0, int(centre - support + 0.5)), min(inputs, int(centre + support + 0.5))
        weights = [weight((place - centre + 0.5) * inverse) for place in range(first, end)]
        for one in weights:  # not sum(), which loses less than C's loop since Python 3.12
            total += one
        scaled = [(one / total if total else one) * (1 << _PRECISION) for one in weights]
        axis.append((first, np.array([int(one - 0.5 if one < 0 else one + 0.5) for one in scaled], np.int64)))
    return axis


def _triangle(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _cubic(x: float) -> float:
    """Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -1/2."""
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0
