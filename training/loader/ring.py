"""Batches in memory that the loader's workers and the trainer share: made in place, handed over as a number."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from sources.batch import Batch, Counts, Keys
from sources.shared_memory import SharedMemory
from sources.source import Source
from sources.substitutes import Substitution


class Wanted(NamedTuple):
    """A batch that a loader is to deliver: its samples, and their places in the order of the epoch."""

    keys: Keys
    positions: range


class Batches(Protocol):
    """What a loader is to deliver, in order."""

    @property
    def batch_size(self) -> int:
        """Return the number of samples in the largest batch."""
        ...

    def __iter__(self) -> Iterator[Wanted]: ...


class Ring:
    """``slots`` batches of up to ``batch_size`` samples of up to ``side`` x ``side`` pixels.

    ``images`` is uint8 [slots, batch_size * side * side * 3], of which a batch of smaller samples takes the beginning;
    ``labels`` and ``indices`` are int64 [slots, batch_size].
    """

    def __init__(self, slots: int, batch_size: int, side: int, memory: SharedMemory | None = None) -> None:
        count, pixels = slots * batch_size, slots * batch_size * side * side * 3
        numbers = -(-pixels // 64) * 64
        self._parts = slots, batch_size, side, memory or SharedMemory(numbers + 16 * count)
        buffer = self._parts[3].buffer
        self.images = torch.frombuffer(buffer, dtype=torch.uint8, count=pixels).view(slots, -1)
        both = torch.frombuffer(buffer, dtype=torch.int64, count=2 * count, offset=numbers)
        self.labels, self.indices = both.view(2, slots, batch_size)

    def __reduce__(self) -> tuple[Any, ...]:
        return Ring, self._parts

    @property
    def slots(self) -> int:
        """Return how many batches the ring holds."""
        return self._parts[0]

    @property
    def size(self) -> int:
        """Return the bytes of memory that the ring takes."""
        return self._parts[3].size

    def rows(self, slot: int, length: int, side: int) -> torch.Tensor:
        """A slot's memory for ``length`` samples, uint8 [length, side, side, 3]."""
        return self.images[slot, : length * side * side * 3].view(length, side, side, 3)

    def pin(self) -> str:
        """Let copies to a GPU go on beside the trainer; "" or why that cannot be."""
        code = torch.cuda.cudart().cudaHostRegister(self.images.data_ptr(), self.size, 0)  # type: ignore[no-untyped-call]
        return "" if int(code) == 0 else f"cudaHostRegister of {self.size / 1e6:.0f} MB answers {code}"

    def unpin(self) -> None:
        """Unregister the memory from CUDA. Call it before the memory is freed."""
        torch.cuda.cudart().cudaHostUnregister(self.images.data_ptr())  # type: ignore[no-untyped-call]


class Message(NamedTuple):
    """What crosses from a worker to the trainer: which slot is ready, of which samples, and what it took."""

    slot: int
    side: int
    positions: range
    counts: tuple[int, ...]
    latencies: bytes
    replaced: tuple[Substitution, ...]

    def batch(self, ring: Ring) -> Batch:
        """Return the batch as views of the ring's memory."""
        slot, n = self.slot, len(self.positions)
        images, labels, indices = ring.rows(slot, n, self.side), ring.labels[slot, :n], ring.indices[slot, :n]
        return Batch(images, labels, indices, Counts(*self.counts), self.latencies, self.replaced, self.positions)


@dataclass
class SlotBatchSampler:
    """``batches``, each with the slot that it is to fill: one after the other, and then from the first again."""

    batches: Batches
    slots: int
    next: int = 0
    """The slot of the next one."""

    def __iter__(self) -> Iterator[tuple[int, Wanted]]:
        for wanted in self.batches:
            slot, self.next = self.next, (self.next + 1) % self.slots
            yield slot, wanted


@dataclass(frozen=True)
class RingDataset:
    """A source whose batches are made in a ring."""

    source: Source
    ring: Ring

    def __getitems__(self, item: tuple[int, Wanted]) -> Message:
        slot, (keys, positions) = item
        ring, n, side = self.ring, len(keys), self.source.specs.at(keys[0][0]).size
        assert len(positions) == n
        labels, counts, latencies, replaced = self.source.fill(keys, ring.rows(slot, n, side).numpy())
        ring.labels[slot, :n] = torch.from_numpy(labels)
        ring.indices[slot, :n] = torch.tensor([key[1] for key in keys])
        return Message(slot, side, positions, tuple(counts), latencies, replaced)
