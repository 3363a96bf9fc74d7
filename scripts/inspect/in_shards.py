"""The splits of a data set that lies in tar shards on a disk."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from scripts.inspect.findings import Finding
from scripts.inspect.splits import SPLITS, DataSet, ShardSplit
from sources.cpus import cpu_count
from sources.disk import cause, shown
from sources.errors import ConfigError, DataError, UserError
from sources.processes import in_processes
from sources.progress_bar import Progress
from sources.shards.columns import Columns
from sources.shards.listing import CLASSES, INFO, LIST, Listing, has_shards, holds_shards
from sources.shards.manifest import Shard, in_memory
from sources.shards.shard import Rows, read_shard
from sources.shards.splits import ShardOptions, found_in, named, of_one, of_split, shard_splits
from sources.splits import SplitOptions
from sources.walk import is_folder, top_of


def are_shards(where: str) -> bool:
    """Whether this names tar shards: a folder of them, or a pattern or a list. Raises ConfigError or DataError."""
    path = Path(where)
    if is_folder(path):
        return holds_shards(path) or (not is_folder(path / "train") and has_shards(path))
    return where.endswith(".json") or (where.endswith(".tar") and not path.exists())


def open_shards(where: str, options: SplitOptions, label_field: str) -> DataSet:
    """Training and validation, or all shards as one split. Raises UserError where there is nothing to look at."""
    if options.labels:
        raise ConfigError(
            "--labels is for photos whose labels lie in a file: tar shards have theirs in KEY.cls, or in a field of "
            "KEY.json, which --label-field names. Leave it out."
        )
    data, root = DataSet(shown(where)), Path(where)
    in_folder = is_folder(root)
    places = (where, "") if in_folder else ("", where)
    shards = ShardOptions(*places, "", label_field, options.classes, options.held_out, keeps_beside=False)
    is_one = not (in_folder and (is_folder(root / "val") or (root / INFO).is_file()))
    listings = {"": of_one(shards)} if is_one else dict(_listings(data, shards))
    try:
        if is_one and not options.held_out:
            found = found_in(listings[""], shards, data.warn)
            data.splits = [ShardSplit("", named((found, found), options.classes, data.warn, True)[0])]
        else:
            splits = zip(SPLITS, shard_splits(shards, data.warn), strict=True)
            data.splits = [ShardSplit(name, manifest) for name, manifest in splits]
    except UserError as error:
        data.stop(error)
        data.splits = _leniently(data, listings, label_field)
    if not data.splits:
        raise DataError(data.findings[0].what)
    if is_one and not options.held_out:
        data.findings.append(Finding("one folder", "", "", "", f"{shown(where)} are shards without a validation split"))
    data.findings += [finding for name, listing in listings.items() for finding in _left_out(name, listing)]
    return data


def _listings(data: DataSet, options: ShardOptions) -> Iterator[tuple[str, Listing]]:
    """The shards of each split that can be listed; what cannot be is told."""
    for split in SPLITS:
        try:
            yield split, of_split(options, split)
        except UserError as error:
            data.stop(error)


def _leniently(data: DataSet, listings: dict[str, Listing], label_field: str) -> list[ShardSplit]:
    """What can be looked at of shards of which something keeps a run from beginning: all that is told."""
    parts: dict[str, tuple[Columns, list[Shard]]] = {}
    for split, listing in listings.items():
        columns, good = list[Columns](), list[Shard]()
        work = partial(_read, str(listing.folder), label_field)
        with Progress("shards read one by one", len(listing.names)) as progress:
            answers = in_processes(work, listing.names, min(cpu_count(), len(listing.names)), "read shards")
            for name, rows in zip(listing.names, answers, strict=True):
                progress.add(1)
                if isinstance(rows, DataError):
                    data.stop(rows)
                    continue
                size = Path(listing.folder, name).stat().st_size
                columns.append(Columns.of_shard(rows, len(good)))
                good.append(Shard(name, size, 0))
        if good:
            parts[split] = Columns.joined(columns).ordered(), good
    most = max((int(columns.labels.max()) for columns, _ in parts.values()), default=-1)
    names = _names(data, listings, most)
    return [
        ShardSplit(split, in_memory(columns, shards, listings[split].folder, names))
        for split, (columns, shards) in parts.items()
    ]


def _read(folder: str, label_field: str, name: str) -> Rows | DataError:
    path = f"{folder}/{name}"
    try:
        return read_shard(path, label_field)
    except OSError as error:
        return DataError(f"{shown(path)} cannot be read: {cause(error)}.")
    except DataError as error:
        return error


def _names(data: DataSet, listings: dict[str, Listing], most: int) -> tuple[str, ...]:
    """Of the classes up to number ``most``: those of the list that has most names, and numbers where there are none."""
    known: tuple[str, ...] = ()
    for listing in listings.values():
        try:
            known = max(known, listing.classes() or (), key=len)
        except UserError as error:
            data.stop(error)
    return known + tuple(str(number) for number in range(len(known), most + 1))


def _left_out(split: str, listing: Listing) -> Iterator[Finding]:
    """The files beside shards that no run reads."""
    try:
        top = top_of(listing.folder)
    except UserError:
        return
    known = {*listing.names, LIST, CLASSES, INFO}
    for name in sorted({*top.images, *top.archives, *top.others} - known):
        if not name.startswith("."):  # as what runs keep there
            yield Finding("left out", split, shown(name), "", Path(name).suffix.lower() or "no extension")
