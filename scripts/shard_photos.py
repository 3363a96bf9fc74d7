"""The photos that tar shards are made of, in a folder or in a bucket, and the names that they get in the shards."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, Protocol

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from aistore_data.bucket.listing import NoImagesError, content_problem, read_manifest
from aistore_data.bucket.store import may_pass
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import connect, explain
from aistore_data.dataset.bucket_splits import read_bucket
from aistore_data.upload.items import File
from sources.command_line import print_line
from sources.disk import shown
from sources.errors import ConfigError, DataError, ObjectError
from sources.folder import classes_of, manifest_of, scan_folder
from sources.manifest import Manifest
from sources.walk import is_folder

SPLITS = ("train", "val")
_PLAIN = re.compile(rb"(?:.*/|)[^./]+[.][^./]+", re.DOTALL)
"""A name with one dot, behind its key."""
_TRIES = 5
"""Of each object, which a command that reads a million must not end for."""


class Photo(NamedTuple):
    """One to store: its name where it lies, that of its member, its class number, its bytes, its checksum or 0."""

    name: str
    member: bytes
    label: int
    size: int
    checksum: int


class Place(Protocol):
    """Where the photos of a split lie; pickles."""

    def read(self, photo: Photo) -> bytes:
        """The photo as it was listed. Raises DataError that names it."""

    def where(self, photo: Photo) -> str:
        """Where a photo lies, for messages."""


@dataclass(frozen=True)
class Files:
    """A folder, which the names of photos begin below."""

    folder: str

    def read(self, photo: Photo) -> bytes:
        """Implement ``Place.read``."""
        data = File(f"{self.folder}/{photo.name}").read()
        if len(data) != photo.size:
            raise DataError(f"{self.where(photo)} was changed meanwhile: start again when nobody writes to it.")
        return data

    def where(self, photo: Photo) -> str:
        """Implement ``Place.where``."""
        return shown(f"{self.folder}/{photo.name}")


@dataclass(frozen=True)
class Objects:
    """A bucket, whose objects have the names of the photos."""

    uri: str
    access: Access

    @cached_property
    def _reader(self) -> HttpReader:
        return HttpReader(self.access)

    def __reduce__(self) -> tuple[type, tuple[str, Access]]:
        return Objects, (self.uri, self.access)

    def read(self, photo: Photo) -> bytes:
        """As ``Place``, asked for again where the cluster does not answer; size and checksum are compared."""
        tries = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(max=4),
            reraise=True,
        )
        check = partial(content_problem, photo.size, photo.checksum)
        try:
            return tries(self._reader.get, object_path(self.uri, photo.name), photo.size, check)
        except ObjectError as error:
            if error.status == 200:
                raise DataError(
                    f"{self.where(photo)} did not come as it was listed ({error.message}): start again when nobody "
                    "writes to the bucket."
                ) from None
            raise self._cannot(photo, error) from None
        except OSError as error:
            raise self._cannot(photo, error) from None

    def where(self, photo: Photo) -> str:
        """Implement ``Place.where``."""
        return f"{self.uri}/{photo.name}"

    def _cannot(self, photo: Photo, error: Exception) -> DataError:
        said = explain(error, self.access)
        return DataError(f"{self.where(photo)} cannot be read: {said} The same command goes on.")


class PhotoSplit(NamedTuple):
    """train or val: where its photos lie, the photos in the manifest's order, and its classes."""

    name: str
    place: Place
    photos: list[Photo]
    classes: tuple[str, ...]


def splits_of(where: str, endpoint: str) -> list[PhotoSplit]:
    """Training and validation of a folder or of a bucket, or what there is. Raises UserError."""
    return _in_bucket(where, endpoint) if "://" in where else _in_folder(Path(where))


def _in_folder(root: Path) -> list[PhotoSplit]:
    if is_folder(root / "train") and is_folder(root / "val"):
        manifests = zip(SPLITS, scan_folder(root, print_line), strict=True)
        return [_split(split, Files(str(root / split)), shown(root / split), found) for split, found in manifests]
    folder = root / "train" if is_folder(root / "train") else root
    if not is_folder(folder):
        raise ConfigError(f"{shown(root)} is not a folder: it must hold train/ and val/, or a folder for each class.")
    classes = classes_of(folder, print_line)
    manifest = manifest_of(folder, classes, classes, print_line)
    return [_split("train", Files(str(folder)), shown(folder), manifest)]


def _in_bucket(uri: str, endpoint: str) -> list[PhotoSplit]:
    parse_bucket(uri, "BUCKET=")
    access = Access.from_environment(endpoint, "--endpoint")
    connect(access)
    found: list[PhotoSplit] = []
    for split in SPLITS:
        prefix, classes = f"{split}/", found[0].classes if found else ()
        read = partial(read_manifest, prefix=prefix, classes=classes, say=print_line)
        try:
            manifest: Manifest = read_bucket(access, uri, read)
        except NoImagesError:
            if not found:
                raise
            print_line(f"note: {uri}/{prefix} holds no photos: these are training shards alone")
            continue
        found.append(_split(split, Objects(uri, access), f"{uri}/{split}", manifest, len(prefix)))
    return found


def _split(name: str, place: Place, where: str, manifest: Manifest, skip: int = 0) -> PhotoSplit:
    """``skip``: bytes of each name that are not part of that of its member."""
    names = [manifest.name(index) for index in range(len(manifest))]
    members = _members(where, [os.fsencode(text)[skip:] for text in names])
    columns = manifest.labels, manifest.sizes, manifest.checksums
    rows = zip(names, members, *(column.tolist() for column in columns), strict=True)
    return PhotoSplit(name, place, [Photo(*row) for row in rows], manifest.classes)


def _members(where: str, names: Sequence[bytes]) -> list[bytes]:
    """The names of the members. A key has no dot, and one photo: what is behind its first dot is a member's kind."""
    keys = [key_of(name) for name in names]
    taken: dict[bytes, int] = {}
    for key in keys:
        taken[key] = taken.get(key, 0) + 1
    members = [
        name if taken[key] == 1 and _PLAIN.fullmatch(name) else _renamed(name)
        for name, key in zip(names, keys, strict=True)
    ]
    renamed = [(name, member) for name, member in zip(names, members, strict=True) if name != member]
    if len({key_of(member) for member in members}) < len(members):
        raise ConfigError(
            f"{where} has photos whose names differ by dots and underscores alone, like "
            f"{shown(renamed[0][0])}: rename them. What is behind the first dot of a name in a shard is its kind."
        )
    if renamed:
        name, member = renamed[0]
        print_line(
            f"note: {len(renamed):,} photos are called otherwise in the shards, as {shown(name)} is {shown(member)}: "
            "what is behind the first dot is a member's kind there. If they sort otherwise now, these shards are "
            "another data set than the folder."
        )
    return members


def key_of(name: bytes) -> bytes:
    """What the members of a sample have in common."""
    folder, slash, base = name.rpartition(b"/")
    return folder + slash + base.split(b".")[0]


def _renamed(name: bytes) -> bytes:
    """CLASS/a.b.JPEG → CLASS/a_b_JPEG.JPEG."""
    folder, slash, base = name.rpartition(b"/")
    return folder + slash + base.replace(b".", b"_") + b"." + base.rpartition(b".")[2]


def _may_pass(error: BaseException) -> bool:
    """Also what is missing: AIStore loses sight of an object for a moment while it moves it to another node."""
    return may_pass(error) or (isinstance(error, ObjectError) and error.status == 404)
