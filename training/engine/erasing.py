"""Random erasing (Zhong et al., "Random Erasing Data Augmentation", 2017) with torchvision's ranges, in integers.

What is drawn is a function of (seed, epoch, step, place in the global batch) alone: words 44 p to 44 p + 43 of the
domain ERASING with the counter (0, step, epoch) are those of place p. The high 32 bits of a word are its uniform
variable. Word 0 decides whether a box is erased, words 1 + 4a … 4 + 4a are attempt a: area, aspect, top and left.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from etl.crop import Box
from etl.fixed_point import exp2_q32, log2_q32, q32
from sources.randomness import ERASING, stream

_AREA = q32(0.02), q32(0.33)
"""The smallest and the largest share of the image's area that a box may have."""
_LOG_ASPECT = log2_q32(q32(0.3)), log2_q32(q32(3.3))
"""The smallest and the largest logarithm to base 2 of a box's height / width."""
_ATTEMPTS = 10
_BLOCKS = 11
"""Blocks of four words for each place."""


def plan(
    probability: float, seed: int, epoch: int, step: int, places: range, height: int, width: int
) -> list[tuple[int, Box]]:
    """(row, box) of what is erased of the samples at ``places`` of the global batch of a step."""
    generator = stream(seed, ERASING, (0, step, epoch), blocks=_BLOCKS * places.start)
    words = generator.random_raw(4 * _BLOCKS * len(places)).reshape(len(places), -1)
    chosen = np.flatnonzero(words[:, 0] >> np.uint64(32) < q32(probability)).tolist()
    boxes = ((row, erased_box(words[row].tolist(), height, width)) for row in chosen)
    return [(row, box) for row, box in boxes if box]


def erased_box(words: Sequence[int], height: int, width: int) -> Box | None:
    """(top, left, height, width) smaller than the image on both sides; None where ten attempts find no such box."""
    for attempt in range(_ATTEMPTS):
        u_area, u_aspect, u_top, u_left = (word >> 32 for word in words[1 + 4 * attempt : 5 + 4 * attempt])
        area = height * width * (_AREA[0] + ((_AREA[1] - _AREA[0]) * u_area >> 32))
        aspect = exp2_q32(_LOG_ASPECT[0] + ((_LOG_ASPECT[1] - _LOG_ASPECT[0]) * u_aspect >> 32))
        # round(sqrt(x)) = floor((sqrt(4x) + 1) / 2); area and aspect have 32 fractional bits each.
        tall = (math.isqrt(area * aspect >> 62) + 1) >> 1
        wide = (math.isqrt(4 * area // aspect) + 1) >> 1
        if 0 < tall < height and 0 < wide < width:
            return (height - tall + 1) * u_top >> 32, (width - wide + 1) * u_left >> 32, tall, wide
    return None


def erase(inputs: torch.Tensor, boxes: Sequence[tuple[int, Box]]) -> None:
    """Set boxes of float [n, 3, H, W] to 0, which is the mean colour, in place."""
    for row, (top, left, height, width) in boxes:
        inputs[row, :, top : top + height, left : left + width].zero_()
