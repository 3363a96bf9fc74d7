"""The policies: which operations a sample's random words ask for, with which strengths.

Pure functions on integers; ``etl.operations`` does what they say. The words are those of the sample's key from word 41
on, which the crop does not use; ``_high`` of a word is its uniform variable of 32 bits. A policy's name never changes
its meaning:

* ``ta_wide``: TrivialAugment (Müller and Hutter, 2021) as torchvision's ``TrivialAugmentWide``;
* ``ra``: RandAugment (Cubuk et al., 2020) as torchvision's ``RandAugment``, of ``layers`` operations of a bin of 31;
* ``aa``: AutoAugment (Cubuk et al., 2019) as torchvision's for ImageNet;
* ``3a``: 3-Augment (Touvron et al., "DeiT III", 2022): grey, solarised or blurred;
* ``ra_timm``: timm's ``rand-m9-mstd0.5-inc1``, or of another magnitude than 9, with a bit left where timm would
  posterise to none.

Where a coordinate falls on the border of a pixel, the last bit of a magnitude decides. So geometry is in integers that
are rounded as ``docs/augmentation.md`` says, and equals torchvision's.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from etl.operations import BILINEAR, NEAREST, Operation
from etl.policy_tables import (
    BLUR_RADII,
    BLUR_WEIGHTS,
    DEGREES_10,
    DEGREES_31,
    DEGREES_135,
    ENHANCE_10,
    ENHANCE_31,
    LEVEL_OFFSETS,
    POLICIES_OF_AUTOAUGMENT,
    SHEAR_10,
    SHEAR_31,
    WIDE,
)

MOST_LAYERS, MOST_MAGNITUDE, MOST_MAGNITUDE_OF_TIMM = 10, 30, 10
"""Of RandAugment: as many layers as there are words before those of the jitter, and the last of 31 bins; timm's end."""

_FIRST, _JITTER = 41, 61
"""The first word of a policy, and that of the jitter."""

_WORDS = {"": 0, "ta_wide": 3, "aa": 5, "3a": 2, "ra_timm": 8}
"""How many words a policy reads."""

_NAMES = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
"""In torchvision's order."""

_NAMES_OF_TIMM = (
    *("autocontrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color", "contrast"),
    *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
"""In timm's order."""

_BLACK, _MEAN = (0, 0, 0), (124, 116, 104)
"""What comes from outside the image; timm's is the mean of ImageNet."""

_RAMP = np.arange(256, dtype=np.uint8)
_Q48 = 48
_RADIAN = 0x0477D1A894A74E4570762FB374A42E26
"""pi / 180 with 128 fractional bits."""

_LEVEL = 1 << 12
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


def words_needed(augment: str, layers: int, jitter: float) -> int:
    """How many of a key's words a policy and a jitter read."""
    if jitter:
        return _JITTER + 4
    return _FIRST + (2 * layers if augment == "ra" else _WORDS[augment])


def plan(
    words: Sequence[int], size: int, augment: str, layers: int, magnitude: int, interpolation: str, jitter: float
) -> list[Operation]:
    """The operations on a sample of ``size`` pixels, first to last: the policy's, then those of the jitter."""
    bits = BILINEAR if interpolation == "bilinear" else NEAREST
    made: list[Operation] = []
    if augment == "ta_wide":
        name, k = _NAMES[_pick(words[41], 14)], _pick(words[42], 31)
        made = _torchvision("ta_wide", name, k, _sign(words[43]), size, bits)
    elif augment == "ra":
        for at in range(_FIRST, _FIRST + 2 * layers, 2):
            name = _NAMES[_pick(words[at], 14)]
            made += _torchvision("ra", name, magnitude, _sign(words[at + 1]), size, bits)
    elif augment == "aa":
        for at, (name, tenths, k) in zip((42, 44), POLICIES_OF_AUTOAUGMENT[_pick(words[41], 25)], strict=True):
            if 10 * _high(words[at]) < tenths << 32:
                made += _torchvision("aa", name, k, _sign(words[at + 1]), size, bits)
    elif augment == "ra_timm":
        for at in (41, 45):
            if words[at] >> 63 == 0:  # p = 1/2
                name, level = (
                    _NAMES_OF_TIMM[_pick(words[at + 1], 15)],
                    level_of_timm(_pick(words[at + 2], 256), magnitude),
                )
                made.append(timm_operation(name, level, _sign(words[at + 3]), size, bits))
    elif augment == "3a":
        made = [three_augment(_pick(words[41], 3), _pick(words[42], 64))]
    return made + (jitter_operations(words[_JITTER:], jitter) if jitter else [])


def _torchvision(policy: str, name: str, k: int, sign: int, size: int, bits: int) -> list[Operation]:
    made = torchvision_operation(policy, name, k, sign, size, bits)
    return [] if made is None else [made]


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
        return _enhance(name, np.float32(1 + sign * float(scale.enhance[k])))
    if name == "posterize":
        return _posterize(8 - round(scale.posterize * k / scale.last))
    if name == "solarize":
        return _solarize(-(-255 * (scale.last - k) // scale.last))
    return _without_strength(name)


def timm_operation(name: str, level: int, sign: int, size: int, bits: int) -> Operation:
    """The operation ``name`` of timm's increasing set at ``level``, of which 10 have 12 fractional bits."""
    whole = 100 * _LEVEL
    if name.startswith("shear"):
        m = 3 * level * sign  # of `whole`
        return _affine(name, _rounded(m, whole, bits), _rounded(whole + m, 2 * whole, bits), bits, _MEAN)
    if name.startswith("translate"):
        shift = 45 * level * size * sign  # of 10 * `whole`
        return _affine(name, 0, _rounded(10 * whole + 2 * shift, 20 * whole, bits), bits, _MEAN)
    if name == "rotate":
        return _rotate(3 * level, _LEVEL, sign, size, bits, _MEAN)
    if name in ("brightness", "color", "contrast", "sharpness"):
        return _enhance(name, np.float32((whole + 9 * sign * level) / whole))
    if name == "posterize":
        return _posterize(max(1, 4 - 4 * level // (10 * _LEVEL)))
    if name == "solarize":
        return _solarize(256 - 256 * level // (10 * _LEVEL))
    if name == "solarize_add":
        more = np.minimum(_RAMP.astype(np.int64) + 110 * level // (10 * _LEVEL), 255).astype(np.uint8)
        return "table", (np.where(_RAMP < 128, more, _RAMP).tobytes(),)
    made = _without_strength(name)
    assert made is not None
    return made


def level_of_timm(part: int, mean: int) -> int:
    """The level of N(mean, 0.5) in the middle of ``part`` of 256 of equal weight, from 0 to 10; 12 fractional bits."""
    level = mean * _LEVEL + (-LEVEL_OFFSETS[part] if part < 128 else LEVEL_OFFSETS[255 - part])
    return max(0, min(level, MOST_MAGNITUDE_OF_TIMM * _LEVEL))


def three_augment(kind: int, k: int) -> Operation:
    """Grey, solarised at 128, or blurred by 0.1 + 1.9 ``k`` / 63 pixels."""
    return [("grey", ()), _solarize(128), ("blur", (BLUR_RADII[k], BLUR_WEIGHTS[k]))][kind]


def jitter_operations(words: Sequence[int], jitter: float) -> list[Operation]:
    """Brightness, contrast and saturation, each times 1 - jitter … 1 + jitter, in an order that the first word decides.

    The factors have 15 fractional bits, with which the blend of float32 is exact.
    """
    reach = math.floor(jitter * 2**15 + 0.5)
    factors = [2**15 - reach + (_high(word) * (2 * reach + 1) >> 32) for word in words[1:4]]
    made = [
        _enhance(name, np.float32(factor / 2**15))
        for name, factor in zip(("brightness", "contrast", "color"), factors, strict=True)
    ]
    orders = list(itertools.permutations(range(3)))
    return [made[place] for place in orders[_pick(words[0], 6)]]


def _high(word: int) -> int:
    return word >> 32


def _pick(word: int, n: int) -> int:
    """One of 0 … n - 1."""
    return (word >> 32) * n >> 32


def _sign(word: int) -> int:
    return -1 if word >> 63 else 1


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


def _enhance(name: str, alpha: np.float32) -> Operation:
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
