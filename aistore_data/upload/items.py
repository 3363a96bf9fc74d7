"""Photos as a data set's source holds them, and the objects of a layout that they become."""

import json
import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from aistore_data.bucket.layout import Layout, classes_name, pair_names
from sources.disk import Content, cause, map_file, patiently, read_file, shown
from sources.errors import DataError
from sources.folder import scan_folder
from sources.manifest import Manifest

T = TypeVar("T")

_PATIENCE_S = 60.0
"""Seconds for which a command waits for a file that a disk or a network file system does not give."""


def _patiently(path: str, read: Callable[[], T]) -> T:
    try:
        return patiently(read, _PATIENCE_S)
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read: {cause(error)}.") from None


class ByteSource(Protocol):
    """Where the bytes of an item lie. It can be pickled."""

    @property
    def unit(self) -> Hashable:
        """Places of the same unit are read together, by one process; None if that makes no difference."""

    def read(self) -> Content:
        """The bytes. Raises DataError that names the place."""


class File(NamedTuple):
    """An item that is a file."""

    path: str
    unit: None = None

    def read(self) -> bytes:
        """All of the file. Waits shortly for a disk whose fault may pass."""
        return _patiently(self.path, lambda: read_file(self.path))


class LargeFile(NamedTuple):
    """An item that is a file which is not read into memory."""

    path: str
    unit: None = None

    def read(self) -> Content:
        """All of the file, mapped; errors as those of ``File``."""
        return _patiently(self.path, lambda: map_file(Path(self.path)))


class InlineBytes(NamedTuple):
    """An item whose bytes are known already."""

    content: bytes
    unit: None = None

    def read(self) -> bytes:
        """Return the bytes."""
        return self.content


class Photo(NamedTuple):
    """One photo: ``name`` is CLASS/FILE, ``label`` the number of its class, ``size`` in bytes, -1 until it is read."""

    name: str
    label: int
    size: int
    place: ByteSource


@dataclass(frozen=True)
class Split:
    """The photos of train or val, in the order in which their source is read best; ``prefix`` is train/ or val/."""

    prefix: str
    classes: tuple[str, ...]
    photos: list[Photo]

    def manifest(self) -> Manifest:
        """Of the split in ImageFolder's layout. Raises DataError for two photos of one name."""
        manifest = Manifest.build(((os.fsencode(p.name), p.label, p.size) for p in self.photos), self.classes)
        for index in range(1, len(manifest)):
            if manifest.name(index) == manifest.name(index - 1):
                raise DataError(f"there are two photos {self.prefix}{manifest.name(index)}: rename or remove one.")
        return manifest


class Item(NamedTuple):
    """What becomes a file or an object: its name there, where its bytes lie, their number (-1: not known yet)."""

    name: str
    place: ByteSource
    size: int


def items_of(split: Split, manifest: Manifest, layout: Layout) -> list[Item]:
    """The objects of a split in a layout, in the order of its photos; the class names last."""
    items = []
    if layout == "folders":
        items = [Item(split.prefix + photo.name, photo.place, photo.size) for photo in split.photos]
    else:
        pairs = {manifest.name(index): names for index, names in enumerate(pair_names(manifest))}
        for photo in split.photos:
            image, label = pairs[photo.name]
            number = str(photo.label).encode()
            items.append(Item(split.prefix + image, photo.place, photo.size))
            items.append(Item(split.prefix + label, InlineBytes(number), len(number)))
    names = json.dumps(list(split.classes)).encode()
    return [*items, Item(classes_name(split.prefix), InlineBytes(names), len(names))]


def index_folder(root: Path, say: Callable[[str], None] = lambda line: None, with_train: bool = True) -> list[Split]:
    """Both splits of an ImageFolder, by ``scan_folder``. Raises ConfigError if it is none, DataError."""
    manifests = zip(("train", "val"), scan_folder(root, say, with_train), strict=True)
    return [Split(f"{split}/", found.classes, photos_of(f"{root}/{split}", found)) for split, found in manifests]


def photos_of(folder: str, manifest: Manifest) -> list[Photo]:
    """The photos of a split that lies in ``folder``, in class folders."""
    names = map(manifest.name, range(len(manifest)))
    rows = zip(names, manifest.labels.tolist(), manifest.sizes.tolist(), strict=True)
    return [Photo(name, label, size, File(f"{folder}/{name}")) for name, label, size in rows]
