"""Which part of an image a sample shows: torchvision's RandomResizedCrop and CenterCrop in integers."""

import math

from etl.fixed_point import ONE, exp2_q32, log2_q32, q32

Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels, in the order of torchvision's ``RandomResizedCrop.get_params``."""

ATTEMPTS = 10
"""As many as torchvision's RandomResizedCrop makes before it falls back to a central crop."""

_LOGARITHMS: dict[tuple[float, float], tuple[int, int]] = {}  # of the last few ratios, to base 2
_REMEMBERED = 64  # ratios; a pod lives for weeks, and each request may bring another one


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
    scale_low, scale_high = q32(scale[0]), q32(scale[1])
    logarithms = _LOGARITHMS.get(ratio)
    if logarithms is None:
        logarithms = log2_q32(q32(ratio[0])), log2_q32(q32(ratio[1]))
        if len(_LOGARITHMS) >= _REMEMBERED:
            _LOGARITHMS.clear()
        _LOGARITHMS[ratio] = logarithms
    log_low, log_high = logarithms
    for attempt in range(ATTEMPTS):
        u_area, u_aspect, u_top, u_left = (word >> 32 for word in words[1 + 4 * attempt : 5 + 4 * attempt])
        area = width * height * (scale_low + ((scale_high - scale_low) * u_area >> 32))
        aspect = exp2_q32(log_low + ((log_high - log_low) * u_aspect >> 32))
        # round(sqrt(x)) = floor((sqrt(4x) + 1) / 2); area and aspect have 32 fractional bits each.
        crop_width = (math.isqrt(area * aspect >> 62) + 1) >> 1
        crop_height = (math.isqrt(4 * area // aspect) + 1) >> 1
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = (height - crop_height + 1) * u_top >> 32
            left = (width - crop_width + 1) * u_left >> 32
            return top, left, crop_height, crop_width
    crop_width, crop_height = width, height
    if width * ONE < height * q32(ratio[0]):  # too tall
        crop_height = max(1, (2 * width * ONE // q32(ratio[0]) + 1) >> 1)
    elif width * ONE > height * q32(ratio[1]):  # too wide
        crop_width = max(1, (height * q32(ratio[1]) * 2 // ONE + 1) >> 1)
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def resized_shape(width: int, height: int, resize: int) -> tuple[int, int]:
    """(width, height) after torchvision's Resize(resize): the short side exactly, the long side rounded down."""
    if width <= height:
        return resize, resize * height // width
    return resize * width // height, resize


def center_crop(width: int, height: int, size: int) -> tuple[int, int]:
    """(left, top) of torchvision's CenterCrop(size), which rounds halves to even."""
    return round((width - size) / 2), round((height - size) / 2)
