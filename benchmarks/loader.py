"""From a folder of real photos to batches: images per second, CPU time of all processes and memory, beside its peers.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.loader [--workers 2] [--repeats 3] [--images 2000]

FOLDER holds imagenet-sample.tar. All make RandomResizedCrop(224) and a flip of shuffled photos, with as many worker
processes, or threads where the peer has threads. ImageFolder, webdataset and mosaicml-streaming run torchvision's
default transforms on Pillow and yield normalised floats, as their users have it. Ours are uint8 batches, as they go to
a GPU; "+ normalise" adds what a CPU then has to do. The table says who does other work. Rounds are interleaved; each
way has processes of its own, stopped while others are measured, and counts between two moments of one long epoch, when
its workers are up and ahead. ``benchmarks.growth`` asks for other batches, sizes and numbers of names.
"""

import itertools
import multiprocessing
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import compare, heap_mb, photo_folder, reply, session_cpu_s, session_pss_mb
from benchmarks.results import Row, Table, alone, begin, parser
from sources.manifest import Manifest

BATCH, SIZE = 50, 224
PREFETCH = 4
BASELINE = "ImageFolder + DataLoader"
OURS, NORMALISED = "imagenet-ais", "imagenet-ais + normalise"
PEERS = {
    "webdataset": "webdataset",
    "mosaicml-streaming": "mosaicml-streaming",
    "DALI, CPU": "nvidia-dali-cuda120",
    "FFCV": "ffcv",
}
"""Each with its package."""
NOTES = {
    BASELINE: "floats",
    OURS: "uint8, as for a GPU; samples repeatable by key",
    NORMALISED: "floats",
    "webdataset": "floats; shuffles in a buffer of 1,000",
    "mosaicml-streaming": "floats",
    "DALI, CPU": "floats; other pixels (its own resize), threads instead of processes",
    "FFCV": "uint8; no antialiasing, JPEGs encoded anew at quality 90, threads instead of processes",
}


def torchvision_transform() -> Callable[[Any], Any]:
    """The default of torchvision's users, and of pytorch/examples."""
    from torchvision import transforms

    from training.model.bundle import MEAN, STD

    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    return transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])


def imagefolder(root: Path, workers: int, images: int, batch_size: int = BATCH, names: int = 0) -> Iterator[Any]:
    """torchvision's ImageFolder behind a DataLoader; its list has at least so many names."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(root / "train"), torchvision_transform())
    paths = itertools.islice(itertools.cycle(dataset.samples), max(names, images + batch_size))
    # Strings of their own, as a folder of so many files makes them.
    dataset.samples = [(path[:1] + path[1:], label) for path, label in paths]
    yield from DataLoader(dataset, batch_size, shuffle=True, num_workers=workers)


def repeated(manifest: Manifest, names: int) -> Manifest:
    """A manifest of ``names`` samples over the same files, in flat arrays as any other."""
    times = -(-names // len(manifest))
    lengths = np.tile(np.diff(manifest.offsets), times)[:names]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Manifest(
        np.tile(manifest.names, times)[: offsets[-1]], offsets, np.tile(manifest.labels, times)[:names],
        np.tile(manifest.sizes, times)[:names], np.tile(manifest.checksums, times)[:names], manifest.classes,
    )  # fmt: skip


def ours(
    root: Path, workers: int, images: int, batch_size: int = BATCH, names: int = 0, size: int = SIZE,
    to_float: bool = False,
) -> Iterator[Any]:  # fmt: skip
    """data=imagefolder, of a manifest of so many names."""
    import torch

    from etl import Spec
    from sources.folder import FolderReader, scan_folder
    from sources.samples import SampleDataset
    from sources.shared_memory import share
    from training.loader.loader import BatchIterator, open_loader
    from training.loader.order import TrainBatches
    from training.loader.workers import start_worker_server
    from training.model.bundle import MEAN, STD, normalise

    if workers:
        start_worker_server()
    found = scan_folder(root)[0]
    manifest = share(repeated(found, names or len(found)))
    dataset = SampleDataset(FolderReader(root / "train", manifest), manifest, Spec.train(size), seed=0)
    order = TrainBatches(len(manifest), batch_size, seed=0, epochs=2 + images // len(manifest))
    with open_loader(dataset, order, workers, PREFETCH, torch.device("cpu")) as loader:
        for batch in BatchIterator(loader):
            yield (normalise(batch.images, MEAN, STD, channels_last=True) if to_float else batch.images), batch.labels


def webdataset(root: Path, workers: int, images: int) -> Iterator[Any]:
    """Tar files of the photos' own bytes, eight, so that every worker has some."""
    import webdataset as wds
    from torchvision.datasets import ImageFolder

    folder = root / "webdataset"
    if not folder.exists():
        folder.mkdir()
        with wds.ShardWriter(f"{folder}/%02d.tar", maxcount=125, verbose=0) as shards:
            for number, (path, label) in enumerate(ImageFolder(str(root / "train")).samples):
                shards.write({"__key__": f"{number:07d}", "jpg": Path(path).read_bytes(), "cls": label})
    dataset = wds.WebDataset(sorted(map(str, folder.glob("*.tar"))), shardshuffle=8).repeat().shuffle(1000)
    dataset = dataset.decode("pilrgb").to_tuple("jpg", "cls").map_tuple(torchvision_transform(), int).batched(BATCH)
    yield from wds.WebLoader(dataset, batch_size=None, num_workers=workers)


def streaming(root: Path, workers: int, images: int) -> Iterator[Any]:
    """A local MDS data set of the photos' own bytes, read by the class that StreamingImageNet is."""
    from PIL import Image
    from streaming import MDSWriter
    from streaming.vision.base import StreamingVisionDataset
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    folder = root / "mds"
    if not folder.exists():
        with MDSWriter(out=str(folder), columns={"x": "jpeg", "y": "int"}) as shards:
            for path, label in ImageFolder(str(root / "train")).samples:
                with Image.open(path) as image:
                    shards.write({"x": image, "y": label})
    size = (1 + images // 1000) * 1000

    def transform(image: Any) -> Any:
        return torchvision(image.convert("RGB"))

    torchvision = torchvision_transform()
    dataset = StreamingVisionDataset(
        local=str(folder), shuffle=True, batch_size=BATCH, transform=transform, epoch_size=size
    )
    yield from DataLoader(dataset, BATCH, num_workers=workers)


def dali(root: Path, workers: int, images: int, batch_size: int = BATCH, gpu: bool = False) -> Iterator[Any]:
    """Its file reader, its decoder of random crops, and normalisation, in threads; with ``gpu`` on a GPU but for files.

    A GPU decodes by nvJPEG.
    """
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    from training.model.bundle import MEAN, STD

    device_id = 0 if gpu else None

    @pipeline_def(batch_size=batch_size, num_threads=workers, device_id=device_id)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        data, labels = fn.readers.file(file_root=str(root / "train"), random_shuffle=True, name="photos")
        image = fn.decoders.image_random_crop(
            data, device="mixed" if gpu else "cpu", output_type=types.RGB,
            random_area=[0.08, 1], random_aspect_ratio=[3 / 4, 4 / 3],
        )  # fmt: skip
        image = fn.resize(image, size=[224, 224], interp_type=types.INTERP_LINEAR, antialias=True)
        mean, std = ([255 * value for value in values] for values in (MEAN, STD))
        flip = fn.random.coin_flip()
        return fn.crop_mirror_normalize(image, dtype=types.FLOAT, mean=mean, std=std, mirror=flip), labels

    for (batch,) in DALIGenericIterator([graph()], ["images", "labels"]):
        yield batch["images"], batch["labels"]


def ffcv(root: Path, workers: int, images: int) -> Iterator[Any]:
    """A file of photos as JPEGs, and its loader with its own decoder of random crops, in threads."""
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor
    from ffcv.writer import DatasetWriter
    from torchvision.datasets import ImageFolder

    file = root / "photos.beton"
    photos = ImageFolder(str(root / "train"))
    if not file.exists():
        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=90), "label": IntField()}
        DatasetWriter(str(file), fields, num_workers=workers).from_indexed_dataset(photos)
    loader = Loader(
        str(file), batch_size=BATCH, num_workers=workers, order=OrderOption.RANDOM, os_cache=True,
        indices=np.tile(np.arange(len(photos)), 1 + images // len(photos)),
        pipelines={
            "image": [RandomResizedCropRGBImageDecoder((224, 224)), RandomHorizontalFlip(), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )  # fmt: skip
    yield from loader


BATCHES: dict[str, Callable[..., Iterator[Any]]] = {
    BASELINE: imagefolder,
    OURS: ours,
    NORMALISED: partial(ours, to_float=True),
    "webdataset": webdataset,
    "mosaicml-streaming": streaming,
    "DALI, CPU": dali,
    "FFCV": ffcv,
}


def warm_up(workers: int, batch: int) -> int:
    """Images before the first moment: more than may lie ready, which is most of ours."""
    return batch * (PREFETCH * workers + 2)


def measure(kind: str, root: Path, options: Namespace) -> Iterator[dict[str, float]]:
    """Figures over ``images`` images, ``repeats`` times, each time after those that warm up.

    It stops well before the epoch ends, so that at both moments the workers are ahead of the consumer by as much.
    """
    import torch

    torch.set_num_threads(1)
    warm, images = warm_up(options.workers, options.batch), options.images
    length = options.repeats * (warm + images + options.batch) + 2 * warm
    what = {"batch_size": options.batch, "names": options.names} if kind in (BASELINE, OURS) else {}
    what |= {"size": options.size} if kind == OURS else {}
    batches = BATCHES[kind](root, options.workers, length, **what)

    def moment(after: int) -> tuple[int, float, float, float]:
        seen = 0
        while seen < after:
            seen += len(next(batches)[0])
        # Threads of a peer without processes are in this one.
        pids = [child.pid for child in multiprocessing.active_children() if child.pid] or [os.getpid()]
        return seen, session_cpu_s(), time.perf_counter(), sum(map(heap_mb, pids)) / len(pids)

    first_mb = 0.0
    for _ in range(options.repeats):
        (_, cpu_s, wall_s, begin_mb), (count, end_cpu_s, end_wall_s, end_mb) = moment(warm), moment(images)
        first_mb = first_mb or begin_mb
        yield {
            "img_per_s": count / (end_wall_s - wall_s),
            "cpu_ms": 1e3 * (end_cpu_s - cpu_s) / count,
            "end_mb": end_mb,
            "grown_mb": end_mb - first_mb,
            "pss_mb": session_pss_mb(),
        }


def tables(figures: dict[str, list[Row]], workers: int, images: int) -> list[Table]:
    """The three tables."""
    import dataclasses

    def noted(figure: str, notes: dict[str, str]) -> list[Row]:
        return [dataclasses.replace(row, note=notes.get(row.name, "")) for row in figures[figure]]

    warm = warm_up(workers, BATCH)
    grown = {
        row.name: f"{row.values[-1]:+.1f} MB over {len(row.values) * (warm + images) - warm:,} images"
        for row in figures["grown_mb"]
        if row.values
    }
    title = f"From a folder to batches, {workers} workers"
    return [
        Table("speed", title, "images/s", noted("img_per_s", NOTES), BASELINE, "more"),
        Table("cpu", title, "CPU ms per image, all processes", noted("cpu_ms", NOTES), BASELINE),
        Table("memory", "Memory of a worker, without the batches on their way", "MB", noted("end_mb", grown), BASELINE),
    ]


def main() -> int:
    """The command line."""
    options = parser(__doc__, workers=2, repeats=3, images=2000, batch=BATCH, size=SIZE, names=0).parse_args()
    if options.one:
        reply(measure(options.one[0], Path(options.one[1]), options))
        return 0
    result = begin(options)
    with photo_folder() as root:
        figures = compare(list(BATCHES), options.repeats, alone(options, root), PEERS)
    for table in tables(figures, options.workers, options.images):
        result.add(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
