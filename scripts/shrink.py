"""Store photos smaller than they are, since decoding is most of what a sample costs: once, before training.

    python -m scripts.shrink /data/imagenet /data/imagenet-500 --side 500 --quality 90
    python -m scripts.shrink ais://imagenet ais://imagenet-500 --side 500 --quality 90

Photos whose short side is longer than --side pixels are stored anew as JPEGs of --quality, under their names, whatever
their extensions; all else is copied byte for byte. So layout, order and labels stay, and the *pixels differ*: it is
another data set, with another hash, and accuracies are compared with those of runs on the same one. A folder is shrunk
here and goes on after a kill; a bucket is shrunk by an ETL on the storage nodes, and begins again. --workers
processes do it: here, or on each storage node.
"""

import argparse
import json
import re
import secrets
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL
from aistore.sdk.errors import AISError
from requests.exceptions import RequestException

from aistore_data.bucket.layout import METADATA_PREFIX, classes_name
from aistore_data.bucket.store import AisStore
from aistore_data.client.http_reader import HttpReader, object_path
from aistore_data.client.sdk import explain, make_client
from aistore_data.upload.destination import SPLITS, Folder, open_bucket, opened, present, put
from aistore_data.upload.items import Item, index_folder, items_of
from aistore_data.upload.transfer import plan, transfer
from etl.sample import CorruptSample, Key, Spec, transform
from etl.server import ship_by_value
from etl.shrink import QUALITY_VARIABLE, SIDE_VARIABLE, shrink
from etl.shrink_server import ShrinkETL
from sources.command_line import add_options, exit_code, positive, print_line
from sources.errors import ClusterError, ConfigError
from sources.manifest import IMG_EXTENSIONS
from sources.pillow_warnings import collect
from sources.progress_bar import Progress

RECORD = f"{METADATA_PREFIX}shrink.json"
_POLL_S = 0.5


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
    transfer(
        [entry for entry in planned if entry.existing is None], dest, workers, replace=False, transform=how, check=check
    )
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


def shrink_bucket(
    source: AisStore,
    dest: AisStore,
    how: Shrink,
    workers: int,
    init_timeout_s: int,
    check: Callable[[], None],
) -> int:
    """A bucket into another, by an ETL; answers the number of objects. Raises UserError."""
    there = present(source)
    names = {name for name in there if name.startswith(SPLITS)}
    if not names:
        raise ConfigError(f"{source.uri} has no objects below {' and '.join(SPLITS)}.")
    odd = sorted(name for name in names if re.search("[?#%]", name))
    if odd:  # AIS does not encode names in what it sends to a pod
        raise ConfigError(
            f"{source.uri}/{odd[0]} and {len(odd) - 1:,} more names hold ?, # or %, whose objects AIStore's transforms "
            "lose: shrink a folder, and upload that, or upload with --layout pairs."
        )
    strangers = sorted(name for name in present(dest) if name.startswith(SPLITS) and name not in names)
    if strangers:
        raise ConfigError(f"{dest.uri} holds other data, like {strangers[0]!r}: use another bucket.")
    client = make_client(source.access, init_timeout_s + _POLL_S)
    try:
        with _etl(client, how, workers, init_timeout_s) as etl:
            for prefix in SPLITS:
                count = sum(name.startswith(prefix) for name in names)
                job = client.job(source.bucket.transform(etl, dest.bucket, prefix_filter=prefix), "etl-bck")
                _wait(job, count, f"objects of {prefix}", check)
            for name in filter(there.__contains__, map(classes_name, SPLITS)):
                put(dest, name, bytes(source.bucket.object(name).get_reader().read_all()))
            put(dest, RECORD, how.record(source.uri))
    except (AISError, RequestException) as error:
        raise ClusterError(
            f"{source.uri} could not be shrunk: {explain(error, source.access)} The same command begins again."
        ) from None
    if missing := sorted(names - set(present(dest))):
        raise ClusterError(f"{dest.uri} lacks {missing[0]!r} and {len(missing) - 1:,} more: start the command again.")
    return len(names)


@contextmanager
def _etl(client: Any, how: Shrink, workers: int, init_timeout_s: int) -> Iterator[str]:
    """An ETL of a name of its own, for as long as the context."""
    etl = client.etl(f"shrink-{secrets.token_hex(6)}")
    ship_by_value()
    try:
        etl.init_class(
            dependencies=[f"pillow=={PIL.__version__}"],
            init_timeout=f"{init_timeout_s}s",
            direct_file_access=True,
            NUM_WORKERS=str(workers),
            **{SIDE_VARIABLE: str(how.side), QUALITY_VARIABLE: str(how.quality)},
        )(ShrinkETL)
        yield etl.name
    finally:
        for action in (etl.stop, etl.delete):
            try:
                action()
            except AISError as error:
                if error.status_code != 404:
                    print_line(f"ETL {etl.name} could not be removed: {error.message}")


def _wait(job: Any, count: int, items: str, check: Callable[[], None]) -> None:
    with Progress(items, count) as progress:
        while True:
            status = job.status()
            if status.err or status.aborted:
                raise ClusterError(f"the transform failed: {status.err or 'it was stopped'}. Start the command again.")
            stats = [snapshot.stats for snapshot in job.get_details().list_snapshots() if snapshot.stats]
            done = sum(stat.objects + stat.out_objects for stat in stats)
            progress.add(done - progress.done, sum(stat.bytes + stat.out_bytes for stat in stats) - progress.size)
            if status.end_time:
                return
            check()
            time.sleep(_POLL_S)


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
    parser.add_argument("source", metavar="SOURCE", help="a folder with train/ and val/, or ais://BUCKET")
    parser.add_argument("dest", metavar="DEST", help="another one of the same kind; made if it does not exist")
    parser.add_argument("--side", type=positive, required=True, help="of the short side, at most, in pixels")
    parser.add_argument("--quality", type=int, default=90, choices=range(1, 101), metavar="1…100", help="default: 90")
    parser.add_argument("--measure", type=positive, default=200, help="photos that are measured (default: 200)")
    parser.add_argument("--init-timeout-s", type=positive, default=300, help="in which the ETL must start")
    add_options(parser, replace=False)
    options = parser.parse_args(arguments)
    if ("://" in options.source) != ("://" in options.dest):
        parser.error("SOURCE and DEST are two folders or two buckets; aistore_data.upload brings a folder to a bucket")
    if options.source.rstrip("/") == options.dest.rstrip("/"):
        parser.error("SOURCE and DEST are the same")
    return options


def _run(options: argparse.Namespace) -> None:
    how = Shrink(options.side, options.quality)
    with opened(options.dest, options.endpoint) as (dest, check):
        if isinstance(dest, AisStore):
            source = open_bucket(options.source, options.endpoint)
            count = shrink_bucket(source, dest, how, options.workers, options.init_timeout_s, check)
            print(f"{options.dest}: {count:,} objects")
            names = sorted(name for name in present(dest) if name.startswith(SPLITS[0]))
            reader = HttpReader(source.access)
            reads = [lambda name, uri=uri: reader.get(object_path(uri, name)) for uri in (source.uri, dest.uri)]
        else:
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
