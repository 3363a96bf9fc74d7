"""Batches in a ring: each is whole when it is handed over, and stays so as long as it was promised."""

import time
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sources.dataset import Batch, Counts, empty_batch
from training.loader.loader import Feed, Loader, open_loader
from training.loader.ring import Keys, Message, Ring
from training.loader.workers import start_worker_server

CPU = torch.device("cpu")
SIDE = 5


class Pattern:
    """Samples whose pixels tell which they are; some are slow."""

    side = SIDE

    def __len__(self) -> int:
        return 1000

    def __getitems__(self, keys: Keys, images: torch.Tensor | None = None) -> Batch:
        if images is None:
            images = empty_batch(len(keys), SIDE)
        for row, (epoch, index) in zip(images, keys, strict=True):
            row.fill_((7 * epoch + index) % 251)
            if index % 13 == 0:
                time.sleep(0.002)
        indices = torch.tensor([index for _, index in keys])
        return Batch(images, indices % 10, indices, Counts(local=len(keys)))


class Lists:
    """``count`` batches of ``batch_size``, the last one smaller."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.count, self.batch_size = count, batch_size

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Keys]:
        for number in range(self.count):
            length = self.batch_size if number < self.count - 1 else max(1, self.batch_size // 2)
            yield [(number, (number * self.batch_size + place) % 1000) for place in range(length)]


@pytest.mark.parametrize(("workers", "prefetch", "ahead"), [(0, 1, 1), (1, 1, 1), (2, 3, 1), (3, 2, 4)])
def test_batches_are_what_was_asked_for_while_they_are_held(workers: int, prefetch: int, ahead: int) -> None:
    start_worker_server()
    batches = Lists(41, 8)
    with open_loader(Pattern(), batches, workers, prefetch, CPU, ahead) as loader:
        assert loader.ring and loader.ring.slots == workers * prefetch + ahead + 2
        for _ in range(2):  # the same loader again, as validation does
            feed = Feed(loader)
            held: deque[tuple[Batch, Keys]] = deque(maxlen=loader.held)
            for keys in batches:
                held.append((next(feed), keys))
                for batch, expected in held:
                    assert batch.indices.tolist() == [index for _, index in expected]
                    assert batch.labels.tolist() == [index % 10 for _, index in expected]
                    values = [(7 * epoch + index) % 251 for epoch, index in expected]
                    assert batch.images.shape == (len(expected), SIDE, SIDE, 3)
                    assert batch.images.flatten(1).tolist() == [[value] * 75 for value in values]
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
            yield Message(number % 4, 2, (2,), b"", ())

    feed = Feed(Loader(messages(), Ring(4, 2, SIDE), CPU, held=4))  # type: ignore[arg-type]
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
        assert ring is not None and not loader.unpinned
    place = ring.images.data_ptr()
    assert calls == [("register", place, ring.size, 0), ("unregister", place)]
    runtime.cudaHostRegister = lambda *call: 2
    with open_loader(Pattern(), Lists(3, 4), 0, 1, torch.device("cuda")) as loader:
        assert "answers 2" in loader.unpinned
