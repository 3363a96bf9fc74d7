"""Everything random that a run decides by its seed, except the initial weights: streams of Philox4x64-10.

A stream has the key (seed, domain) and the counter (0, a, b, c), of which NumPy counts up the first word before each
block of four; NumPy promises the raw words (NEP 19). Streams with different keys or counters have nothing to do with
each other, so two uses of a seed must differ in their domain. A domain's number never changes, since a run that goes on
must draw what it would have drawn.

The pictures of ``data=synthetic`` belong to no sample and no seed: their key is (samples, side in pixels).
"""

import numpy as np

from etl.sample import RANDOM_DOMAIN

SAMPLE = RANDOM_DOMAIN
"""Crop and flip of a sample, by (index, epoch, view): drawn by ``etl/sample.py``, which imports nothing of this."""
ORDER = 1
"""The order of an epoch, by (0, epoch, 0)."""
DROPOUT = 2
"""The seed of torch's generators in a step, by (rank, epoch, step)."""
MIXING = 3
"""Mixup and CutMix, by (block of a global batch, step, epoch)."""
ERASING = 4
"""Random erasing, by (0, step, epoch), of which each place in the global batch has words of its own."""
SUBSTITUTES = 5
"""What replaces a sample that is no image, by (0, index, 0)."""
BALANCE = 6
"""Which samples an epoch has whose classes come equally often, and their order, by (0, epoch, 0)."""


def stream(seed: int, domain: int, counter: tuple[int, int, int], blocks: int = 0) -> np.random.Philox:
    """The words of one use, integers from 0 to 2**64 - 1, from word 4 * ``blocks`` on."""
    return np.random.Philox(key=[seed, domain], counter=[blocks, *counter])
