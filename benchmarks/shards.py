"""Tar shards on a local disk: beside webdataset, wids and mosaicml-streaming, orders on a cold disk, and scale.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.shards [--part loader,orders,scale] [--repeats 3] [--samples N …]

FOLDER holds imagenet-sample.tar. "loader": from shards of the same 1,000 photos to normalised floats of 224 pixels, as
``benchmarks.loader``; wids is found where PYTHONPATH has it. "orders": an epoch's photos read by one process, whose
files are dropped from the page cache before, of ``--copies`` times 1,000 photos; and, for ImageNet's numbers, how
far apart neighbours of a file are in an epoch, and how many classes a batch of 256 has. "scale": opening the kept index
of ``--samples`` samples with names like ImageNet's, its memory, and the order of an epoch.
"""

import itertools
import os
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loader import BATCH, NORMALISED, PREFETCH, SIZE, measure, streaming, torchvision_transform, webdataset
from benchmarks.loader import BATCHES as FOLDERS
from benchmarks.measure import compare, in_own_session, photo_folder, reply, rollup_mb
from benchmarks.results import Row, Table, alone, begin, parser
from scripts.make_shards import main as make_shards
from sources.shards.columns import Columns
from sources.shards.index import open_index
from sources.shards.listing import shards_of
from sources.shards.manifest import Mapped, Shard, ShardManifest, write_image
from sources.shards.reader import ShardReader
from training.loader.order import HELD, block_order, epoch_order
from training.loader.permutation import Permutation

OURS, FOLDER = "data=shards", "data=imagefolder"
PEERS = {"webdataset": "webdataset", "wids": "wids", "mosaicml-streaming": "mosaicml-streaming"}
IMAGENET, SHARDS, CLASSES = 1_281_167, 1282, 1000
SAMPLES_OF_SHARD = 1000


def shards(root: Path, workers: int, images: int) -> Iterator[Any]:
    """data=shards."""
    import torch

    from etl import Spec
    from sources.samples import SampleDataset
    from training.loader.loader import BatchIterator, open_loader
    from training.loader.order import TrainBatches
    from training.loader.workers import start_worker_server
    from training.model.bundle import MEAN, STD, normalise

    if workers:
        start_worker_server("shards")
    manifest = open_index(shards_of(str(root / "shards" / "train"), "train", "root"), "", print)
    dataset = SampleDataset(ShardReader(manifest), manifest, Spec.train(SIZE), seed=0)
    order = TrainBatches(len(manifest), BATCH, seed=0, epochs=2 + images // len(manifest))
    with open_loader(dataset, order, workers, PREFETCH, torch.device("cpu")) as loader:
        for batch in BatchIterator(loader):
            yield normalise(batch.images, MEAN, STD, channels_last=True), batch.labels


def wids(root: Path, workers: int, images: int) -> Iterator[Any]:
    """Its random access by an index that it makes when a shard is opened, shuffled by a DataLoader."""
    from PIL import Image
    from torch.utils.data import DataLoader, RandomSampler
    from wids import ShardListDataset

    torchvision = torchvision_transform()

    def sample(item: Any) -> Any:
        return torchvision(Image.open(item[".JPEG"]).convert("RGB")), int(item[".cls"].read())

    dataset = ShardListDataset(
        str(root / "shards" / "train" / "index.json"), cache_dir=str(root / "wids"), keep=True, lru_size=16,
        transformations=[],
    )  # fmt: skip
    dataset.add_transform(sample)
    yield from DataLoader(dataset, BATCH, sampler=RandomSampler(dataset, num_samples=2 * images), num_workers=workers)


def loaders(options: Namespace, root: Path) -> Iterator[Table]:
    """Speed and CPU time of loaders."""
    kinds = [FOLDER, OURS, *PEERS]
    figures = compare(kinds, options.repeats, alone(options, root), PEERS)
    title = f"From shards of the same photos to batches of floats, {options.workers} workers"
    yield Table("speed", title, "images/s", figures["img_per_s"], OURS, "more")
    yield Table("cpu", title, "CPU ms per image, all processes", figures["cpu_ms"], OURS)


LOADERS = {
    FOLDER: FOLDERS[NORMALISED], OURS: shards, "webdataset": webdataset, "wids": wids, "mosaicml-streaming": streaming,
}  # fmt: skip


def copied(root: Path, copies: int) -> Path:
    """Shards of 250 photos, of each of which there are so many, under different names."""
    for number, path in itertools.product(range(copies), sorted((root / "photos").rglob("*.JPEG"))):
        folder = root / "many" / path.name.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / f"{path.stem}-{number}.JPEG")
    assert make_shards([str(root / "many"), str(root / "cold"), "--samples", "250", "--workers", "1"]) == 0
    return root / "cold" / "train"


def drop(folder: Path) -> None:
    """Have no file of a folder in the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def read_cold(root: Path, folder: Path, window: int, repeats: int) -> Table:
    """MB/s of one process that reads an epoch of photos, in each order, of shards and of loose files."""
    manifest = open_index(shards_of(str(folder), "train", "root"), "", print)
    places = {
        "shards, order=global": (ShardReader(manifest), epoch_order(len(manifest), 0, 0)),
        f"shards, order=blocks, block_shards={window}": (
            ShardReader(manifest, ahead=window), block_order(manifest.columns.shard, window, 0, 0),
        ),
        "shards, in the files' order": (
            ShardReader(manifest, ahead=2), np.lexsort((manifest.columns.offsets_in, manifest.columns.shard)),
        ),
    }  # fmt: skip
    values: dict[str, list[float]] = {"loose files, order=global": [], **{name: [] for name in places}}
    size = int(manifest.sizes.sum()) / 1e6
    loose = epoch_order(len(manifest), 0, 0)
    for _ in range(repeats):
        drop(root / "many")
        begin_s = time.perf_counter()
        for at in loose.tolist():
            (root / "many" / manifest.name(at)).read_bytes()
        values["loose files, order=global"].append(size / (time.perf_counter() - begin_s))
        for name, (reader, order) in places.items():
            drop(folder)
            begin_s = time.perf_counter()
            for at in order.tolist():
                reader.read(at)
            values[name].append(size / (time.perf_counter() - begin_s))
    title = f"One process reads an epoch of {len(manifest):,} photos, {size:,.0f} MB, that are not in the page cache"
    rows = [Row(name, found) for name, found in values.items()]
    return Table("cold", title, "MB/s", rows, "shards, order=global", "more")


def randomness(window: int) -> Iterator[Table]:
    """What blocks cost, by ImageNet's numbers, where the shards were shuffled when they were made, and where not."""
    labels = np.arange(IMAGENET) * CLASSES // IMAGENET  # of the manifest, which is sorted by class
    shuffled = np.empty(IMAGENET, np.int64)
    shuffled[epoch_order(IMAGENET, 1, 0)] = np.arange(IMAGENET)
    files = {"shuffled": shuffled, "sorted": np.arange(IMAGENET)}  # of each sample its place in the files
    distances, classes = [], []
    for name, place in files.items():
        orders = {"global": epoch_order(IMAGENET, 0, 0)}
        for shards_of_window in (window, 4 * window):
            blocks = block_order(place // SAMPLES_OF_SHARD, shards_of_window, 0, 0)
            orders[f"blocks, block_shards={shards_of_window}"] = blocks
        for order, found in orders.items():
            turn = np.empty(IMAGENET, np.int64)
            turn[found] = np.arange(IMAGENET)
            apart = np.abs(np.diff(turn[np.argsort(place)])).mean() / IMAGENET
            batches = np.sort(labels[found[: IMAGENET // 256 * 256]].reshape(-1, 256))
            distinct = (np.diff(batches) > 0).sum(1) + 1
            distances.append(Row(f"order={order}, shards {name}", [float(apart)]))
            classes.append(Row(f"order={order}, shards {name}", [float(distinct.mean())]))
    title = "Of two neighbours in a file, how far apart they are in the epoch, by ImageNet's numbers"
    yield Table("distance", title, "of the epoch; 1/3 where nothing binds them", distances, better="more")
    yield Table("classes", "Classes in a batch of 256, by ImageNet's numbers", "classes", classes, better="more")


def image_of(samples: int, file: Path) -> None:
    """A kept index of so many samples, 1,000 in a shard, with names such as n01440764/n01440764_1234567."""
    many = -(-samples // SAMPLES_OF_SHARD)
    numbers = np.arange(samples, dtype=np.uint32)
    labels = (numbers // max(1, -(-samples // CLASSES))).astype(np.int16)
    names = np.empty((samples, 20), np.uint8)
    names[:] = np.frombuffer(b"n0000/000000000.JPEG", np.uint8)
    for digit in range(4):
        names[:, 4 - digit] = 48 + labels // 10**digit % 10
    for digit in range(9):
        names[:, 14 - digit] = 48 + numbers // np.uint32(10**digit) % 10
    sizes = 20_000 + (numbers * np.uint32(2654435761)) % np.uint32(180_000)
    inside = (numbers % SAMPLES_OF_SHARD) * np.uint32(112_640) + np.uint32(512)
    sums = (4000 + numbers % np.uint32(4000)).astype(np.uint16)
    crc = numbers * np.uint32(2246822519) + np.uint32(1)
    starts = np.arange(samples + 1, dtype=np.uint32) * np.uint32(20)
    shard = numbers // np.uint32(SAMPLES_OF_SHARD)
    columns = Columns(names.reshape(-1), starts, labels, sizes, shard, inside, sums, crc)
    with open(file, "wb") as whole:
        write_image(whole, columns, [Shard(f"train-{number:06d}.tar", 112_650_240, number) for number in range(many)])


def open_kept(file: Path) -> dict[str, float]:
    """Seconds until a kept index can be used, and the MB that all of a process takes then, and its own."""
    before = {kind: rollup_mb(os.getpid(), kind) for kind in ("Pss:", "Pss_Anon:")}
    begin_s = time.perf_counter()
    image = Mapped(os.open(file, os.O_RDONLY))
    manifest = ShardManifest(image, file.parent, ())
    assert image.size > 1 << 30 or manifest.problem() == ""
    assert manifest.place(len(manifest) - 1).crc32 and manifest.counts().sum() == len(manifest)
    took_s = time.perf_counter() - begin_s
    after = {kind: rollup_mb(os.getpid(), kind) - was for kind, was in before.items()}
    return {"s": took_s, "mb": after["Pss:"], "own_mb": after["Pss_Anon:"], "file_mb": image.size / 1e6}


def order_of(samples: int) -> dict[str, float]:
    """Microseconds for each sample of an epoch's order, in lists of 256, of an epoch's first 100,000."""
    wanted, begin_s = min(samples, 100_000), time.perf_counter()
    order: Any = Permutation(samples, 0, 0) if samples > HELD else epoch_order(samples, 0, 0)
    held_s = time.perf_counter() - begin_s
    for begin_at in range(0, wanted - 255, 256):
        order[begin_at : begin_at + 256].tolist()
    listed_s = time.perf_counter() - begin_s - held_s
    return {"us": 1e6 * (held_s / samples + listed_s / wanted), "first_s": held_s}


def scale(options: Namespace, folder: Path) -> Iterator[Table]:
    """Tables by the size of a data set."""
    figures: dict[str, list[Row]] = {"s": [], "mb": [], "own_mb": [], "file_mb": [], "us": []}
    for samples in map(int, options.samples.split(",")):
        file = folder / f"{samples}.index"
        image_of(samples, file)
        found = [in_own_session("benchmarks.shards", "--one", "open", str(file)) for _ in range(options.repeats)]
        orders = [in_own_session("benchmarks.shards", "--one", "order", str(samples)) for _ in range(options.repeats)]
        for name in figures:
            rows = orders if name == "us" else found
            figures[name].append(Row(f"{samples:,} samples", [answer[name] for answer in rows]))
        file.unlink()
    yield Table("open", "Opening a kept index", "s", figures["s"])
    yield Table("index", "A kept index", "MB on disk", figures["file_mb"])
    yield Table("memory", "An open index", "MB in all processes, which share them", figures["mb"])
    yield Table("own", "An open index", "MB of a process's own", figures["own_mb"])
    yield Table("order", "The order of an epoch", "microseconds a sample", figures["us"])


def main() -> int:
    """The command line."""
    made = parser(
        __doc__, workers=2, repeats=3, images=1000, batch=BATCH, size=SIZE, names=0, copies=8, window=16,
        part="loader,orders,scale", samples="100000,1281167,10000000",
    )  # fmt: skip
    options = made.parse_args()
    if options.one:
        kind, where = options.one
        if kind in ("open", "order"):
            reply(itertools.repeat(open_kept(Path(where)) if kind == "open" else order_of(int(where))))
        else:
            from benchmarks import loader

            loader.BATCHES[kind] = partial(LOADERS[kind])
            reply(measure(kind, Path(where), options))
        return 0
    result = begin(options)
    parts = options.part.split(",")
    with photo_folder() if parts != ["scale"] else tempfile.TemporaryDirectory() as where:
        root = Path(where)
        if "loader" in parts:
            assert make_shards([str(root), str(root / "shards"), "--samples", "125", "--workers", "1"]) == 0
            for table in loaders(options, root):
                result.add(table)
        if "orders" in parts:
            result.add(read_cold(root, copied(root, options.copies), options.window, options.repeats))
            for table in randomness(options.window):
                result.add(table)
        if "scale" in parts:
            for table in scale(options, root):
                result.add(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
