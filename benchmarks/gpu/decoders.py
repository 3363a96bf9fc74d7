"""From JPEGs to samples on the device, without a model: ours, and what decodes on the GPU itself.

    python -m benchmarks.gpu.decoders loader|nvjpeg|dali SETTINGS

``loader`` is data=imagefolder to the device, without and with a JPEG index; ``nvjpeg`` is torchvision's ``decode_jpeg``
with a GPU, alone and with the crop, resize and flip of v2; ``dali`` reads, decodes, crops, resizes and normalises on
the GPU. A peer that is not installed is named, and is no failure.
"""

import io
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from benchmarks.gpu.parts import Line, Settings, answering, row_of
from benchmarks.gpu.photos import data_set
from benchmarks.loop import best_device, now
from benchmarks.results import Row, Table, why
from etl.sample import native
from training.config.data_options import DataConfig
from training.engine.numerics import cpu_share
from training.loader.loader import BatchIterator, open_loader
from training.loader.order import TrainBatches
from training.loader.workers import start_worker_server
from training.processes.world import World

OURS = "imagenet-ais"
_LIST, _PEERS_PHOTOS = 64, 320
"""Photos that nvJPEG is given at a time, and all together: it takes a while to draw their crops."""
_CHUNKS = 5
"""In which the time of a way is measured."""


def rates(counts: Iterator[int], warm: int, seconds: float, device: torch.device) -> list[float]:
    """Images a second of ``_CHUNKS`` chunks, after ``warm`` batches; ``counts``: of the images in each batch."""
    for _ in range(warm):
        next(counts)
    found = []
    for _ in range(_CHUNKS if seconds else 1):
        begin_s, images = now(device)[1], 0
        while not images or time.perf_counter() - begin_s < seconds / _CHUNKS:
            images += next(counts)
        found.append(images / (now(device)[1] - begin_s))
    return found


def loader(settings: Settings, device: torch.device) -> Iterator[Row]:
    """Ours, in the batches of training."""
    workers, prefetch = cpu_share(settings.workers, World()), DataConfig().prefetch
    for indexed in (False, True):
        source = data_set(Path(settings.photos), indexed, workers)
        batches = TrainBatches(len(source), settings.batch, 0, 100_000)
        with open_loader(source, batches, workers, prefetch, device) as opened:
            feed = BatchIterator(opened)
            counts = (len(feed.to_device(batch)[0]) for batch in feed)
            # As many as may lie ready, and one of each worker.
            found = rates(counts, workers * (prefetch + 1), settings.seconds, device)
        decoder = "" if native() else ", by Pillow"
        yield Row(f"{OURS}{', index' * indexed}", found, f"data.workers={workers}{decoder}")


def nvjpeg(settings: Settings, device: torch.device) -> Iterator[Row]:
    """torchvision's, in lists."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    from benchmarks.decode import jobs_of

    name = "nvJPEG, torchvision" if device.type == "cuda" else "torchvision, CPU"

    def decode(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return decode_jpeg(tensors, ImageReadMode.RGB, device=device)

    def bytes_of(data: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    try:
        decode([bytes_of(buffer.getvalue())])
    except Exception as error:  # torchvision's builds lack one thing or another
        yield Row(f"{name}, decoded alone", failed=f"not installed: {why(error)}")
        return
    paths = sorted(path for path in (Path(settings.photos) / "train").rglob("*") if path.is_file())
    taken, refused = [], 0
    for job in jobs_of(paths[: min(_PEERS_PHOTOS, 4 * settings.batch)], "train"):
        try:
            decode([data := bytes_of(job.data)])
        except RuntimeError:  # such as CMYK
            refused += 1
        else:
            taken.append((data, job))
    note = f"one process, lists of {_LIST}" + f"; {refused} of {len(taken) + refused} photos refused" * (refused > 0)
    parts = [taken[start : start + _LIST] for start in range(0, len(taken), _LIST)]

    def decoded() -> Iterator[int]:
        for part in itertools.cycle(parts):
            yield len(decode([data for data, _ in part]))

    def cropped() -> Iterator[int]:
        for part in itertools.cycle(parts):
            made = []
            for image, (_, job) in zip(decode([data for data, _ in part]), part, strict=True):
                assert job.box
                left, top, width, height = job.box
                crop = functional.resized_crop(image, top, left, height, width, [224, 224], antialias=True)
                made.append(functional.hflip(crop) if job.flip else crop)
            yield len(torch.stack(made))

    yield Row(f"{name}, decoded alone", rates(decoded(), len(parts), settings.seconds, device), note)
    yield Row(f"{name}, and v2's crop", rates(cropped(), 1, settings.seconds, device), note)


def dali(settings: Settings, device: torch.device) -> Iterator[Row]:
    """As ``benchmarks.loader`` has it for a CPU."""
    from benchmarks.loader import dali as batches_of_dali

    gpu = device.type == "cuda"
    name = "DALI, GPU" if gpu else "DALI, CPU"
    workers = cpu_share(settings.workers, World())
    batches = batches_of_dali(Path(settings.photos), workers, 0, settings.batch, gpu)
    try:
        first = next(batches)
    except ImportError:
        yield Row(name, failed="not installed: pip install nvidia-dali-cuda120, or run this by build/bench/bin/python")
        return
    assert first[0].device.type == device.type
    counts = (len(images) for images, _ in batches)
    yield Row(name, rates(counts, 4, settings.seconds, device), f"{workers} threads; floats; other pixels")


WAYS: dict[str, Callable[[Settings, torch.device], Iterator[Row]]] = {"loader": loader, "nvjpeg": nvjpeg, "dali": dali}


def main(way: str, text: str) -> int:
    """The command line of a part."""
    answer: Callable[[Line], None] = answering()
    settings, device = Settings.of(text), best_device()
    start_worker_server()
    torch.set_num_threads(1)
    what = f"From JPEGs to samples on the device, without a model; {settings.about_photos}"
    for row in WAYS[way](settings, device):
        answer(row_of(Table("decoders", what, "images/s", [row], OURS, "more")))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
