"""Mixup and CutMix, two samples at a time: the same mixtures for any number of processes and after every kill.

The sample at place p of a global batch is mixed with that at place p XOR 1. All samples of a block of 128 places are
mixed in the same way, which is a function of (seed, epoch, step, block) alone. A process whose passes have an even
number of samples has every pair whole, and knows nothing of the other processes.

What is drawn is integers. The words of a block are those of the domain MIXING with the counter (block, step, epoch);
the high 32 bits of a word are its uniform variable:

- word 0: whether the block is mixed; word 1: whether by CutMix, where both are on;
- words 2 and 3: column and row of the centre of CutMix's box;
- from word 4 on: the share of each sample in its mixture, by ``beta``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from etl.crop import Box
from etl.fixed_point import ONE, exp2_q32, log2_q32, q32
from sources.randomness import MIXING, stream
from training.config.train_options import TrainConfig

BLOCK = 128
"""Places of a global batch that are mixed in the same way."""

SHARE_BITS = 24
"""Bits of a share, few enough that it and its complement to 1 are exact in float32."""

_WHOLE = 1 << SHARE_BITS
_TRIES = 32
"""Pairs of words; that all of them are refused has a probability below 2 ** -31."""


@dataclass(frozen=True)
class Mix:
    """How some rows of a batch are mixed, each pair in the same way."""

    first: int
    last: int
    """Rows ``first`` to ``last`` - 1; both are even."""
    share: int
    """The share of the sample itself, in units of 2 ** -24; its partner has the rest."""
    box: Box | None
    """CutMix: (top, left, height, width) of what comes from the partner. None: mixup."""


class Mixture(NamedTuple):
    """Targets of samples that are mixed: ``labels`` int64 [n] with ``shares`` float32 [n], the rest ``partners``'."""

    labels: torch.Tensor
    partners: torch.Tensor
    shares: torch.Tensor


def plan(
    config: TrainConfig, seed: int, epoch: int, step: int, places: range, height: int, width: int
) -> tuple[Mix, ...]:
    """What happens to the samples at ``places`` of the global batch of a step, images of height x width pixels."""
    assert places.start % 2 == 0 and len(places) % 2 == 0, f"{places} has pairs that are not whole"
    found = []
    for block in range(places.start // BLOCK, -(-places.stop // BLOCK)):
        words: list[int] = stream(seed, MIXING, (block, step, epoch)).random_raw(4 + 2 * _TRIES).tolist()
        if words[0] >> 32 >= q32(config.mix_prob):
            continue
        cut = config.cutmix > 0 and (config.mixup == 0 or words[1] >> 32 < q32(config.mix_switch))
        share, box = beta(config.cutmix if cut else config.mixup, words[4:]), None
        if cut:
            box = cut_box(share, words[2], words[3], height, width)
            share = _WHOLE - (2 * box[2] * box[3] * _WHOLE + height * width) // (2 * height * width)
        begin, end = max(block * BLOCK, places.start), min((block + 1) * BLOCK, places.stop)
        found.append(Mix(begin - places.start, end - places.start, share, box))
    return tuple(found)


def beta(alpha: float, words: Sequence[int]) -> int:
    """A draw of Beta(alpha, alpha), 0 < alpha <= 1, in 2 ** -24, from 64 words.

    Jöhnk's method ("Erzeugung von betaverteilten und gammaverteilten Zufallszahlen", 1964) on logarithms: of uniform U
    and V, x = U ** (1 / alpha) and y = V ** (1 / alpha) are taken where x + y <= 1, and x / (x + y) is the answer.
    """
    if alpha == 1:
        return ((words[0] >> 32) + 128) >> 8
    scale = q32(alpha)
    for u, v in zip(words[::2], words[1::2], strict=True):
        # Halves of odd integers below 2 ** 33, whose logarithms are negative and finite.
        x, y = (((log2_q32(word >> 31 | 1) - ONE) << 32) // scale for word in (u, v))
        if exp2_q32(x) + exp2_q32(y) <= ONE:
            larger = ((1 << 64) // (ONE + exp2_q32(-abs(x - y))) + 128) >> 8
            return larger if x >= y else _WHOLE - larger
    return _WHOLE // 2


def cut_box(share: int, column: int, row: int, height: int, width: int) -> Box:
    """CutMix's box of an area of 1 - ``share`` around a point drawn by the two words, as far as it is in the image."""
    x, y = (column >> 32) * width >> 32, (row >> 32) * height >> 32
    half_width, half_height = (math.isqrt(side * side * (_WHOLE - share) >> SHARE_BITS + 2) for side in (width, height))
    left, top = max(x - half_width, 0), max(y - half_height, 0)
    return top, left, min(y + half_height, height) - top, min(x + half_width, width) - left


def swapped(rows: torch.Tensor) -> torch.Tensor:
    """Each row's partner, in memory of its own."""
    partners = torch.empty_like(rows)
    partners[0::2], partners[1::2] = rows[1::2], rows[0::2]
    return partners


def paste(images: torch.Tensor, mixes: Sequence[Mix]) -> torch.Tensor:
    """Apply CutMix to uint8 [n, H, W, 3], which stay as they are."""
    boxes = [(mix, mix.box) for mix in mixes if mix.box]
    mixed = images.clone() if boxes else images
    for mix, (top, left, height, width) in boxes:
        here = slice(mix.first, mix.last), slice(top, top + height), slice(left, left + width)
        mixed[here] = swapped(images[here])
    return mixed


def blend(inputs: torch.Tensor, mixes: Sequence[Mix]) -> None:
    """Apply mixup to float [n, 3, H, W], in place."""
    for mix in mixes:
        if not mix.box:
            rows, share = inputs[mix.first : mix.last], mix.share / _WHOLE
            partners = swapped(rows).mul_(1 - share)
            rows.mul_(share).add_(partners)


def mixture(labels: torch.Tensor, mixes: Sequence[Mix]) -> Mixture:
    """The targets; a sample that is not mixed has a share of 1."""
    shares = torch.ones(len(labels), device=labels.device)
    for mix in mixes:
        shares[mix.first : mix.last].fill_(mix.share / _WHOLE)
    return Mixture(labels, swapped(labels), shares)
