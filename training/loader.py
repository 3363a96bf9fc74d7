"""From a dataset to batches on the device: PyTorch's DataLoader, and the time that the step waits for it."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from aistore_data.errors import DataError, sentence
from training.dataset import Batch, BatchDataset, Counts
from training.preemption import signals_blocked

START_METHOD = "forkserver"
"""Named, not the platform's default: forking a process that has threads or a GPU context is not safe."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of ImageNet's RGB values in [0, 1], as torchvision's weights expect them."""


def start_worker_server() -> None:
    """Begin importing torch in the process that workers are forked from, while this one builds the model."""
    multiprocessing.get_context(START_METHOD).set_forkserver_preload(["training.dataset"])
    for helper in (multiprocessing.resource_tracker, multiprocessing.forkserver):
        with signals_blocked():  # anew for each: the resource tracker unblocks some of them when it has started
            helper.ensure_running()


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
        self.wait_s = 0.0

    def __next__(self) -> Batch:
        """Raises DataError for a sample that cannot be read and for a worker that died."""
        begin = time.perf_counter()
        try:
            images, labels, indices, counts = next(self._batches)
        except DataError as error:
            raise DataError(sentence(error)) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a loader worker died ({str(error).splitlines()[0]}). If the machine ran out of memory, lower "
                "data.workers or data.prefetch; if /dev/shm is full, enlarge it (docker run --shm-size)."
            ) from error
        self.wait_s += time.perf_counter() - begin
        return Batch(images, labels, indices, Counts(*counts))


def to_device(batch: Batch, device: torch.device, channels_last: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(normalised images float32 [n, 3, H, W], labels int64 [n]) on the device; does not wait for it."""
    images = batch.images.to(device, non_blocking=True)
    return normalise(images, channels_last), batch.labels.to(device, non_blocking=True)


def normalise(images: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W], (x / 255 - MEAN) / STD, on the images' device."""
    mean = torch.tensor(MEAN, device=images.device) * 255
    std = torch.tensor(STD, device=images.device) * 255
    scaled = images.float().sub_(mean).div_(std)
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
