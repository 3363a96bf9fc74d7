"""Store photos smaller than they are, since decoding is most of what a sample costs: once, before training.

    python -m scripts.shrink /data/imagenet /data/imagenet-500 --side 500 --quality 90

Photos whose short side is longer than --side pixels are stored anew as JPEGs of --quality, under their names, whatever
their extensions; all else is copied byte for byte. So layout, order and labels stay, and the *pixels differ*: it is
another data set, with another hash, and accuracies are compared with those of runs on the same one. --workers processes
do it, and go on after a kill. For a bucket, shrink the folder and upload the result (python -m aistore_data.upload).
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aistore_data.bucket.layout import METADATA_PREFIX
from aistore_data.upload.destination import SPLITS, Folder, opened_folder, present, put
from aistore_data.upload.items import Item, index_folder, items_of
from aistore_data.upload.transfer import plan, transfer
from etl.sample import CorruptSample, Key, Spec, transform
from etl.shrink import shrink
from sources.command_line import exit_code, positive, print_line
from sources.errors import ConfigError
from sources.manifest import IMG_EXTENSIONS
from sources.notices import collect

RECORD = f"{METADATA_PREFIX}shrink.json"


@dataclass(frozen=True)
class Shrink:
    """What is done to the photos; pickles, for the processes that do it."""

    side: int
    quality: int

    def __call__(self, name: str, data: bytes) -> tuple[bytes, list[str]]:
        """As ``aistore_data.upload.transfer`` wants it."""
        return shrink(data, self.side, self.quality), []

    def record(self, source: str) -> bytes:
        """What is kept beside the photos."""
        return json.dumps({"source": source, "side": self.side, "quality": self.quality}).encode()


def shrink_folder(source: Path, dest: Folder, how: Shrink, workers: int, check: Callable[[], None]) -> tuple[int, int]:
    """An ImageFolder into another; answers (photos stored, photos that were there). Raises UserError."""
    splits = index_folder(source, print_line)
    items = [Item(i.name, i.place, -1) for split in splits for i in items_of(split, split.manifest(), "folders")]
    planned = plan(items, dest, replace=False)
    record = how.record(str(source.absolute()))
    _check_record(dest.root / RECORD, record, any(entry.existing for entry in planned))
    put(dest, RECORD, record)
    missing = [entry for entry in planned if entry.existing is None]
    transfer(missing, dest, workers, replace=False, transform=how, check=check)
    photos = [entry for entry in planned if entry.item.name.startswith(SPLITS)]
    kept = sum(entry.existing is not None for entry in photos)
    return len(photos) - kept, kept


def _check_record(path: Path, expected: bytes, begun: bool) -> None:
    """What is there must come from the same photos in the same way: a file's size does not tell."""
    if begun and (not path.exists() or path.read_bytes() != expected):
        there = path.read_text() if path.exists() else "nothing that says how it was made"
        raise ConfigError(
            f"{path.parent.parent} holds other photos ({there}), not {expected.decode()}: choose another DEST."
        )


@dataclass(frozen=True)
class Measured:
    """Means over some photos: bytes, and milliseconds of this process's CPU for a training sample of 224 pixels."""

    bytes: float
    sample_ms: float


def measure(reads: Sequence[Callable[[str], bytes]], names: Sequence[str]) -> list[Measured]:
    """Of photos by name, for each way to read them; what cannot be decoded counts with its bytes alone."""
    sizes: list[list[int]] = [[] for _ in reads]
    times: list[list[float]] = [[] for _ in reads]
    collect()  # what Pillow says of odd photos is no part of the figures
    for index, name in enumerate(names):
        for read, size, milliseconds in zip(reads, sizes, times, strict=True):
            data = read(name)
            size.append(len(data))
            begin = time.process_time()
            try:
                transform(data, Spec.train(224), Key(0, 0, index))
            except CorruptSample:
                continue
            milliseconds.append(1000 * (time.process_time() - begin))
    return [Measured(statistics.fmean(s), statistics.fmean(t or [0.0])) for s, t in zip(sizes, times, strict=True)]


def _spread(names: Sequence[str], count: int) -> list[str]:
    """``count`` of the names, evenly spread."""
    return [names[index * len(names) // count] for index in range(min(count, len(names)))]


def _tell(before: Measured, after: Measured, count: int) -> None:
    print(f"measured on {count:,} photos, before → after:")
    print(f"  bytes per photo                     {before.bytes:,.0f} → {after.bytes:,.0f}"
          f" ({after.bytes / before.bytes:.2f})")  # fmt: skip
    print(f"  CPU per training sample of 224 px   {before.sample_ms:.2f} → {after.sample_ms:.2f} ms"
          f" ({after.sample_ms / max(before.sample_ms, 1e-9):.2f})")  # fmt: skip
    print("The pixels differ from the original photos': this is another data set, with another hash.")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.shrink", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder with train/ and val/")
    parser.add_argument("dest", metavar="DEST", help="another folder; made if it does not exist")
    parser.add_argument("--side", type=positive, required=True, help="of the short side, at most, in pixels")
    parser.add_argument("--quality", type=int, default=90, choices=range(1, 101), metavar="1…100", help="default: 90")
    parser.add_argument("--measure", type=positive, default=200, help="photos that are measured (default: 200)")
    parser.add_argument(
        "--workers", type=positive, default=max(4, len(os.sched_getaffinity(0))), help="processes (default %(default)s)"
    )
    options = parser.parse_args(arguments)
    if "://" in options.source or "://" in options.dest:
        parser.error(
            "SOURCE and DEST are folders: shrink the folder that the bucket was uploaded from, and bring DEST to a new "
            "bucket (python -m aistore_data.upload DEST ais://BUCKET)"
        )
    if options.source.rstrip("/") == options.dest.rstrip("/"):
        parser.error("SOURCE and DEST are the same")
    return options


def _run(options: argparse.Namespace) -> None:
    how = Shrink(options.side, options.quality)
    with opened_folder(options.dest) as (dest, check):
        stored, kept = shrink_folder(Path(options.source), dest, how, options.workers, check)
        print(f"{options.dest}: {stored:,} photos stored, {kept:,} were there already")
        names = sorted(name for name in present(dest) if name.startswith(SPLITS[0]))
        reads = [lambda name, root=root: Path(root, name).read_bytes() for root in (options.source, dest.root)]
    photos = _spread([name for name in names if name.lower().endswith(IMG_EXTENSIONS)], options.measure)
    before, after = measure(reads, photos)
    _tell(before, after, len(photos))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    options = _arguments(arguments)
    return exit_code(lambda: _run(options))


if __name__ == "__main__":
    sys.exit(main())
