"""Samples of tar shards in flat arrays: put together, chosen and sorted."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sources.shards.shard import Rows

_CHUNK = 1 << 20


class Columns(NamedTuple):
    """The n samples: ``names`` uint8, one after the other, ``starts`` [n + 1] in them, and integers [n].

    ``shard`` is a place in a list of shards, ``offsets_in`` where the photo begins there, ``header_sums`` what the tar
    header before it says of itself, ``crc32`` that of the photo, 0 where nobody knows it.
    """

    names: NDArray[np.uint8]
    starts: NDArray[Any]
    labels: NDArray[Any]
    sizes: NDArray[Any]
    shard: NDArray[Any]
    offsets_in: NDArray[Any]
    header_sums: NDArray[Any]
    crc32: NDArray[Any]

    @property
    def samples(self) -> int:
        """How many there are."""
        return int(self.labels.shape[0])

    @classmethod
    def of_shard(cls, rows: Rows, shard: int) -> "Columns":
        """The samples of one shard, in its order."""
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(name) for name in rows.names], out=starts[1:])
        names = np.frombuffer(b"".join(rows.names), np.uint8)
        numbers = np.full(len(rows), shard, np.int64)
        return cls(names, starts, rows.labels, rows.sizes, numbers, rows.offsets, rows.header_sums, rows.crc32)

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """One after the other."""
        lengths = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.starts.astype(np.int64)) for part in parts)])
        others = (np.concatenate([np.asarray(part[at], np.int64) for part in parts]) for at in range(2, 8))
        return cls(np.concatenate([part.names for part in parts]), np.cumsum(lengths), *others)

    def chosen(self, places: NDArray[np.int64]) -> "Columns":
        """The samples at ``places``, in that order."""
        names, starts = [np.zeros(0, np.uint8)], np.zeros(len(places) + 1, np.int64)
        np.cumsum(np.diff(self.starts)[places], out=starts[1:])
        for begin in range(0, len(places), _CHUNK):  # the places of all bytes at once would take eight times as much
            some, ends = places[begin : begin + _CHUNK], starts[begin : begin + _CHUNK + 1]
            lengths = np.diff(ends)
            shifts = self.starts[some].astype(np.int64) - (ends[:-1] - ends[0])
            names.append(self.names[np.repeat(shifts, lengths) + np.arange(ends[-1] - ends[0])])
        return Columns(np.concatenate(names), starts, *(column[places] for column in self[2:]))

    def ordered(self) -> "Columns":
        """In the order of a manifest: bytewise by name where none comes twice, else by shard and then by name."""
        texts = self._texts()
        order = np.argsort(texts, kind="stable")
        inside = texts[order]
        if bool((inside[1:] == inside[:-1]).any()):
            order = order[np.argsort(self.shard[order], kind="stable")]
        return self if bool((np.diff(order) == 1).all()) else self.chosen(order)

    def _texts(self) -> NDArray[np.bytes_]:
        """The names as NumPy's bytes, padded by zeros, of which names in a tar have none."""
        lengths = np.diff(self.starts)
        width = max(1, int(lengths.max(initial=1)))
        padded = np.zeros((self.samples, width), np.uint8)
        for begin in range(0, self.samples, _CHUNK):
            some = lengths[begin : begin + _CHUNK]
            first, last = int(self.starts[begin]), int(self.starts[begin + len(some)])
            padded[begin : begin + _CHUNK][np.arange(width) < some[:, None]] = self.names[first:last]
        return padded.reshape(-1).view(f"S{width}")
