"""Batches on their way to a GPU: the ring is pinned, and no slot is filled again before its copy is over."""

import pytest
import torch

from tests.support.devices import GPU, NEEDS_GPU, device_of
from tests.unit.test_ring import LARGE, SIDE, Lists, Pattern
from training.loader.loader import BatchIterator, open_loader
from training.loader.workers import start_worker_server


@pytest.mark.parametrize("device", [GPU])
def test_the_ring_is_pinned_as_long_as_its_loader_is_open(device: str) -> None:
    with open_loader(Pattern(), Lists(3, 4), 0, 1, device_of(device)) as loader:
        ring = loader.ring
        assert loader.unpinned == ""
        assert ring.images.is_pinned() and ring.labels.is_pinned()
    assert not ring.images.is_pinned()
    with open_loader(Pattern(), Lists(3, 4), 0, 1, device_of(device)) as loader:  # and the next one can be, too
        assert loader.unpinned == "" and loader.ring.images.is_pinned()


@pytest.mark.parametrize(
    ("device", "workers"),
    [("cpu", 0), pytest.param("cuda", 0, marks=NEEDS_GPU), pytest.param("cuda", 2, marks=NEEDS_GPU)],
)
def test_batches_arrive_whole_on_a_device_that_lags_behind(device: str, workers: int) -> None:
    """Each copy stands behind milliseconds of work in the GPU's queue; the loader could long have filled its slot."""
    where, found = device_of(device), []
    busy = torch.full((2048 if device == "cuda" else 2,) * 2, 1e-4, device=where)
    start_worker_server()
    batches = Lists(32, 8)
    with open_loader(Pattern(), batches, workers, 2, where) as loader:
        feed = BatchIterator(loader)
        for keys, _ in batches:
            batch = next(feed)
            for _ in range(20):
                busy = (busy @ busy).clamp(max=1e-4)
            images, labels = feed.to_device(batch)
            found.append((keys, images.clone(), labels.clone()))
        assert busy.isfinite().all()
    for keys, images, labels in found:
        side = SIDE if keys[0][0] < 20 else LARGE
        assert images.device == labels.device == where
        assert images.shape == (len(keys), side, side, 3)
        assert images.flatten(1).tolist() == [[(7 * epoch + index) % 251] * (3 * side**2) for epoch, index in keys]
        assert labels.tolist() == [index % 10 for _, index in keys]
