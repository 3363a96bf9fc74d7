"""From a dataset to batches on the device: PyTorch's DataLoader, and the time that the step waits for it."""

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch.utils.data import DataLoader

from sources.batch import Batch
from sources.errors import DataError, sentence
from sources.source import Source
from training.loader.ring import Batches, Ring, RingDataset, SlotBatchSampler
from training.loader.workers import START_METHOD
from training.processes.preemption import defer_signals

POLL_S = 1
"""Seconds after which waiting for a batch is interrupted, to see whether the run is to stop."""


@dataclass(frozen=True)
class Loader:
    """A DataLoader of whole batches, and the ring in which it makes them."""

    batches: "DataLoader[Any] | _ThreadedLoader"
    ring: Ring
    device: torch.device
    held: int
    """Batches that may be in use, or on their way to the device, while the next one is asked for."""
    unpinned: str = ""
    """Why the ring could not be pinned for a GPU."""


@contextmanager
def open_loader(
    source: Source, batches: Batches, workers: int, prefetch: int, device: torch.device, ahead: int = 1
) -> Iterator[Loader]:
    """A loader whose ``workers`` processes live as long as the context.

    ``ahead``: how many batches are asked for at a time. Memory: ``workers * prefetch + ahead + 2`` batches, and no more
    however slow the trainer is.
    """
    held = ahead + 2
    slots = workers * prefetch + held
    ring = Ring(slots, batches.batch_size, source.specs.largest)
    unpinned = ring.pin() if device.type == "cuda" else ""
    loader: DataLoader[Any] = DataLoader(
        RingDataset(source, ring),  # type: ignore[arg-type]  # answers __getitems__, which is enough
        batch_sampler=SlotBatchSampler(batches, slots),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_as_is,
        multiprocessing_context=START_METHOD if workers else None,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=_die_with_the_trainer,
        timeout=POLL_S if workers else 0,
        generator=torch.Generator(),  # its own, so that starting workers takes nothing from the global one
    )
    in_thread = None if workers else _ThreadedLoader(loader)
    try:
        yield Loader(in_thread or loader, ring, device, held, unpinned)
    finally:
        source.end()
        if in_thread:
            in_thread.close()
        _stop_workers(loader)
        if device.type == "cuda" and not unpinned:
            ring.unpin()


class BatchIterator(Iterator[Batch]):
    """Batches in CPU memory, and the seconds spent waiting for the loader (``wait_s``).

    A batch is valid while no more than ``loader.held - 1`` others are asked for after it: its memory is used again.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._batches = iter(loader.batches)
        self._ready: deque[Batch] = deque()
        self._copies: deque[torch.cuda.Event] = deque()
        self.wait_s = 0.0
        self.lost: Exception | None = None
        """Why there will be no more batches, though some are missing."""

    def fill(self, count: int = 1) -> bool:
        """Have ``count`` batches at hand; False if they have not come within about a second, or will not come.

        Raises nothing but StopIteration at the end: an error is kept in ``lost``, for all ranks to hear of it.
        """
        begin = time.perf_counter()
        try:
            while len(self._ready) < count and not self.lost:
                self._ready.append(self._poll())
        except _NotYetError:
            pass
        except StopIteration:
            raise
        except Exception as error:
            self.lost = error
        self.wait_s += time.perf_counter() - begin
        return len(self._ready) >= count

    def __next__(self) -> Batch:
        """Raises DataError for a sample that cannot be read and for a worker that died."""
        while not self.fill():
            if self.lost:
                raise self.lost
        return self._ready.popleft()

    def to_device(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(images uint8 [n, H, W, 3], labels int64 [n]) on the device; does not wait for it.

        For a GPU every batch goes through here, in its turn.
        """
        device = self._loader.device
        images = batch.images.to(device, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
        if device.type == "cuda":
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            self._copies.append(copied)
        return images, labels

    def _poll(self) -> Batch:
        # The loader may fill the slot that it gave ``held`` batches ago as soon as it is asked for the next one.
        while len(self._copies) > self._loader.held - 1 - len(self._ready):
            self._copies.popleft().synchronize()
        try:
            with defer_signals():  # for POLL_S at most
                message = next(self._batches)
        except DataError as error:
            raise type(error)(sentence(error)) from None
        except StopIteration:
            if self._ready:
                raise _NotYetError from None
            raise
        except RuntimeError as error:
            if "DataLoader timed out" in str(error):
                raise _NotYetError from None
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a loader worker died ({str(error).splitlines()[0]}). If the machine ran out of memory, lower "
                "data.workers or data.prefetch."
            ) from error
        batch: Batch = message.batch(self._loader.ring)
        return batch


class _NotYetError(Exception):
    """Raised when the loader's timeout is over before a batch is there."""


class _ThreadedLoader:
    """A loader without workers: a thread makes each batch on request, so that waiting for it can be interrupted."""

    def __init__(self, batches: DataLoader[Any]) -> None:
        self._batches = batches
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[Any]:
        """Begin with the first batch; this ends a former iteration."""
        self.close()
        self._asked, self._made = SimpleQueue[bool](), SimpleQueue[tuple[Any, BaseException | None]]()
        self._pending = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __next__(self) -> Any:
        """Raises _NotYetError after POLL_S; the same batch is waited for the next time. Else as the loader."""
        if not self._pending:
            self._asked.put(True)
            self._pending = True
        try:
            batch, error = self._made.get(timeout=POLL_S)
        except Empty:
            raise _NotYetError from None
        self._pending = False
        if error is not None:
            raise error
        return batch

    def close(self) -> None:
        """End the thread, unless it waits for what does not come."""
        if self._thread:
            self._asked.put(False)
            self._thread.join(2 * POLL_S)

    def _work(self) -> None:
        batches = iter(self._batches)
        while self._asked.get():
            try:
                self._made.put((next(batches), None))
            except BaseException as error:
                self._made.put((None, error))


def _stop_workers(loader: Any) -> None:
    """End the workers now: the SIGTERM by which the interpreter would end them at its exit is blocked there."""
    iterator = loader._iterator
    if iterator is not None and hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()
        for worker in iterator._workers:
            if worker.is_alive():  # stuck, in a read that hangs for example
                worker.kill()


def _die_with_the_trainer(worker_id: int) -> None:
    """Watch the trainer from a thread: DataLoader's own watch is on the fork server, which the workers keep alive."""
    trainer = multiprocessing.parent_process()
    assert trainer is not None

    def wait() -> None:
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _as_is(batch: Any) -> Any:
    return batch
