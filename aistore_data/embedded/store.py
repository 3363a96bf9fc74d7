"""Buckets and objects as files below a root folder, with a sorted index of names in memory.

``ROOT/buckets/BUCKET/`` holds an object ``a/b.jpg`` as ``a+/b.jpg``: folders end in ``+``. Characters that are unsafe
in a file name are percent-encoded; parts that are too long for a file name are cut into folders that end in ``,``.
Neither sign occurs in an encoded part, so a path decodes to one name. The objects ``a`` and ``a/b`` cannot both exist,
as on a cluster where they fall to the same target.
"""

import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, unquote

import xxhash

from aistore_data.embedded.errors import TARGET_ID, ApiError, bucket_not_found

BUCKET_NAME = re.compile(r"(#[A-Za-z0-9_-]{1,64}/)?[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
DEFAULT_PAGE_SIZE = 10_000
CHUNK_BYTES = 1 << 20
_PART_LENGTH = 200
_EMPTY = "%"


@dataclass(slots=True)
class Entry:
    """One object: a file, or a few bytes of ``content``. ``read_only``: it belongs to a folder that is only served."""

    size: int
    path: str
    mtime_ns: int
    content: bytes | None = None
    checksum: str = ""
    version: int = 1
    read_only: bool = False

    def xxhash2(self) -> str:
        """AIS's checksum ``xxhash2``: XXH64 with seed 0, in hex; computed once."""
        if not self.checksum:
            with open(self.path, "rb") if self.content is None else BytesIO(self.content) as file:
                self.checksum = hashlib.file_digest(file, xxhash.xxh64).hexdigest()
        return self.checksum


def encode_name(name: str) -> str:
    """The relative path of the file that holds object ``name``."""
    *folders, last = name.split("/")
    return "/".join([*(_encode_part(part) + "+" for part in folders), _encode_part(last) or _EMPTY])


def decode_name(path: str) -> str:
    """The object whose file is at the relative ``path``; the inverse of ``encode_name``."""
    text = path.removesuffix(_EMPTY).replace(",/", "").replace("+/", "/")
    return unquote(text, errors="strict")


def _encode_part(part: str) -> str:
    text = quote(part, safe="")
    if text.startswith("."):
        text = "%2E" + text[1:]
    return ",/".join(text[at : at + _PART_LENGTH] for at in range(0, len(text), _PART_LENGTH))


def _end_of(names: list[str], folder: str) -> int:
    """The place in sorted ``names`` behind all that lie in ``folder``, which ends in a slash."""
    return bisect_left(names, folder[:-1] + chr(ord("/") + 1))


class Bucket:
    """A bucket: its folder, and an index of its objects. All methods may be called from any thread."""

    def __init__(self, name: str, folder: Path, served: dict[str, Entry] | None = None) -> None:
        self.name = name
        self.folder = folder
        self.created_ns = time.time_ns()
        self.read_only_folder = served is not None
        self._lock = threading.Lock()
        self._alive = True
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".put-*"):
            leftover.unlink()
        self._entries: dict[str, Entry] = dict(self._scan())
        self._entries.update(served or {})
        self._names = sorted(self._entries)  # by code point, which is the order of their UTF-8 bytes

    def _scan(self) -> Iterator[tuple[str, Entry]]:
        start = len(str(self.folder)) + 1
        folders = [str(self.folder)]
        while folders:
            with os.scandir(folders.pop()) as listing:
                for item in listing:
                    if item.is_dir(follow_symlinks=False):
                        folders.append(item.path)
                    else:
                        status = item.stat()
                        yield decode_name(item.path[start:]), Entry(status.st_size, item.path, status.st_mtime_ns)

    def __len__(self) -> int:
        return len(self._entries)

    def total_bytes(self) -> int:
        """The size of all objects together."""
        with self._lock:
            return sum(entry.size for entry in self._entries.values())

    def get(self, name: str) -> Entry:
        """The object ``name``. Raises ApiError 404."""
        entry = self._entries.get(name)
        if entry is None:
            raise ApiError(404, f"t[{TARGET_ID}]: ais://{self.name}/{name} does not exist", "ErrNotFound")
        return entry

    def open(self, name: str) -> tuple[Entry, BinaryIO]:
        """An object and its bytes, which stay what they are when it is overwritten. Raises ApiError 404."""
        with self._lock:
            entry = self.get(name)
            if entry.content is not None:
                return entry, BytesIO(entry.content)
            try:
                return entry, Path(entry.path).open("rb")
            except FileNotFoundError:
                raise ApiError(500, f"the file of ais://{self.name}/{name} is gone: {entry.path}") from None

    def read(self, name: str) -> bytes:
        """All bytes of an object. Raises ApiError 404."""
        _, file = self.open(name)
        with file:
            return file.read()

    def put(self, name: str, chunks: Iterable[bytes]) -> Entry:
        """Stores an object; visible at once and whole, or, if ``chunks`` raises, not at all.

        Raises ApiError 400 where another object's name is a folder in this one's or the other way round.
        """
        self._check_writable(name)
        self._check_place(name)
        digest = xxhash.xxh64()
        size = 0
        handle, temporary = tempfile.mkstemp(prefix=".put-", dir=self.folder)
        try:
            with open(handle, "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    size += len(chunk)
                    file.write(chunk)
            path = self.folder / encode_name(name)
            with self._lock:
                if not self._alive:
                    raise bucket_not_found(self.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                Path(temporary).replace(path)
                former = self._entries.get(name)
                version = former.version + 1 if former else 1
                entry = Entry(size, str(path), time.time_ns(), checksum=digest.hexdigest(), version=version)
                if former is None:
                    insort(self._names, name)
                self._entries[name] = entry
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return entry

    def delete(self, name: str) -> bool:
        """Removes an object; False if there is none."""
        with self._lock:
            entry = self._entries.get(name)
            if entry is None:
                return False
            self._check_writable(name)
            Path(entry.path).unlink()
            del self._entries[name]
            del self._names[bisect_left(self._names, name)]
        return True

    def page(self, prefix: str, after: str, size: int, recursive: bool = True) -> list[tuple[str, Entry | None]]:
        """Up to ``size`` objects whose names start with ``prefix`` and come after ``after``, sorted bytewise.

        Not ``recursive``: what lies in a folder below ``prefix`` is one item, the folder's name and None.
        """
        with self._lock:
            names = self._names
            start = _end_of(names, after) if after.endswith("/") else bisect_right(names, after)
            place = max(bisect_left(names, prefix), start if after else 0)
            found: list[tuple[str, Entry | None]] = []
            while len(found) < size and place < len(names) and names[place].startswith(prefix):
                name = names[place]
                slash = -1 if recursive else name.find("/", len(prefix))
                if slash < 0:
                    found.append((name, self._entries[name]))
                    place += 1
                else:
                    found.append((name[: slash + 1], None))
                    place = _end_of(names, name[: slash + 1])
            return found

    def destroy(self) -> None:
        """Remove the bucket and its files."""
        with self._lock:
            self._alive = False
            shutil.rmtree(self.folder)

    def _check_place(self, name: str) -> None:
        parts = name.split("/")
        if any("/".join(parts[:depth]) in self._entries for depth in range(1, len(parts))):
            raise ApiError(400, "destination contains an object in its path", "ErrMv")
        if (self.folder / encode_name(f"{name}/")).parent.is_dir():  # until the bucket goes, even without objects
            raise ApiError(400, "destination exists and is a virtual directory", "ErrMv")

    def _check_writable(self, name: str) -> None:
        entry = self._entries.get(name)
        if entry is not None and entry.read_only:
            raise ApiError(403, f"ais://{self.name}/{name} is served read-only from a folder and cannot be changed")


class Store:
    """All buckets below ``root``; one in a namespace is named ``#NAMESPACE/NAME``.

    ``served`` holds buckets whose objects lie elsewhere and are only read.
    """

    def __init__(self, root: Path, served: dict[str, dict[str, Entry]]) -> None:
        self._folder = root / "buckets"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        found = {unquote(path.name) for path in self._folder.iterdir() if path.is_dir()} | set(served)
        self._buckets = {name: Bucket(name, self._place(name), served.get(name)) for name in found}

    def _place(self, name: str) -> Path:
        return self._folder / quote(name, safe="")

    def names(self) -> list[str]:
        """The names of all buckets, sorted."""
        return sorted(self._buckets)

    def bucket(self, name: str) -> Bucket:
        """Return the bucket of a name. Raises ApiError 404 where there is none."""
        bucket = self._buckets.get(name)
        if bucket is None:
            raise bucket_not_found(name)
        return bucket

    def create(self, name: str) -> None:
        """Raises ApiError 409 if the bucket exists, 400 for a name that AIS does not take."""
        if not BUCKET_NAME.fullmatch(name):
            raise ApiError(400, f'bucket name "{name}" is invalid: use letters, digits, "-", "_" and "." (at most 64)')
        with self._lock:
            if name in self._buckets:
                raise ApiError(409, f'bucket "ais://{name}" already exists', "ErrBucketAlreadyExists")
            self._buckets[name] = Bucket(name, self._place(name))

    def destroy(self, name: str) -> None:
        """Raises ApiError 404, or 403 for a bucket that is served from a folder."""
        with self._lock:
            bucket = self.bucket(name)
            if bucket.read_only_folder:
                raise ApiError(403, f'bucket "ais://{name}" is served read-only from a folder and cannot be destroyed')
            del self._buckets[name]
        bucket.destroy()
