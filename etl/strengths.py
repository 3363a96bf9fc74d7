"""What an operation of a policy does at a strength: with which table of levels, matrix or weight.

Where a coordinate falls on the border of a pixel, the last bit of a magnitude decides. So geometry is in integers that
are rounded as ``docs/augmentation.md`` says, and equals torchvision's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from etl.operations import NEAREST, Operation
from etl.policy_tables import (
    BLUR_RADII,
    BLUR_WEIGHTS,
    DEGREES_10,
    DEGREES_31,
    DEGREES_135,
    ENHANCE_10,
    ENHANCE_31,
    SHEAR_10,
    SHEAR_31,
    WIDE,
)

_BLACK, _MEAN = (0, 0, 0), (124, 116, 104)
"""What comes from outside the image; timm's is the mean of ImageNet."""

_RAMP = np.arange(256, dtype=np.uint8)
_Q48 = 48
_RADIAN = 0x0477D1A894A74E4570762FB374A42E26
"""pi / 180 with 128 fractional bits."""

LEVEL = 1 << 12
"""One level of timm's ten."""


@dataclass(frozen=True)
class _Scale:
    """The strengths of a policy of torchvision's."""

    shear: np.ndarray
    shear_hundredths: int
    """The last of them; the others are equal parts of it, but for float32's rounding."""
    degrees: np.ndarray
    enhance: np.ndarray
    posterize: int
    """Bits that the last bin takes away."""
    translate: Callable[[int, int], int]
    """Pixels of a bin for images of a size."""

    @property
    def last(self) -> int:
        """The number of the last bin."""
        return len(self.shear) - 1


def _translate_wide(k: int, size: int) -> int:
    return 15 if k == 15 else 16 * k // 15  # float32's rounding makes 16 pixels 15.999999


def _translate_31(k: int, size: int) -> int:
    return 150 * size * k // (331 * 30)


def _translate_10(k: int, size: int) -> int:
    return 150 * size * k // (331 * 9)


_SCALES = {
    "ta_wide": _Scale(WIDE, 99, DEGREES_135, WIDE, 6, _translate_wide),
    "ra": _Scale(SHEAR_31, 30, DEGREES_31, ENHANCE_31, 4, _translate_31),
    "aa": _Scale(SHEAR_10, 30, DEGREES_10, ENHANCE_10, 4, _translate_10),
}


def torchvision_operation(policy: str, name: str, k: int, sign: int, size: int, bits: int) -> Operation | None:
    """The operation ``name`` of torchvision's ta_wide, ra or aa with the strength of bin ``k``; None changes nothing.

    ``sign`` is 1 or -1, for the operations that have one.
    """
    scale = _SCALES[policy]
    if name.startswith("shear"):
        return _affine(name, *_shear(scale, k, sign, bits), bits, _BLACK)
    if name.startswith("translate"):  # by whole pixels, for which bilinear is nearest
        start = (1 << NEAREST - 1) - (sign * scale.translate(k, size) << NEAREST)
        return _affine(name, 0, start, NEAREST, _BLACK)
    if name == "rotate":
        return _rotate(*float(scale.degrees[k]).as_integer_ratio(), sign, size, bits, _BLACK)
    if name in ("brightness", "color", "contrast", "sharpness"):
        return enhance(name, np.float32(1 + sign * float(scale.enhance[k])))
    if name == "posterize":
        return _posterize(8 - round(scale.posterize * k / scale.last))
    if name == "solarize":
        return _solarize(-(-255 * (scale.last - k) // scale.last))
    return _without_strength(name)


def timm_operation(name: str, level: int, sign: int, size: int, bits: int) -> Operation:
    """The operation ``name`` of timm's increasing set at ``level``, of which 10 have 12 fractional bits."""
    whole = 100 * LEVEL
    if name.startswith("shear"):
        m = 3 * level * sign  # of `whole`
        return _affine(name, _rounded(m, whole, bits), _rounded(whole + m, 2 * whole, bits), bits, _MEAN)
    if name.startswith("translate"):
        shift = 45 * level * size * sign  # of 10 * `whole`
        return _affine(name, 0, _rounded(10 * whole + 2 * shift, 20 * whole, bits), bits, _MEAN)
    if name == "rotate":
        return _rotate(3 * level, LEVEL, sign, size, bits, _MEAN)
    if name in ("brightness", "color", "contrast", "sharpness"):
        return enhance(name, np.float32((whole + 9 * sign * level) / whole))
    if name == "posterize":
        return _posterize(max(1, 4 - 4 * level // (10 * LEVEL)))
    if name == "solarize":
        return _solarize(256 - 256 * level // (10 * LEVEL))
    if name == "solarize_add":
        more = np.minimum(_RAMP.astype(np.int64) + 110 * level // (10 * LEVEL), 255).astype(np.uint8)
        return "table", (np.where(_RAMP < 128, more, _RAMP).tobytes(),)
    made = _without_strength(name)
    assert made is not None
    return made


def three_augment(kind: int, k: int) -> Operation:
    """Grey, solarised at 128, or blurred by 0.1 + 1.9 ``k`` / 63 pixels."""
    return [("grey", ()), _solarize(128), ("blur", (BLUR_RADII[k], BLUR_WEIGHTS[k]))][kind]


def _rounded(numerator: int, denominator: int, bits: int) -> int:
    """The fraction with ``bits`` fractional bits, halves up."""
    return ((numerator << bits + 1) + denominator) // (2 * denominator)


def _affine(name: str, across: int, start: int, bits: int, fill: tuple[int, int, int]) -> Operation:
    """A matrix that moves the axis at the end of ``name`` alone."""
    one, half = 1 << bits, 1 << bits - 1
    matrix = (one, across, start, 0, one, half) if name.endswith("x") else (one, 0, half, across, one, start)
    return "affine", (matrix, bits, fill)


def _shear(scale: _Scale, k: int, sign: int, bits: int) -> tuple[int, int]:
    """How far a row is moved against the one before it, and the first row.

    Bilinear weights are rounded to the side on which float32 has rounded the magnitude: a place that is exactly on a
    border then falls on the same side as in torchvision.
    """
    m = float(scale.shear[k])
    if bits == NEAREST:
        signed = sign * m
        return math.floor(math.ldexp(signed, bits) + 0.5), math.floor(math.ldexp(0.5 + signed / 2, bits) + 0.5)
    up = m * 100 * scale.last > scale.shear_hundredths * k
    rounded = math.ceil if up else math.floor
    return sign * rounded(math.ldexp(m, bits)), (1 << bits - 1) + sign * rounded(math.ldexp(m, bits - 1))


def _rotate(numerator: int, denominator: int, sign: int, size: int, bits: int, fill: tuple[int, int, int]) -> Operation:
    """Around the centre, by a fraction of degrees."""
    sine, cosine = sine_and_cosine(numerator, denominator)
    sine *= sign
    beside, whole = 1 - size, size << _Q48
    a0, a1, a3 = (_shorter(value, _Q48 - bits) for value in (cosine, -sine, sine))
    a2 = _shorter(cosine * beside - sine * beside + whole, _Q48 + 1 - bits)
    a5 = _shorter(sine * beside + cosine * beside + whole, _Q48 + 1 - bits)
    return "affine", ((a0, a1, a2, a3, a0, a5), bits, fill)


def _shorter(value: int, bits: int) -> int:
    """``value`` without its last bits, halves up."""
    return value + (1 << bits - 1) >> bits


def sine_and_cosine(numerator: int, denominator: int) -> tuple[int, int]:
    """Of a fraction of degrees from 0 to 180, with 48 fractional bits, rounded: the Taylor series with 96 bits."""
    angle = (numerator * _RADIAN // denominator) >> 32
    sums, term, n = [1 << 96, 0], 1 << 96, 0
    while term:
        n += 1
        term = (term * angle >> 96) // n
        sums[n % 2] += -term if n % 4 in (2, 3) else term
    return _shorter(sums[1], _Q48), _shorter(sums[0], _Q48)


def enhance(name: str, alpha: np.float32) -> Operation:
    """A blend; that with black is a table."""
    if name != "brightness":
        return name, (alpha,)
    values = np.clip(np.multiply(_RAMP, alpha, dtype=np.float32), 0, 255).astype(np.uint8)
    return "table", (values.tobytes(),)


def _posterize(kept: int) -> Operation:
    return "table", ((_RAMP & (0xFF00 >> kept & 0xFF)).astype(np.uint8).tobytes(),)


def _solarize(threshold: int) -> Operation:
    return "table", (np.where(threshold > _RAMP, _RAMP, 255 - _RAMP).astype(np.uint8).tobytes(),)


def _without_strength(name: str) -> Operation | None:
    if name == "identity":
        return None
    return ("table", ((255 - _RAMP).tobytes(),)) if name == "invert" else (name, ())
