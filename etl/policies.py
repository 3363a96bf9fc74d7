"""The policies: which operations a sample's random words ask for, with which strengths.

Pure functions on integers; ``etl.strengths`` turns these into what
``etl.operations`` does. The words are those of the sample's key from word 41
on, which the crop does not use; ``_high`` of a word is its uniform variable of 32 bits. A policy's name never changes
its meaning:

* ``ta_wide``: TrivialAugment (Müller and Hutter, 2021) as torchvision's ``TrivialAugmentWide``;
* ``ra``: RandAugment (Cubuk et al., 2020) as torchvision's ``RandAugment``, of ``layers`` operations of a bin of 31;
* ``aa``: AutoAugment (Cubuk et al., 2019) as torchvision's for ImageNet;
* ``3a``: 3-Augment (Touvron et al., "DeiT III", 2022): grey, solarised or blurred;
* ``ra_timm``: timm's ``rand-m9-mstd0.5-inc1``, or of another magnitude than 9, with a bit left where timm would
  posterise to none.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

from etl.operations import BILINEAR, NEAREST, Operation
from etl.policy_tables import (
    LEVEL_OFFSETS,
    POLICIES_OF_AUTOAUGMENT,
)
from etl.strengths import LEVEL, enhance, three_augment, timm_operation, torchvision_operation

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


def level_of_timm(part: int, mean: int) -> int:
    """The level of N(mean, 0.5) in the middle of ``part`` of 256 of equal weight, from 0 to 10; 12 fractional bits."""
    level = mean * LEVEL + (-LEVEL_OFFSETS[part] if part < 128 else LEVEL_OFFSETS[255 - part])
    return max(0, min(level, MOST_MAGNITUDE_OF_TIMM * LEVEL))


def jitter_operations(words: Sequence[int], jitter: float) -> list[Operation]:
    """Brightness, contrast and saturation, each times 1 - jitter … 1 + jitter, in an order that the first word decides.

    The factors have 15 fractional bits, with which the blend of float32 is exact.
    """
    reach = math.floor(jitter * 2**15 + 0.5)
    factors = [2**15 - reach + (_high(word) * (2 * reach + 1) >> 32) for word in words[1:4]]
    made = [
        enhance(name, np.float32(factor / 2**15))
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
