"""From a dataset to batches on the device: PyTorch's DataLoader, and the time that the step waits for it."""

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from aistore_data.errors import DataError, UnreachableError, sentence
from training.dataset import Batch, BatchDataset, Counts
from training.worker_server import START_METHOD

POLL_S = 1
"""Seconds after which waiting for a batch is interrupted, to see whether the run is to stop."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's RGB values in [0, 1], as torchvision's weights expect them."""


@contextmanager
def open_loader(
    dataset: BatchDataset, batches: Iterable[list[tuple[int, int]]], workers: int, prefetch: int, device: torch.device
) -> Iterator[DataLoader[Batch]]:
    """A DataLoader over ready-made batches, whose ``workers`` processes live as long as the context."""
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]  # answers __getitems__, all that the fetcher uses
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=device.type == "cuda",
        multiprocessing_context=START_METHOD if workers else None,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        worker_init_fn=_die_with_the_trainer,
        timeout=POLL_S if workers else 0,
        generator=torch.Generator(),  # its own, so that starting workers takes nothing from the global one
    )
    try:
        yield loader
    finally:
        _stop_workers(loader)


class Feed(Iterator[Batch]):
    """Batches in CPU memory, and the seconds spent waiting for the loader (``wait_s``)."""

    def __init__(self, loader: DataLoader[Batch]) -> None:
        self._batches = iter(loader)
        self._ready: deque[Batch] = deque()
        self.wait_s = 0.0
        self.lost: UnreachableError | None = None
        """Why there will be no more batches, though some are missing."""

    def fill(self, count: int = 1) -> bool:
        """Have ``count`` batches at hand; False if they have not come within about a second, or will not come.

        Raises as ``__next__``, but keeps UnreachableError in ``lost``.
        """
        begin = time.perf_counter()
        try:
            while len(self._ready) < count and not self.lost:
                self._ready.append(self._poll())
        except _NotYetError:
            pass
        except UnreachableError as error:
            self.lost = error
        self.wait_s += time.perf_counter() - begin
        return len(self._ready) >= count

    def __next__(self) -> Batch:
        """Raises DataError for a sample that cannot be read and for a worker that died."""
        while not self.fill():
            if self.lost:
                raise self.lost
        return self._ready.popleft()

    def _poll(self) -> Batch:
        try:
            batch = next(self._batches)
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
                "data.workers or data.prefetch; if /dev/shm is full, enlarge it (docker run --shm-size)."
            ) from error
        return Batch(*batch)._replace(counts=Counts(*batch[3]))


class _NotYetError(Exception):
    """The loader's timeout is over."""


def to_device(batch: Batch, device: torch.device, channels_last: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(normalised images float32 [n, 3, H, W], labels int64 [n]) on the device; does not wait for it."""
    images = batch.images.to(device, non_blocking=True)
    return normalise(images, channels_last), batch.labels.to(device, non_blocking=True)


def normalise(images: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W], (x / 255 - MEAN) / STD, on the images' device."""
    mean, std = (torch.tensor(values, device=images.device).mul(255).repeat(images.shape[2]) for values in (MEAN, STD))
    # By whole rows: over an axis of three channels a CPU takes four times as long.
    scaled = images.float().flatten(2).sub_(mean).div_(std).reshape(images.shape)
    nchw = scaled.permute(0, 3, 1, 2)  # NHWC memory seen as NCHW is exactly torch.channels_last
    return nchw if channels_last else nchw.contiguous()


def denormalise(images: torch.Tensor) -> torch.Tensor:
    """float [n, 3, H, W] as the model sees it, to [0, 1] for a person."""
    mean = torch.tensor(MEAN, device=images.device)[:, None, None]
    std = torch.tensor(STD, device=images.device)[:, None, None]
    return (images * std + mean).clamp(0, 1)


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
