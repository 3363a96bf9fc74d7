"""The splits of a folder or a bucket as the trainer scans them, what it says of them, and all that it leaves out."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from scripts.inspect.findings import Finding
from scripts.inspect.in_bucket import open_bucket
from scripts.inspect.in_shards import are_shards, open_shards
from scripts.inspect.readers import Files
from scripts.inspect.splits import SPLITS, DataSet, Split
from sources.disk import shown
from sources.errors import ConfigError, UserError
from sources.folder import classes_of, manifest_of
from sources.manifest import IMG_EXTENSIONS, Manifest
from sources.misplaced import require_split
from sources.splits import SplitOptions, splits_of
from sources.walk import Oddities, identity, images_below, is_folder, top_of

_MODERN = (".heic", ".heif", ".avif", ".jxl", ".jfif")
"""Extensions of photos that this Pillow may not know."""


def open_data_set(where: str, endpoint: str, options: SplitOptions, label_field: str = "") -> DataSet:
    """A folder, tar shards, or a bucket as ais://NAME. Raises UserError where there is nothing to look at."""
    is_bucket = "://" in where
    if is_bucket and options != SplitOptions():
        raise ConfigError("--labels, --classes and --val-split are for a folder: leave them out for a bucket.")
    if is_bucket:
        found = open_bucket(where, endpoint, label_field)
    elif are_shards(where):
        found = open_shards(where, options, label_field)
    elif label_field:
        raise ConfigError(f"--label-field={label_field} is for tar shards, and {where} holds none: leave it out.")
    else:
        found = _folder(Path(where), options)
    found.findings += _class_order(found.classes)
    return found


def _folder(root: Path, options: SplitOptions) -> DataSet:
    data = DataSet(shown(root))
    if not is_folder(root):
        require_split(root, "train")
    folders = {split: root / split for split in SPLITS if is_folder(root / split)}
    divided = bool(options.held_out)
    if divided or "val" not in folders:
        only = folders.get("train", root)
        if not divided and not _holds_classes(only):
            require_split(root, "train")
        folders = {"": only}
    if divided or "" not in folders:
        try:
            parts = zip(SPLITS, splits_of(root, options, data.warn), strict=True)
            data.splits = [Split(name, part.manifest, Files(str(part.folder))) for name, part in parts]
        except UserError as error:
            data.stop(error)
    else:
        only = folders[""]
        data.findings.append(Finding("one folder", "", "", "", f"{shown(only)} holds classes, and there is no val/"))
    if not data.splits:
        data.splits = _leniently(data, folders)
    roots: dict[str, str] = {}  # one folder may hold both splits
    for split in data.splits:
        assert isinstance(split, Split) and isinstance(split.reader, Files)
        roots[split.reader.root] = "" if split.reader.root in roots else split.name
    for folder, name in roots.items():
        data.findings += _left_out(name, Path(folder))
    return data


def _holds_classes(folder: Path) -> bool:
    try:
        return any(top_of(folder / name).images for name in top_of(folder).folders)
    except UserError:
        return True  # what cannot be read there is told when it is scanned


def _leniently(data: DataSet, folders: dict[str, Path]) -> list[Split]:
    """What can be looked at of folders, by split, of which something keeps a run from beginning: all that is told."""
    own = {split: _classes(data, folder) for split, folder in folders.items()}
    first = next(iter(own.values()))
    classes = first + sorted({name for names in own.values() for name in names} - set(first))
    splits = []
    for split, folder in folders.items():
        entries: list[tuple[bytes, int, int]] = []
        for name in own[split]:
            try:
                manifest_of(folder, [name], classes, data.warn)
            except UserError as error:
                data.stop(error)
            try:
                found = images_below(str(folder / name), os.fsencode(name), Oddities(), (identity(str(folder)),))
                entries.extend((photo, classes.index(name), size) for photo, size in found)
            except UserError as error:
                data.stop(error)
        splits.append(Split(split, Manifest.build(entries, classes), Files(str(folder))))
    return splits


def _classes(data: DataSet, folder: Path) -> list[str]:
    try:
        return classes_of(folder, data.warn)
    except UserError as error:
        data.stop(error)
    try:
        return top_of(folder).folders
    except UserError as error:
        data.stop(error)
        return []


def _left_out(split: str, folder: Path) -> list[Finding]:
    """The files below a folder that do not count as images."""
    photos = {*_MODERN, *Image.registered_extensions()} - {".pdf", ".eps", ".ps", ".mpg", ".mpeg", ".h5", ".hdf"}
    found = []
    for path in _others(folder):
        name = str(path.relative_to(folder))
        suffix = path.suffix.lower()
        kind = "kind left out" if suffix in photos and suffix not in IMG_EXTENSIONS else "left out"
        label = name.partition("/")[0] if "/" in name else ""
        found.append(Finding(kind, split, shown(name), shown(label), f"{suffix or 'no extension'}"))
    return found


def _others(folder: Path) -> Iterator[Path]:
    try:
        top = top_of(folder)
    except UserError:
        return  # the scan has told of it
    yield from (folder / name for name in (*top.archives, *top.others))
    for name in top.folders:
        if not (folder / name).is_symlink():  # one may lead in a circle
            yield from _others(folder / name)


def _class_order(classes: Sequence[str]) -> list[Finding]:
    """A warning where numbers in the names of classes are not in the order of numbers."""

    def by_number(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]

    for number, (name, expected) in enumerate(zip(classes, sorted(classes, key=by_number), strict=True)):
        if name != expected:
            return [
                Finding(
                    "class order",
                    "",
                    "",
                    shown(name),
                    f"names sort as text and not by their numbers: class {number} is {shown(name)!r}, and by number it "
                    f"would be {shown(expected)!r}",
                )
            ]
    return []
