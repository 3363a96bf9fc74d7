"""The index of a split's shards: read once, by several processes, and kept beside the shards or in the cache folder.

A kept index says of each shard its size and its time of change. Shards that are not as it says are read anew, and
so are those that it lacks: also one that was interrupted, or that ended at a bad shard, goes on where it was.
"""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from sources.cpus import cpu_count
from sources.disk import cache_file, cause, shown
from sources.errors import DataError
from sources.processes import in_processes
from sources.progress_bar import Progress
from sources.shards.columns import Columns
from sources.shards.listing import Listing
from sources.shards.manifest import Mapped, Shard, ShardManifest, in_memory, write_image
from sources.shards.shard import Rows, read_shard

FOLDER = ".imagenet-ais"
"""Beside the shards: where their index is kept."""

_SMALL = 256 << 20
"""Bytes that are read in less time than it takes to start processes."""
_CHECKED = 1 << 30
"""Bytes of a kept index whose checksum is compared at each start; a larger one would take seconds."""

Done = list[tuple[Shard, Columns]]


def open_index(
    listing: Listing, label_field: str, say: Callable[[str], None], workers: int = 0, beside: bool = True
) -> ShardManifest:
    """The manifest of a split without class names; ``say`` hears what is done about a kept one that cannot be used.

    ``workers``: processes that read shards; 0: as many as there are CPUs. Unless ``beside``, nothing is written where
    the shards lie. Raises DataError that names shard and member.
    """
    shards = listing.shards()
    _check_sizes(listing, shards)
    places = _places(listing, label_field)
    former = next((kept for place in places if (kept := _kept(place, listing.folder, say))), None)
    if former and former.shards == tuple(shards):
        _check_counts(listing, shards, former.columns)
        return former
    counts = dict(zip(listing.names, listing.counts, strict=True))

    def read(new: Sequence[Shard]) -> Iterator[tuple[Shard, Rows]]:
        for shard, rows in rows_of(new, partial(_rows, label_field, listing.folder), workers):
            _check_count(listing, shard, counts[shard.name], len(rows))
            yield shard, rows

    def keep(columns: Columns, shards: Sequence[Shard], complete: bool) -> ShardManifest:
        return _keep(places if beside else places[1:], columns, shards, listing.folder) or in_memory(
            columns, shards, listing.folder, ()
        )

    return build_index(former, shards, read, keep)


def build_index(
    former: ShardManifest | None,
    shards: Sequence[Shard],
    read: Callable[[Sequence[Shard]], Iterator[tuple[Shard, Rows]]],
    keep: Callable[[Columns, Sequence[Shard], bool], ShardManifest],
) -> ShardManifest:
    """The index of ``shards``: what ``former`` knows of them, and what ``read`` answers of the others, in any order.

    ``keep`` makes the manifest and keeps it; it is told whether that is complete. One that is not is kept when ``read``
    raises after some shards.
    """
    done = _unchanged(former, shards)
    known = {shard for shard, _ in done}
    new = [shard for shard in shards if shard not in known]
    try:
        for shard, rows in read(new):
            done.append((shard, Columns.of_shard(rows, 0)))
    except BaseException:
        if len(done) > len(known):
            keep(*_joined(done), False)
        raise
    assert {shard for shard, _ in done} == set(shards)
    return keep(*_joined(done), True)


def rows_of(shards: Sequence[Shard], work: Callable[[Shard], Rows], workers: int = 0) -> Iterator[tuple[Shard, Rows]]:
    """Each shard and what ``work`` reads of it, in their order, with a bar, and for much in several processes.

    ``workers``: how many at most; 0: as many as there are CPUs.
    """
    size = sum(shard.size for shard in shards)
    most = min(workers or cpu_count(), len(shards)) if size > _SMALL else 1
    with Progress("shards read for their index", len(shards)) as progress:
        for shard, rows in zip(shards, in_processes(work, shards, most, "read shards"), strict=True):
            progress.add(1, shard.size)
            yield shard, rows


def _rows(label_field: str, folder: Path, shard: Shard) -> Rows:
    path = f"{folder}/{shard.name}"
    try:
        return read_shard(path, label_field)
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read: {cause(error)}.") from None


def _joined(done: Done) -> tuple[Columns, list[Shard]]:
    """All samples in the order of a manifest, and the shards that they lie in, sorted."""
    done = sorted(done, key=lambda item: os.fsencode(item[0].name))
    parts = [columns._replace(shard=np.full(columns.samples, number)) for number, (_, columns) in enumerate(done)]
    return Columns.joined(parts).ordered(), [shard for shard, _ in done]


def _unchanged(former: ShardManifest | None, shards: Sequence[Shard]) -> Done:
    """What a former index knows of shards that are as they were."""
    if former is None:
        return []
    now, columns = set(shards), former.columns
    by_shard = columns.shard.argsort(kind="stable")
    ends = columns.shard[by_shard].searchsorted(range(len(former.shards) + 1))
    return [
        (shard, columns.chosen(by_shard[ends[number] : ends[number + 1]]))
        for number, shard in enumerate(former.shards)
        if shard in now
    ]


def _check_sizes(listing: Listing, shards: Sequence[Shard]) -> None:
    for shard in shards:
        if shard.size == 0:
            raise DataError(f"{shown(listing.folder / shard.name)} is empty: download or copy it again, or remove it.")


def _check_counts(listing: Listing, shards: Sequence[Shard], columns: Columns) -> None:
    if max(listing.counts) >= 0:
        found = np.bincount(columns.shard, minlength=len(shards)).tolist()
        for shard, count, has in zip(shards, listing.counts, found, strict=True):
            _check_count(listing, shard, count, has)


def _check_count(listing: Listing, shard: Shard, count: int, has: int) -> None:
    if count not in (-1, has):
        raise DataError(
            f"{shown(listing.folder / shard.name)} holds {has:,} photos, and {shown(listing.source)} says {count:,}: "
            "copy the shard again, or make the list anew."
        )


def _places(listing: Listing, label_field: str) -> list[Path]:
    """Where an index may be kept, the best place first. What its labels are, and who named the shards, is its name."""
    source = os.path.relpath(listing.source, listing.folder)
    name = hashlib.sha256(os.fsencode(f"{label_field}\n{source}")).hexdigest()[:16]
    places = [listing.folder / FOLDER / f"{name}.index"]
    with suppress(RuntimeError):  # a user without a home folder has no cache
        places.append(cache_file(f"shards {listing.folder} {name}"))
    return places


def _kept(path: Path, folder: Path, say: Callable[[str], None]) -> ShardManifest | None:
    """What is kept there and can be used; ``say`` hears of one that cannot."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        image = Mapped(fd)
        manifest = ShardManifest(image, folder, ())
        problem = manifest.problem() if image.size < _CHECKED else ""
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem:
        say(f"the index that is kept in {shown(path)} cannot be used, as {problem}: it is made anew")
        return None
    return manifest


def _keep(places: Sequence[Path], columns: Columns, shards: Sequence[Shard], folder: Path) -> ShardManifest | None:
    """Write the index whole or not at all, to the first place that takes it, and map it; None where no place does."""
    problems = []
    for path in places:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
                try:
                    write_image(file, columns, shards)
                    file.flush()
                    os.fsync(file.fileno())
                    os.fchmod(file.fileno(), 0o644)
                    Path(file.name).replace(path)
                except BaseException:
                    Path(file.name).unlink()
                    raise
            return ShardManifest(Mapped(os.open(path, os.O_RDONLY | os.O_CLOEXEC)), folder, ())
        except OSError as error:
            problems.append(f"{shown(path.parent)}: {cause(error)}")
    warnings.warn(
        f"the index of the shards cannot be kept ({'; '.join(problems)}). The next start takes as long as this one.",
        stacklevel=2,
    )
    return None
