"""Batches in a ring: each is whole when it is handed over, and stays so as long as it was promised."""

import time
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from etl import Spec
from sources.batch import Batch, Counts, Filled, Keys
from sources.source import Source, Specs
from training.loader.loader import BatchIterator, Loader, open_loader
from training.loader.ring import Message, Ring, Wanted
from training.loader.workers import start_worker_server

CPU = torch.device("cpu")
SIDE, LARGE = 5, 7


class Pattern(Source):
    """Samples whose pixels tell which they are; some are slow. They are larger from epoch 20 on."""

    specs = Specs(Spec.val(SIDE), ((20, Spec.val(LARGE)),))
    made_here = True

    def __len__(self) -> int:
        return 1000

    def locate(self, index: int) -> str:
        return str(index)

    def fill(self, keys: Keys, rows: NDArray[np.uint8]) -> Filled:
        for row, (epoch, index) in zip(rows, keys, strict=True):
            row.fill((7 * epoch + index) % 251)
            if index % 13 == 0:
                time.sleep(0.002)
        return Filled(np.array([index % 10 for _, index in keys]), Counts(local=len(keys)))


class Lists:
    """``count`` batches of ``batch_size``, the last one smaller."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count, self.batch_size = count, batch_size

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Wanted]:
        for number in range(self.count):
            length = self.batch_size if number < self.count - 1 else max(1, self.batch_size // 2)
            keys = [(number, (number * self.batch_size + place) % 1000) for place in range(length)]
            yield Wanted(keys, range(number, number + length))


@pytest.mark.parametrize(("workers", "prefetch", "ahead"), [(0, 1, 1), (1, 1, 1), (2, 3, 1), (3, 2, 4)])
def test_batches_are_what_was_asked_for_while_they_are_held(workers: int, prefetch: int, ahead: int) -> None:
    start_worker_server()
    batches = Lists(41, 8)
    with open_loader(Pattern(), batches, workers, prefetch, CPU, ahead) as loader:
        assert loader.ring.slots == workers * prefetch + ahead + 2
        for _ in range(2):  # the same loader again, as validation does
            feed = BatchIterator(loader)
            held: deque[tuple[Batch, Wanted]] = deque(maxlen=loader.held)
            for wanted in batches:
                held.append((next(feed), wanted))
                for batch, (expected, positions) in held:
                    assert batch.positions == positions
                    side = SIDE if expected[0][0] < 20 else LARGE
                    assert batch.indices.tolist() == [index for _, index in expected]
                    assert batch.labels.tolist() == [index % 10 for _, index in expected]
                    values = [(7 * epoch + index) % 251 for epoch, index in expected]
                    assert batch.images.shape == (len(expected), side, side, 3)
                    assert batch.images.flatten(1).tolist() == [[value] * (3 * side**2) for value in values]
                    assert batch.counts.local == len(expected)
            with pytest.raises(StopIteration):
                next(feed)


def test_a_slot_is_not_used_again_before_its_copy_is_over() -> None:
    """The loader may overwrite the batch of ``held`` requests ago: its copy, and those before, must be waited for."""
    events: list[str] = []

    class Event:
        def __init__(self, number: int) -> None:
            self.number = number

        def synchronize(self) -> None:
            events.append(f"copied {self.number}")

    def messages() -> Iterator[Message]:
        for number in range(8):
            events.append(f"asked {number}")
            yield Message(number % 4, SIDE, range(2), (2,), b"", ())

    feed = BatchIterator(Loader(messages(), Ring(4, 2, SIDE), CPU, held=4))  # type: ignore[arg-type]
    for number in range(8):
        next(feed)
        feed._copies.append(Event(number))  # type: ignore[arg-type]
    for number in range(4, 8):
        assert events.index(f"copied {number - 4}") < events.index(f"asked {number}")
    assert "copied 4" not in events  # nor is anything waited for that need not be


def test_pinned_memory_is_registered_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    runtime = SimpleNamespace(
        cudaHostRegister=lambda *call: calls.append(("register", *call)) or 0,
        cudaHostUnregister=lambda *call: calls.append(("unregister", *call)) or 0,
    )
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    with open_loader(Pattern(), Lists(3, 4), 0, 1, torch.device("cuda")) as loader:
        ring = loader.ring
        assert not loader.unpinned
    place = ring.images.data_ptr()
    assert calls == [("register", place, ring.size, 0), ("unregister", place)]
    runtime.cudaHostRegister = lambda *call: 2
    with open_loader(Pattern(), Lists(3, 4), 0, 1, torch.device("cuda")) as loader:
        assert "answers 2" in loader.unpinned
