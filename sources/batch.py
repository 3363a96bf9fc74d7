"""A batch of samples, and what it took to make it."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sources.substitutes import Substitution

Keys = list[tuple[int, int]]
"""(epoch, index) of each sample of a batch, whose epochs have one spec."""


class Counts(NamedTuple):
    """Where the samples of a batch came from, and what it took."""

    local: int = 0
    etl: int = 0
    retries: int = 0
    fallbacks: int = 0
    """Samples made here because the ETL did not answer."""
    audits: int = 0
    """Samples of the ETL that were made here too, and compared."""
    replaced: int = 0
    """Samples in whose place another one was taken (data.on_corrupt=replace)."""
    etl_bytes: int = 0
    object_bytes: int = 0
    opened: int = 0
    """Times that a storage node's breaker opened."""
    odd: int = 0
    """Samples of files that Pillow reads, but warns of."""


class Filled(NamedTuple):
    """What a source says of a batch whose pixels it has made: ``labels`` int64 [n], and what it took.

    ``latencies`` are those of its requests (``sources.latency``), ``replaced`` the samples that are others in truth.
    """

    labels: NDArray[np.int64]
    counts: Counts
    latencies: bytes = b""
    replaced: tuple[Substitution, ...] = ()


class Batch(NamedTuple):
    """``images`` uint8 [n, H, W, 3]; ``labels`` int64 [n]; ``indices`` int64 [n], places in the manifest.

    ``latencies`` and ``replaced`` are as in ``Filled``, ``positions`` the samples' places in the order of the epoch.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    counts: Counts
    latencies: bytes = b""
    replaced: tuple[Substitution, ...] = ()
    positions: range = range(0)
