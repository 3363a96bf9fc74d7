"""A batch of samples, and what it took to make it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sources.substitutes import Substitution

Keys = Sequence[tuple[int, int] | tuple[int, int, int]]
"""(epoch, index) or (epoch, index, view) of each sample of a batch, whose epochs have one spec; the view is else 0."""

SOURCES = ("etl", "object")
BINS = 64
_FIRST_S = 1e-4
_PER_DOUBLING = 4


class Counts(NamedTuple):
    """Counts of where the samples of a batch came from, and of what it took to make them."""

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
    cache: int = 0
    """Samples of ``local`` that were made of decoded photos that are kept."""


class Filled(NamedTuple):
    """What a source says of a batch whose pixels it has made: ``labels`` int64 [n], and what it took.

    ``latencies`` are those of its requests (``Latencies``), ``replaced`` the samples that are others in truth.
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


class Latencies:
    """How long requests took, to be added up over workers and ranks: counts int64 [2, 64] by source and time.

    A bin's limit is 2^(1/4) times that of the one before."""

    def __init__(self, counts: np.ndarray | None = None) -> None:
        self.counts = np.zeros((len(SOURCES), BINS), np.int64) if counts is None else counts

    @classmethod
    def from_bytes(cls, data: bytes) -> "Latencies":
        """The inverse of ``to_bytes``; of no bytes, none."""
        return cls(np.frombuffer(data, np.int32).astype(np.int64).reshape(len(SOURCES), BINS) if data else None)

    def to_bytes(self) -> bytes:
        """Small enough to travel with a batch."""
        return self.counts.astype(np.int32).tobytes()

    def count(self, source: str, seconds: Sequence[float]) -> None:
        """Requests that took so long, each."""
        if seconds:
            places = np.ceil(_PER_DOUBLING * np.log2(np.maximum(seconds, _FIRST_S) / _FIRST_S)).astype(np.int64)
            self.counts[SOURCES.index(source)] += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)

    def add(self, other: "Latencies") -> None:
        """Add the requests that another process has counted."""
        self.counts += other.counts

    def quantile(self, source: str, share: float) -> float:
        """Seconds that the ``share`` of the requests took at most, to 19 %; 0 if there were none."""
        counts = self.counts[SOURCES.index(source)]
        if not counts.sum():
            return 0.0
        place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
        return float(_FIRST_S * 2 ** (min(place, BINS - 1) / _PER_DOUBLING))
