"""What it saves to keep decoded photos: milliseconds for a sample of a folder, with and without ``data.cache=decoded``.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.cache [--repeats 5] [--images 1000] [--disk PATH]

FOLDER holds imagenet-sample.tar. One process and one thread make training samples as a loader worker does, of other
keys and in another order each round, and rounds are interleaved. "From memory": photos and cache are in the page cache.
"From the disk": what a round will read is dropped from there before (posix_fadvise). That is the disk on which PATH
lies (default: where temporary files are), as far as nothing beneath this machine keeps copies.
"""

import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.measure import photo_folder
from benchmarks.results import Table, begin, parser, rows
from etl import Spec
from etl.decoded_cache import FOLDER, DecodedCache
from sources.folder import FolderReader, scan_folder
from sources.samples import SampleDataset

SIZE, BATCH = 224, 50
PLAIN, KEPT, FIRST = (
    "data=imagefolder",
    "data=imagefolder, data.cache=decoded",
    "its first epoch, which keeps them",
)
LIMIT = 4 * 10**9


def dataset(root: Path, cache: Path | None) -> SampleDataset:
    """Of the training photos, as data=imagefolder opens it."""
    manifest = scan_folder(root)[0]
    kept = DecodedCache(str(cache), LIMIT) if cache else None
    return SampleDataset(FolderReader(root / "train", manifest), manifest, Spec.train(SIZE), seed=0, cache=kept)


def epoch(data: SampleDataset, number: int, images: int) -> tuple[float, float, int]:
    """CPU and wall milliseconds for a sample, and how many were made of kept photos."""
    order = np.random.default_rng(number).permutation(len(data))[:images].tolist()
    batch, cached = np.empty((BATCH, SIZE, SIZE, 3), np.uint8), 0
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for start in range(0, len(order), BATCH):
        keys = [(number, index) for index in order[start : start + BATCH]]
        cached += data.fill(keys, batch[: len(keys)]).counts.cache
    took = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return 1e3 * took[0] / len(order), 1e3 * took[1] / len(order), cached


def forget(files: Iterable[Path]) -> None:
    """Let the page cache forget what is in these files."""
    for path in files:
        file = os.open(path, os.O_RDONLY)
        os.fsync(file)  # what is not written yet stays
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def main() -> int:
    """The command line."""
    options = parser(__doc__, repeats=5, images=1000, disk=tempfile.gettempdir()).parse_args()
    result = begin(options)
    cpu: dict[str, list[float]] = defaultdict(list)
    wall: dict[str, dict[str, list[float]]] = {"memory": defaultdict(list), "disk": defaultdict(list)}
    with photo_folder() as linked, tempfile.TemporaryDirectory(dir=options.disk) as folder:
        root, cache = Path(folder, "photos"), Path(folder, "cache")
        shutil.copytree(linked / "train", root / "train")
        (root / "val").symlink_to(root / "train")
        time.sleep(2.5)  # files that have just changed are not kept
        plain, kept = dataset(root, None), dataset(root, cache)
        assert kept.cache is not None
        epoch(kept, 0, len(kept))
        photos, pixels = sorted((root / "train").rglob("*.JPEG")), cache / FOLDER / "pixels"
        assert kept.cache.photos == len(photos)
        ways = {PLAIN: (plain, photos), KEPT: (kept, [pixels])}
        for data, _ in ways.values():
            epoch(data, 1, options.images)
        for repeat in range(options.repeats):
            for name, (data, files) in ways.items():
                cpu_ms, wall_ms, cached = epoch(data, 2 + repeat, options.images)
                assert cached == (options.images if data is kept else 0)
                cpu[name].append(cpu_ms)
                wall["memory"][name].append(wall_ms)
                forget(files)
                wall["disk"][name].append(epoch(data, 2 + repeat, options.images)[1])
                epoch(data, 1, len(data))  # back into memory
            first = dataset(root, Path(folder, "first"))
            cpu[FIRST].append(epoch(first, 2 + repeat, options.images)[0])
            shutil.rmtree(Path(folder, "first"))
        size = f"{kept.cache.size / len(photos) / 1e3:.0f} KB of disk a photo, index included"
    result.add(Table("cpu", "A training sample, CPU time", "CPU ms per image", rows(cpu, {KEPT: size}), PLAIN))
    for place, words in (("memory", "from memory"), ("disk", "from the disk")):
        result.add(Table(place, f"A training sample, {words}", "ms per image", rows(wall[place]), PLAIN))
    return 0


if __name__ == "__main__":
    sys.exit(main())
