"""Decoded photos on a disk, which all processes of a machine share, so that a photo is decoded once.

The cache is a folder ``decoded-photos`` with two files. ``pixels`` grows by a slot for each photo: its rows one after
the other, each RGB padded by zeros to 8 bytes and followed by 8 bytes that check it. ``index`` is a hash table that
processes map into their memory: for the 16 bytes of a photo's key the slot's offset, the width and the height.

Nothing is believed that is not checked. A row's check depends on the photo's key and size and on the row's place, so a
slot that a killed process has left half written, a block that a disk has lost, and an entry of the index that points to
another photo are all misses, and the next who decodes the photo writes the same bytes to the same place again. A slot
is reserved under a lock of the operating system that ends with its process.

Needs NumPy and the standard library alone, and travels to pods.
"""

import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from etl.decoded_rows import Photo, packed, row_bytes
from etl.spec import VERSION

FOLDER = "decoded-photos"
"""What the cache makes in the folder that it is given. It touches nothing else there."""

LONGEST, MOST_BYTES = 8192, 1 << 26
"""Pixels of a side and bytes of a photo's rows, at most: larger ones are not kept."""

_MAGIC = f"imagenet-ais decoded photos 1, sample {VERSION}\n".encode().ljust(64, b"\0")
_HEAD_BYTES = 4096
_NUMBERS, _ENTRY = "<QQQQ", "<16sQII"
_ENTRY_BYTES = struct.calcsize(_ENTRY)
_BYTES_OF_A_PHOTO = 1 << 15
"""The index has a place for so many bytes of pixels: twice what it needs for photos of 64 KB."""

_PROBES = 128

_BEGIN_S, _KEEP_S, _COUNT_S = 60.0, 0.5, 0.002
"""How long the lock is waited for. It is held for microseconds, and while the index is made; but a process may be
suspended just then, and nobody shall wait for it."""

_QUICK_BYTES = 1 << 23
"""So many bytes of a photo's rows are read from memory, and made into a sample, in a few milliseconds."""


class CacheError(Exception):
    """A folder that cannot hold decoded photos, in one sentence without a full stop. Takes one string."""


def is_kept(width: int, height: int) -> bool:
    """Whether photos of this size are kept."""
    return min(width, height) > 0 and max(width, height) <= LONGEST and height * row_bytes(width) <= MOST_BYTES


class DecodedCache:
    """The cache in ``folder``, of which ``pixels`` and ``index`` together never take more than ``limit`` bytes.

    Raises CacheError for a folder that cannot be used. Pickles as its arguments. ``full`` turns true when a photo has
    found no room; ``problem`` then says why, if that is not the limit.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.full, self.problem = False, ""
        self._thread, self._local, self._hits = threading.Lock(), threading.local(), 0
        self._files: list[int] = []
        own = Path(folder, FOLDER)
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            _own_folder(own)
            self._index = self._open(own / "index")
            self._pixels = self._open(own / "pixels")
            with self._locked(_BEGIN_S):
                self._begin(own)
        except TimeoutError:
            raise CacheError(
                f"{own} is locked by a process that does not go on: end it, or name another folder"
            ) from None
        except OSError as error:
            why = error.strerror or error
            raise CacheError(
                f"decoded photos cannot be kept in {own}: {why}; name a folder that can be written to"
            ) from None
        used = self.size
        if used > limit:
            raise CacheError(
                f"{own} has {_gb(used)} GB of decoded photos already, more than the {_gb(limit)} GB that it may have: "
                "allow as many, or remove it"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return DecodedCache, (self.folder, self.limit)

    def __del__(self) -> None:
        for file in self._files:
            os.close(file)

    @property
    def photos(self) -> int:
        """How many there are, by the index."""
        return self._numbers()[2]

    @property
    def size(self) -> int:
        """Bytes that the two files take."""
        return len(self._map) + self._numbers()[1]

    @property
    def hits(self) -> int:
        """How often processes have called ``count_hit``, ever."""
        return self._numbers()[3]

    def count_hit(self) -> None:
        """Count a sample that was made from a kept photo, now or with the next one."""
        with self._thread:
            self._hits += 1
        with suppress(TimeoutError), self._locked(_COUNT_S):
            *numbers, hits = self._numbers()
            self._set(*numbers, hits + self._hits)
            self._hits = 0

    def require_room(self) -> None:
        """Raise CacheError where the disk has less room than the cache may still take."""
        self._require(self.limit - self.size)

    def _require(self, wanted: int) -> None:
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free < wanted:
            raise CacheError(
                f"{self.folder} has room for {_gb(free)} GB, and decoded photos may take {_gb(wanted)} GB more: allow "
                "fewer, or name a folder of another disk"
            )

    def find(self, key: bytes) -> Photo | None:
        """Where the photo of a key of 16 bytes lies."""
        found = self._search(key)[1]
        return Photo.of(key, *found) if found else None

    def rows(self, photo: Photo, top: int, count: int, wait: bool = True) -> memoryview | None:
        """Rows [top, top + count) as they lie on the disk; None where they cannot be had. They are not checked.

        The memory is used again by this thread's next call. Not ``wait``: raises BlockingIOError where a disk would
        have to be waited for, where the system cannot tell, and for more than ``_QUICK_BYTES``.
        """
        size = count * photo.row_bytes
        if not wait and size > _QUICK_BYTES:
            raise BlockingIOError
        if len(getattr(self._local, "buffer", b"")) < size:
            self._local.buffer = np.empty(size, np.uint8)
        rows = memoryview(self._local.buffer)[:size]
        place = photo.offset + top * photo.row_bytes
        try:
            done = os.preadv(self._pixels, [rows], place, 0 if wait else os.RWF_NOWAIT)
        except (OSError, OverflowError, AttributeError) as error:  # AttributeError: no RWF_NOWAIT here
            if wait:
                return None
            raise BlockingIOError from error
        if done < size and not wait:
            raise BlockingIOError
        return rows if done == size else None

    def keep(self, key: bytes, pixels: np.ndarray) -> bool:
        """Write a photo, uint8 [height, width, 3], for a key of 16 bytes; False where there is no room for it."""
        height, width, _ = pixels.shape
        size = height * row_bytes(width)
        if not is_kept(width, height):
            return False
        try:
            photo = self._reserve(key, width, height, size)
            if photo is None:
                return False
            rows, done = packed(pixels, photo.seed).data.cast("B"), 0
            while done < size:
                done += os.pwrite(self._pixels, rows[done:], photo.offset + done)
        except OSError as error:
            self.full, self.problem = True, error.strerror or str(error)
            return False
        return True

    def _reserve(self, key: bytes, width: int, height: int, size: int) -> Photo | None:
        """A slot for the photo: that which it has, if it was damaged, or was being written by a killed process."""
        with self._locked(_KEEP_S):
            place, found = self._search(key)
            if found and found[1:] == (width, height):
                return Photo.of(key, *found)
            capacity, used, photos, hits = self._numbers()
            if len(self._map) + used + size > self.limit or photos >= capacity // 2:
                self.full = True
            if self.full or place < 0:
                return None
            self._set(capacity, used + size, photos + (found is None), hits)
            self._map[place + 16 : place + _ENTRY_BYTES] = struct.pack(_ENTRY, key, used, width, height)[16:]
            self._map[place : place + 16] = key
            return Photo.of(key, used, width, height)

    def _search(self, key: bytes) -> tuple[int, tuple[int, int, int] | None]:
        """The entry's place in the index, and what it says; a free place and None; -1 and None where all are taken."""
        capacity = (len(self._map) - _HEAD_BYTES) // _ENTRY_BYTES
        first = int.from_bytes(key[:8], "little")
        for probe in range(_PROBES):
            place = _HEAD_BYTES + (first + probe) % capacity * _ENTRY_BYTES
            there, *found = struct.unpack_from(_ENTRY, self._map, place)
            if there == key:
                return place, (found[0], found[1], found[2])
            if not any(there):
                return place, None
        return -1, None

    def _open(self, path: Path) -> int:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        self._files.append(file)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise CacheError(f"{path} is not a file: remove it")
        return file

    def _begin(self, own: Path) -> None:
        """Map the index, which is made where there is none, or where a process was killed while it made it."""
        head = os.pread(self._index, len(_MAGIC), 0)
        if not any(head):
            capacity = max(1024, self.limit // _BYTES_OF_A_PHOTO)
            size = _HEAD_BYTES + capacity * _ENTRY_BYTES
            if size > self.limit:
                raise CacheError(f"{_gb(self.limit)} GB are too few for decoded photos: allow more")
            self._require(self.limit)
            os.ftruncate(self._index, 0)
            os.ftruncate(self._pixels, 0)
            try:
                os.posix_fallocate(self._index, 0, size)  # a page without room on the disk would end who writes to it
            except OSError:
                os.ftruncate(self._index, 0)
                raise
            os.pwrite(self._index, struct.pack(_NUMBERS, capacity, 0, 0, 0), len(_MAGIC))
            os.pwrite(self._index, _MAGIC, 0)
        elif head != _MAGIC:
            raise CacheError(
                f"{own} holds no decoded photos that this version knows: remove it, or name another folder"
            )
        self._map = mmap.mmap(self._index, os.fstat(self._index).st_size)
        if len(self._map) != _HEAD_BYTES + self._numbers()[0] * _ENTRY_BYTES:
            raise CacheError(f"{own}/index is damaged: remove {own}")

    def _numbers(self) -> tuple[int, int, int, int]:
        """Places of the index, bytes of slots, photos, hits."""
        capacity, used, photos, hits = struct.unpack_from(_NUMBERS, self._map, len(_MAGIC))
        return capacity, used, photos, hits

    def _set(self, *numbers: int) -> None:
        struct.pack_into(_NUMBERS, self._map, len(_MAGIC), *numbers)

    @contextmanager
    def _locked(self, wait_s: float) -> Iterator[None]:
        """Alone among the threads of this process and all processes. Raises TimeoutError after ``wait_s``."""
        end = time.monotonic() + wait_s
        with self._thread:
            while True:
                try:
                    fcntl.flock(self._index, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise TimeoutError(
                            errno.ETIMEDOUT, "another process holds its lock and does not go on"
                        ) from None
                    time.sleep(0.0005)
            try:
                yield
            finally:
                fcntl.flock(self._index, fcntl.LOCK_UN)


def _own_folder(path: Path) -> None:
    """Make the cache's own folder, which others may not write to: what they put there would become pixels."""
    with suppress(FileExistsError):
        path.mkdir(0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise CacheError(f"{path} is not a folder: remove it, or name another folder")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise CacheError(f"{path} belongs to somebody else, or others may write to it: name a folder of your own")


def _gb(count: int) -> str:
    return f"{count / 1e9:,.1f}" if count >= 1e8 else f"{count / 1e9:.3g}"
