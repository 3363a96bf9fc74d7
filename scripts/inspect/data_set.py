"""The splits of a folder or a bucket as the trainer scans them, what it says of them, and all that it leaves out."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from PIL import Image

from aistore_data.bucket.listing import NoImagesError, read_manifest
from aistore_data.bucket.store import AisStore
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import Access
from aistore_data.client.sdk import connect
from scripts.inspect.findings import Finding
from scripts.inspect.photo import HEAD_BYTES, TAIL_BYTES, CannotRead, Reader
from sources.disk import cause, patiently, read_file, shown
from sources.errors import ClusterError, ConfigError, ObjectError, UserError
from sources.folder import classes_of, manifest_of
from sources.manifest import IMG_EXTENSIONS, Manifest
from sources.misplaced import require_split
from sources.splits import SplitOptions, splits_of
from sources.walk import PATIENCE_S, Oddities, identity, images_below, is_folder, top_of

T = TypeVar("T")

SPLITS = ("train", "val")
_SMALL_OBJECT = 1 << 18
"""Bytes up to which an object is read whole: two requests for its ends cost more than its middle."""

_MODERN = (".heic", ".heif", ".avif", ".jxl", ".jfif")
"""Extensions of photos that this Pillow may not know."""


@dataclass(frozen=True)
class Split:
    """``name``: train, val, or "" for one folder of classes. The manifest's names begin with ``prefix``."""

    name: str
    manifest: Manifest
    reader: Reader
    prefix: str = ""


@dataclass
class DataSet:
    """What was found at ``where`` before any photo is looked at."""

    where: str
    splits: list[Split] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def classes(self) -> Sequence[str]:
        """In the order of their numbers, which all splits share."""
        return self.splits[0].manifest.classes if self.splits else ()

    def warn(self, line: str) -> None:
        """Add a warning that a scan has given."""
        self.findings.append(Finding("scan", "", "", "", line.removeprefix("warning: ")))

    def stop(self, error: UserError) -> None:
        """What would end a run before it begins."""
        self.findings.append(Finding("layout", "", "", "", str(error)))


@dataclass(frozen=True)
class Files:
    """Read photos below a folder."""

    root: str

    def ends(self, name: str, size: int) -> tuple[bytes, bytes]:
        """Implement ``Reader.ends``."""

        def read() -> tuple[bytes, bytes]:
            with open(self.path(name), "rb", buffering=0) as file:
                begin = file.read(HEAD_BYTES)
                if size <= len(begin) + TAIL_BYTES:
                    return begin + file.read(), b""
                file.seek(-TAIL_BYTES, os.SEEK_END)
                return begin, file.read()

        return self._asked(name, read)

    def whole(self, name: str) -> bytes:
        """Implement ``Reader.whole``."""
        return self._asked(name, lambda: read_file(self.path(name)))

    def where(self, name: str) -> str:
        """Implement ``Reader.where``."""
        return shown(self.path(name))

    def path(self, name: str) -> str:
        """Return the path of a photo."""
        return f"{self.root}/{name}"

    def _asked(self, name: str, read: Callable[[], T]) -> T:
        try:
            return patiently(read, PATIENCE_S)
        except OSError as error:
            raise CannotRead(f"it cannot be read: {cause(error)}") from None


@dataclass(frozen=True)
class Objects:
    """Read photos of a bucket."""

    store: AisStore

    def ends(self, name: str, size: int) -> tuple[bytes, bytes]:
        """As ``Reader``. Raises ClusterError where no cluster answers."""
        if size <= _SMALL_OBJECT:
            return self.whole(name), b""
        return self._asked(
            lambda: (
                b"".join(self.store.read(name, 0, HEAD_BYTES)),
                b"".join(self.store.read(name, size - TAIL_BYTES, size)),
            )
        )

    def whole(self, name: str) -> bytes:
        """As ``Reader``. Raises ClusterError where no cluster answers."""
        return self._asked(lambda: self.store.get(name))

    def where(self, name: str) -> str:
        """Implement ``Reader.where``."""
        return f"{self.store.uri}/{name}"

    def _asked(self, read: Callable[[], T]) -> T:
        try:
            return read()
        except ObjectError as error:
            raise CannotRead(f"it cannot be read: {self.store.explain(error)}") from None
        except OSError as error:
            raise ClusterError(f"{self.store.uri} cannot be read: {self.store.explain(error)}") from None


class _ReadOnly(AisStore):
    """A store that a manifest is not kept in: it goes to the local cache, as where nobody may write."""

    def put(self, name: str, content: object) -> None:
        """Refuse to write."""
        raise ObjectError(403, "an inspection writes nothing")


def open_data_set(where: str, endpoint: str, options: SplitOptions) -> DataSet:
    """A folder, or a bucket as ais://NAME. Raises UserError where there is nothing to look at."""
    if "://" in where and options != SplitOptions():
        raise ConfigError("--labels, --classes and --val-split are for a folder: leave them out for a bucket.")
    found = _bucket(where, endpoint) if "://" in where else _folder(Path(where), options)
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
        assert isinstance(split.reader, Files)
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


def _bucket(uri: str, endpoint: str) -> DataSet:
    parse_bucket(uri, "DATA=")
    data, store = DataSet(uri), _ReadOnly(uri, Access.from_environment(endpoint, "--endpoint"))
    connect(store.access)
    try:
        store.head()
        classes: tuple[str, ...] = ()
        for split in SPLITS:
            try:
                found = read_manifest(store, f"{split}/", classes, data.warn)
            except NoImagesError as error:
                data.stop(error)
                continue
            except ClusterError as error:
                data.stop(error)
                found = _by_folder(store, f"{split}/", classes)
            classes = found.classes
            data.splits.append(Split(split, found, Objects(store), f"{split}/"))
    except (ObjectError, OSError) as error:
        raise ClusterError(f"{uri} cannot be read: {store.explain(error)}") from None
    if not data.splits:
        raise ClusterError(data.findings[0].what)
    if len({split.manifest.classes for split in data.splits}) > 1:  # of a bucket that a run would refuse
        names = max((split.manifest.classes for split in data.splits), key=len)
        data.splits = [replace(split, manifest=replace(split.manifest, classes=names)) for split in data.splits]
    return data


def _by_folder(store: AisStore, prefix: str, classes: tuple[str, ...]) -> Manifest:
    """What can be looked at below a prefix whose labels cannot be read: the folders are the classes."""
    sizes = {e.name: e.size for e in store.list(prefix) if e.name.lower().endswith(IMG_EXTENSIONS)}
    labels = {name: name.removeprefix(prefix).rpartition("/")[0] for name in sizes}
    names = [*classes, *sorted(set(labels.values()) - set(classes))]
    return Manifest.build(((name.encode(), names.index(labels[name]), size) for name, size in sizes.items()), names)


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
