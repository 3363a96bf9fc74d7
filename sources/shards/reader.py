"""Photos read from the middle of tar shards, each compared with what the index says of it."""

import errno
import io
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from etl.decoded_sample import file_key, is_settled
from etl.sample import CorruptSample
from sources.disk import MISSING_S, TRANSIENT, cause, patiently, shown
from sources.errors import DataError, UnreachableError
from sources.shards.manifest import Place, ShardManifest
from sources.shards.members import BLOCK
from sources.shared_memory import SharedMemory

_SUM = slice(148, 156)
"""Of a tar header: its checksum, in octal digits."""


class ChangedError(Exception):
    """A shard is not the one that was indexed, in words."""


@dataclass(eq=False)
class ShardReader:
    """Reads the bytes of sample ``index`` of a manifest from its shard.

    ``ahead``: so many shards are read ahead, each whole, as soon as a photo of it is wanted; 0: none is. Other fields
    are as those of ``FolderReader``.
    """

    manifest: ShardManifest
    patience_s: float = 0.0
    on_wait: Callable[[str, str], None] | None = None
    ahead: int = 0
    retries: int = field(default=0, init=False)
    _ended: SharedMemory = field(default_factory=partial(SharedMemory, 1), init=False)
    _asked: dict[str, None] = field(default_factory=dict, init=False)

    def end(self) -> None:
        """Let no process that has this reader wait any more."""
        self._ended.buffer[0] = 1

    def read(self, index: int) -> bytes:
        """Raises CorruptSample for a photo with another CRC, DataError for a shard that is gone or another one."""
        place = self.manifest.place(index)

        def waits(error: OSError) -> None:
            self.retries += 1
            if self.on_wait:
                self.on_wait(place.path, cause(error))

        def missing_s() -> float:  # where all of the folder is missing, its disk may return
            return MISSING_S if self._is_there() else self.patience_s

        try:
            ended = self._ended.buffer
            data = patiently(lambda: self._read(place), self.patience_s, waits, missing_s, lambda: ended[0] == 1)
        except OSError as error:
            where, why = shown(place.path), cause(error)
            if error.errno in TRANSIENT or (error.errno == errno.ENOENT and not self._is_there()):
                why = f"could not be read for {self.patience_s:g} s (data.patience_s): {why}"
                raise UnreachableError(f"{where} {why}.") from None
            raise DataError(
                f"{where} cannot be read: {why}; it could when the run started. Copy it there again; the same command "
                "goes on."
            ) from None
        except ChangedError as error:
            raise DataError(
                f"{shown(place.path)} was changed since the run started: {error}. The same command indexes it anew, "
                "and goes on where the data are the same."
            ) from None
        if place.crc32 and zlib.crc32(data) != place.crc32:
            raise CorruptSample("damaged, or overwritten in its shard: its CRC-32 is not the one that was indexed")
        return data

    def content_key(self, index: int) -> bytes | None:
        """What tells the photo from any other, by its place, and the size, times and inode of its shard.

        None for a shard that changed a moment ago, and for what ``read`` raises for.
        """
        place = self.manifest.place(index)
        try:
            status = Path(place.path).stat()
        except OSError:
            return None
        fits = status.st_size == place.shard_size and is_settled(status)
        return file_key(f"{place.path}:{place.offset}", status) if fits else None

    def stored(self, index: int) -> io.BytesIO:
        """The photo as a file; an empty one for what ``read`` raises for."""
        try:
            return io.BytesIO(self.read(index))
        except (CorruptSample, DataError):
            return io.BytesIO()

    def locate(self, index: int) -> str:
        """Where sample ``index`` lies, for messages."""
        return f"{shown(self.manifest.name(index))} in {shown(self.manifest.place(index).path)}"

    def _is_there(self) -> bool:
        try:
            with os.scandir(self.manifest.folder) as listing:
                return next(listing, None) is not None  # where a disk was mounted there may be an empty folder
        except OSError:
            return False

    def _read(self, place: Place) -> bytes:
        with open(place.path, "rb", buffering=0) as file:
            if self.ahead and place.path not in self._asked:
                self._read_ahead(file.fileno(), place)
            return read_member(file.fileno(), place)

    def _read_ahead(self, fd: int, place: Place) -> None:
        """Have the system read all of a shard, which this process has not asked for lately."""
        self._asked[place.path] = None
        while len(self._asked) > 2 * self.ahead:
            del self._asked[next(iter(self._asked))]
        with suppress(OSError):  # a file system that takes no advice
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)


def read_member(fd: int, place: Place) -> bytes:
    """The photo at ``place`` of an open shard. Raises ChangedError for another shard, and OSError."""
    size = os.fstat(fd).st_size
    if size != place.shard_size:
        raise ChangedError(f"it has {size:,} bytes and had {place.shard_size:,}")
    header, data = os.pread(fd, BLOCK, place.offset - BLOCK), os.pread(fd, place.size, place.offset)
    if len(data) != place.size or not is_header_of(header, place):
        raise ChangedError(f"another member lies at byte {place.offset:,}")
    return data


def is_header_of(header: bytes | bytearray, place: Place) -> bool:
    """Whether the bytes of a tar header are those of the member at ``place``, by the checksum that they hold."""
    return header[_SUM].strip(b" \0") == b"%06o" % place.header_sum
