"""The JPEG index: for the photos of a data set the entry points from which the native module decodes only a crop.

The native module makes a photo's entry by a whole pass over its JPEG without a fault, binds it to the photo's size and
hash, and refuses it for any other content (``native/src/index.h``). This module keeps entries by the photos' names in
one file that all processes share:

    64 bytes: what the file is, the places of its table, how many entries were made anew; zeros
    the table: for each place uint64 key of a name, uint64 offset << 24 | length of its entry
    the entries, one behind the other

A name's entry has the first free place from where its key says. An entry is written before the place that names it, so
of what a killed process leaves nothing is found; whatever a disk damages is refused, and made anew. A photo without an
entry has a length that says why not, and its size as the offset. Writers hold a lock of the operating system, which
ends with its process; readers hold none. All goes through the system's page cache by ``pread``, and not by mapped
memory: a disk that fails, or a file that somebody cuts, is then an error of a call, and not the end of the process.

Needs NumPy and the standard library alone, and travels to pods.
"""

import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

VERSION = 1
"""Of the entries: INDEX_VERSION of the native module."""

STEP = 16
"""MCUs of a row from one entry point to the next, about."""

REASONS = ("no baseline JPEG that the decoder takes", "damaged, or ends in an unusual way")
"""Why a photo has no entry, in the native module's words."""

_MAGIC = f"imagenet-ais JPEG index {VERSION}\n".encode().ljust(32, b"\0")
_HEAD, _HEAD_BYTES = "<32sQQ16x", 64
_PLACE, _PLACE_BYTES = "<QQ", 16
_PROBES = 128
_FEWEST_PLACES = 1 << 17
_LENGTH_BITS = 24
_REFUSED = (1 << _LENGTH_BITS) - len(REASONS)
"""A length from here on is the number of a reason."""

_MOST_BYTES = 1 << 38


class IndexFileError(Exception):
    """A file that cannot be a JPEG index, in one sentence without a full stop. Takes one string."""


class IntervalMetrics(NamedTuple):
    """What a JPEG index holds."""

    photos: int
    """Photos with an entry."""
    size: int
    """Bytes of these entries."""
    refused: dict[str, int]
    """Photos without one, by the reason."""
    renewed: int
    """Entries that were damaged or of another content, and were made anew."""


class JpegIndex:
    """The file ``path``, which is made if it is missing, for about ``photos`` photos and at most ``limit`` bytes.

    One that has too few places for them begins anew. Raises OSError, and IndexFileError for a file of another kind.
    Pickles as its arguments. Where it cannot be written to, or is not ``made``, it is only read; ``problem`` turns into
    the reason when that begins later.
    """

    def __init__(self, path: str, photos: int, limit: int = _MOST_BYTES, made: bool = True) -> None:
        self.path, self.problem = path, ""
        self.on_problem: Callable[[str], None] | None = None  # hears it too
        self._photos, self._limit, self._made = photos, limit, made
        self._thread = threading.Lock()
        self._file, self.is_written = _open(path, made)
        while not self._begin():
            os.close(self._file)
            self._file, self.is_written = _open(path, made)

    def __reduce__(self) -> tuple[Any, ...]:
        return JpegIndex, (self.path, self._photos, self._limit, self._made)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def entry(self, name: str) -> "Entry":
        """That of the photo of a name, whether there is one or not."""
        digest = blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return Entry(self, int.from_bytes(digest, "little") or 1)

    def find(self, key: int) -> "bytes | Refusal | None":
        """What is kept for a key; None for nothing, and where the disk fails."""
        try:
            _, value = self._search(key)
            length, offset = value & (1 << _LENGTH_BITS) - 1, value >> _LENGTH_BITS
            if length >= _REFUSED:
                return Refusal(offset, REASONS[length - _REFUSED])
            return os.pread(self._file, length, offset) if length else None
        except OSError:
            return None

    def keep(self, key: int, made: "bytes | Refusal") -> None:
        """Write what the native module has made of a photo. What goes wrong is ``problem`` from then on."""
        if not self.is_written:
            return
        try:
            with self._locked():
                self._keep(key, made)
        except OSError as error:
            self._stop(error.strerror or str(error))
        except IndexFileError as error:  # somebody has changed it
            self._stop(str(error))

    def tally(self) -> IntervalMetrics:
        """What is in the file now. Raises OSError."""
        table = np.frombuffer(os.pread(self._file, self._first_entry - _HEAD_BYTES, _HEAD_BYTES), "<u8")
        values = table[1::2][table[: len(table) // 2 * 2 : 2] != 0]
        lengths = (values & (1 << _LENGTH_BITS) - 1).astype(np.int64)
        made = lengths < _REFUSED
        refused = {why: int((lengths == _REFUSED + i).sum()) for i, why in enumerate(REASONS)}
        refused = {why: count for why, count in refused.items() if count}
        return IntervalMetrics(int(made.sum()), int(lengths[made].sum()), refused, self._head()[1])

    def _keep(self, key: int, made: "bytes | Refusal") -> None:
        place, former = self._search(key)
        if place < 0 or (former and self.find(key) == made):  # full; or another process was first
            return
        if isinstance(made, Refusal):
            value = made.size << _LENGTH_BITS | _REFUSED + REASONS.index(made.reason)
        else:
            end = max(os.fstat(self._file).st_size, self._first_entry)
            if end + len(made) > self._limit:
                self._stop(f"it has the {self._limit / 1e9:g} GB that it may have")
                return
            try:
                _write(self._file, made, end)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._file, end)
                raise
            value = end << _LENGTH_BITS | len(made)
        _write(self._file, struct.pack(_PLACE, key, value), place)
        if former:
            _write(self._file, struct.pack(_HEAD, _MAGIC, self._places, self._head()[1] + 1), 0)

    def _search(self, key: int) -> tuple[int, int]:
        """(where the key's place is in the file, what it holds): a free one holds 0. (-1, 0) where all are taken."""
        start = _HEAD_BYTES + key % self._places * _PLACE_BYTES
        places = os.pread(self._file, _PROBES * _PLACE_BYTES, start).ljust(_PROBES * _PLACE_BYTES, b"\0")
        for number, (there, value) in enumerate(struct.iter_unpack(_PLACE, places)):
            if there == key or not there:
                return start + number * _PLACE_BYTES, value if there else 0
        return -1, 0

    def _begin(self) -> bool:
        """Read the file's beginning, or write it; False where another file has its place, or is to have it."""
        with self._locked():
            if self.is_written and not self._is_in_place():
                return False
            if not any(os.pread(self._file, _HEAD_BYTES, 0)):
                self._start(max(2 * self._photos, _FEWEST_PLACES))
            self._places, _ = self._head()
            if self._places < self._photos * 1.5 and self.is_written:
                Path(self.path).unlink()  # who has it open goes on with it
                return False
            self._first_entry = _HEAD_BYTES + (self._places + _PROBES) * _PLACE_BYTES
            return True

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self.path))  # noqa: PTH116
        except FileNotFoundError:
            return False

    def _start(self, places: int) -> None:
        if not self.is_written:
            raise IndexFileError(f"{self.path} is empty, and cannot be written to")
        _write(self._file, struct.pack(_HEAD, _MAGIC, places, 0), 0)

    def _head(self) -> tuple[int, int]:
        """(places, entries made anew)."""
        head = os.pread(self._file, _HEAD_BYTES, 0).ljust(_HEAD_BYTES, b"\0")
        magic, places, renewed = struct.unpack(_HEAD, head)
        if magic != _MAGIC or not 0 < places < 1 << 40:
            raise IndexFileError(f"{self.path} is not a JPEG index that this version knows: remove it")
        return places, renewed

    def _stop(self, why: str) -> None:
        self.problem, self.is_written = why, False
        if self.on_problem:
            self.on_problem(why)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among the writers of this process and of all others."""
        if not self.is_written:
            yield
            return
        with self._thread:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


class Refusal(NamedTuple):
    """That a photo of ``size`` bytes has no entry."""

    size: int
    reason: str


class Entry(NamedTuple):
    """A photo's place in a JPEG index."""

    file: JpegIndex
    key: int

    def resample(self, native: ModuleType, data: bytes, out: np.ndarray, *geometry: Any) -> bool:
        """``native.resample``, with the entry, which is made on the way if there is none that fits."""
        found = self.file.find(self.key)
        is_refused = isinstance(found, Refusal) and found.size == len(data)
        given = found if isinstance(found, bytes) else None
        if is_refused or (given is None and not self.file.is_written):
            done: bool = native.resample(data, out, *geometry)
            return done
        done, _, made = native.resample_indexed(data, out, *geometry, given, STEP if self.file.is_written else 0)
        if made is not None:  # there was none that fits
            self.file.keep(self.key, made if isinstance(made, bytes) else Refusal(len(data), made))
        return done

    def refuse(self, data: bytes) -> None:
        """Note that the decoder does not take this photo."""
        self._note(Refusal(len(data), REASONS[0]))

    def make(self, native: ModuleType, data: bytes) -> None:
        """Make the entry by a pass of its own."""
        made = native.make_index(data, STEP)
        self._note(made if isinstance(made, bytes) else Refusal(len(data), made))

    def is_of_size(self, size: int) -> bool:
        """Whether there is one, or a refusal, of a photo of so many bytes."""
        found = self.file.find(self.key)
        if isinstance(found, bytes):
            return len(found) > 8 and int.from_bytes(found[4:8], "little") == size
        return found is not None and found.size == size

    def _note(self, made: "bytes | Refusal") -> None:
        if self.file.is_written and self.file.find(self.key) != made:
            self.file.keep(self.key, made)


def can_use(native: ModuleType | None) -> bool:
    """Whether this native module makes and uses entries of this version."""
    return getattr(native, "INDEX_VERSION", 0) == VERSION


def _open(path: str, made: bool) -> tuple[int, bool]:
    """(descriptor, whether it is written to). Raises OSError, and IndexFileError for what is no file."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    is_written = made
    try:
        file = os.open(path, (os.O_RDWR | os.O_CREAT if made else os.O_RDONLY) | flags, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise IndexFileError(f"{path} is not a file, as a JPEG index is: remove it") from None
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        file, is_written = os.open(path, os.O_RDONLY | flags), False
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise IndexFileError(f"{path} is not a file, as a JPEG index is: remove it")
    return file, is_written


def _write(file: int, content: bytes, offset: int) -> None:
    """All of it. Raises OSError."""
    view = memoryview(content)
    while view:
        done = os.pwrite(file, view, offset)
        view, offset = view[done:], offset + done
