"""Batches in memory that the loader's workers and the trainer share: made in place, handed over as a number."""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch

from sources.dataset import Batch, BatchDataset, Counts
from sources.shared_memory import SharedMemory
from sources.substitutes import Substitution

Keys = list[tuple[int, int]]


class Batches(Protocol):
    """What a loader is to deliver, in order: lists of (epoch, index)."""

    @property
    def batch_size(self) -> int:
        """Samples of the largest."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Keys]: ...


class Ring:
    """``slots`` batches.

    ``images`` is uint8 [slots, batch_size, side, side, 3]; ``labels`` and ``indices`` are int64 [slots, batch_size].
    """

    def __init__(self, slots: int, batch_size: int, side: int, memory: SharedMemory | None = None) -> None:
        count, pixels = slots * batch_size, slots * batch_size * side * side * 3
        numbers = -(-pixels // 64) * 64
        self._parts = slots, batch_size, side, memory or SharedMemory(numbers + 16 * count)
        buffer = self._parts[3].buffer
        self.images = torch.frombuffer(buffer, dtype=torch.uint8, count=pixels).view(slots, batch_size, side, side, 3)
        both = torch.frombuffer(buffer, dtype=torch.int64, count=2 * count, offset=numbers)
        self.labels, self.indices = both.view(2, slots, batch_size)

    def __reduce__(self) -> tuple[Any, ...]:
        return Ring, self._parts

    @property
    def slots(self) -> int:
        """Batches that it holds."""
        return self._parts[0]

    @property
    def size(self) -> int:
        """Bytes."""
        return self._parts[3].size

    def pin(self) -> str:
        """Let copies to a GPU go on beside the trainer; "" or why that cannot be."""
        code = torch.cuda.cudart().cudaHostRegister(self.images.data_ptr(), self.size, 0)  # type: ignore[no-untyped-call]
        return "" if int(code) == 0 else f"cudaHostRegister of {self.size / 1e6:.0f} MB answers {code}"

    def unpin(self) -> None:
        """Before the memory goes."""
        torch.cuda.cudart().cudaHostUnregister(self.images.data_ptr())  # type: ignore[no-untyped-call]


class Message(NamedTuple):
    """What crosses from a worker to the trainer: which slot is ready, and what it took."""

    slot: int
    length: int
    counts: tuple[int, ...]
    latencies: bytes
    replaced: tuple[Substitution, ...]

    def batch(self, ring: Ring) -> Batch:
        """The batch, where it lies."""
        rows = slice(self.length)
        images, labels, indices = (t[self.slot, rows] for t in (ring.images, ring.labels, ring.indices))
        return Batch(images, labels, indices, Counts(*self.counts), self.latencies, self.replaced)


class Slotted:
    """``batches``, each with the slot that it is to fill: one after the other, and then from the first again."""

    def __init__(self, batches: Batches, slots: int) -> None:
        self._batches = batches
        self._slots = slots
        self._next = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[int, Keys]]:
        for keys in self._batches:
            slot, self._next = self._next, (self._next + 1) % self._slots
            yield slot, keys


class InPlace:
    """A data set that makes its batches in a ring."""

    def __init__(self, dataset: BatchDataset, ring: Ring) -> None:
        self._dataset = dataset
        self._ring = ring

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, item: tuple[int, Keys]) -> Message:
        slot, keys = item
        ring, n = self._ring, len(keys)
        batch = self._dataset.__getitems__(keys, ring.images[slot, :n])
        ring.labels[slot, :n] = batch.labels
        ring.indices[slot, :n] = batch.indices
        return Message(slot, n, tuple(batch.counts), batch.latencies, batch.replaced)
