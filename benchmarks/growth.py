"""How CPU time per image and memory grow with workers, batch, image size and the size of the data set.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.growth [--repeats 2] [--images 1000]

FOLDER holds imagenet-sample.tar. One of these changes at a time from 2 workers, batches of 128, 224 pixels and 1,000
names; larger data sets are longer manifests over the same 1,000 files. CPU time is that of all processes, memory what
they have together without counting shared pages twice (PSS), after ``--images`` images, and what a worker has grown by
meanwhile, the batches on their way left out. ImageFolder + DataLoader is the peer for the size of the data set: its
list of paths is copied page by page into every worker that reads it.
"""

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loader import torchvision_transform
from benchmarks.measure import heap_mb, in_own_session, photo_folder, reply, rest, session_cpu_s, session_pss_mb
from benchmarks.results import Row, Table, begin, parser
from sources.manifest import Manifest

OURS, PEER = "imagenet-ais", "ImageFolder + DataLoader"


@dataclass(frozen=True)
class Point:
    """What a measurement is made with."""

    workers: int = 2
    batch: int = 128
    size: int = 224
    names: int = 1000


AXES: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {
    "workers": ("loader workers", (0, 2, 4), (OURS,)),
    "batch": ("images in a batch", (32, 128, 512), (OURS,)),
    "size": ("pixels of a side", (128, 224, 320), (OURS,)),
    "names": ("images in the data set", (1000, 32000, 1281167), (OURS, PEER)),
}
"""Of each axis: what it is, its values, and who is measured along it."""


def repeated(manifest: Manifest, names: int) -> Manifest:
    """A manifest of ``names`` samples over the same files, in flat arrays as any other."""
    times = -(-names // len(manifest))
    lengths = np.tile(np.diff(manifest.offsets), times)[:names]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Manifest(
        np.tile(manifest.names, times)[: offsets[-1]], offsets, np.tile(manifest.labels, times)[:names],
        np.tile(manifest.sizes, times)[:names], np.tile(manifest.checksums, times)[:names], manifest.classes,
    )  # fmt: skip


def ours(root: Path, point: Point) -> Iterator[Any]:
    """Batches of data=imagefolder, without end."""
    import torch

    from etl import Spec
    from sources.folder import FolderReader, scan_folder
    from sources.samples import SampleDataset
    from sources.shared_memory import share
    from training.loader.loader import Feed, open_loader
    from training.loader.order import TrainBatches
    from training.loader.workers import start_worker_server

    if point.workers:
        start_worker_server()
    manifest = share(repeated(scan_folder(root)[0], point.names))
    dataset = SampleDataset(FolderReader(root / "train", manifest), manifest, Spec.train(point.size), seed=0)
    order = TrainBatches(len(manifest), point.batch, seed=0, epochs=1000)
    with open_loader(dataset, order, point.workers, 4, torch.device("cpu")) as loader:
        for batch in Feed(loader):
            yield batch.images


def imagefolder(root: Path, point: Point) -> Iterator[Any]:
    """Batches of torchvision's ImageFolder behind a DataLoader, without end."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(root / "train"), torchvision_transform())
    # Strings of their own, as a folder of so many files makes them.
    paths = itertools.islice(itertools.cycle(dataset.samples), point.names)
    dataset.samples = [(path[:1] + path[1:], label) for path, label in paths]
    loader = DataLoader(dataset, point.batch, shuffle=True, num_workers=point.workers, persistent_workers=True)
    while True:
        for images, _ in loader:
            yield images


def measure(who: str, root: Path, point: Point, images: int) -> dict[str, float]:
    """CPU ms per image, PSS of all processes at the end, and what the heap of a worker grew by, in MB.

    Over ``images`` images or four batches, whichever are more. Before and after, as many batches lie ready as may.
    """
    import torch

    torch.set_num_threads(1)
    batches = (ours if who == OURS else imagefolder)(root, point)

    def moment(count: int) -> tuple[float, float, float]:
        """(CPU seconds, MB of a worker's heap, PSS in MB) after so many more batches."""
        for _ in range(count):
            next(batches)
        rest()
        pids = [child.pid for child in multiprocessing.active_children() if child.pid]
        return session_cpu_s(), sum(map(heap_mb, pids)) / max(1, len(pids)), session_pss_mb()

    count = max(-(-images // point.batch), 4)
    (cpu_s, before, _), (cpu_end_s, after, pss_mb) = moment(max(2 * point.workers, 1)), moment(count)
    return {"cpu_ms": 1e3 * (cpu_end_s - cpu_s) / (count * point.batch), "pss_mb": pss_mb, "heap_mb": after - before}


def main() -> int:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=2)
    arguments.add_argument("--images", type=int, default=1000)
    arguments.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES), help="those to measure")
    arguments.add_argument("--one", nargs=3, metavar=("WHO", "ROOT", "POINT"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.one:
        who, root, point = options.one
        reply(iter([measure(who, Path(root), Point(**json.loads(point)), options.images)]))
        return 0
    result = begin(options)
    axes = {axis: AXES[axis] for axis in options.axes}
    points = {
        (who, axis, value): dataclasses.replace(Point(), **{axis: value})
        for axis, (_, values, whos) in axes.items()
        for value in values
        for who in whos
    }
    figures: dict[tuple[str, Point], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with photo_folder() as root:
        for _ in range(options.repeats):
            for who, point in dict.fromkeys((who, point) for (who, _, _), point in points.items()):
                words = (who, str(root), json.dumps(dataclasses.asdict(point)))
                measured = in_own_session("benchmarks.growth", "--images", str(options.images), "--one", *words)
                for name, figure in measured.items():
                    figures[who, point][name].append(figure)
    for axis, (label, _, whos) in axes.items():
        mine = [(who, value, figures[who, point]) for (who, other, value), point in points.items() if other == axis]
        for name, unit in (("cpu_ms", "CPU ms per image"), ("pss_mb", "MB of all processes")):
            made = []
            for who, value, found in mine:
                grown = sorted(found["heap_mb"])[len(found["heap_mb"]) // 2]
                note = (
                    f"a worker grew by {grown:+.1f} MB" if name == "pss_mb" and (axis, value) != ("workers", 0) else ""
                )
                title = f"{value:,} {label}" + (f", {who}" if len(whos) > 1 else "")
                made.append(Row(title, found[name], note, series=who, x=value))
            result.add(Table(f"{axis}, {name}", f"By {label}", unit, made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
