"""How long requests took, in histograms that add up over workers and ranks."""

from collections.abc import Sequence

import numpy as np

SOURCES = ("etl", "object")
BINS = 64
_FIRST_S = 1e-4
_PER_DOUBLING = 4


class Latencies:
    """Counts int64 [2, 64] of requests by source and time: a bin's limit is 2^(1/4) times that of the one before."""

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
        """Those of somebody else."""
        self.counts += other.counts

    def quantile(self, source: str, share: float) -> float:
        """Seconds that the ``share`` of the requests took at most, to 19 %; 0 if there were none."""
        counts = self.counts[SOURCES.index(source)]
        if not counts.sum():
            return 0.0
        place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
        return float(_FIRST_S * 2 ** (min(place, BINS - 1) / _PER_DOUBLING))
