"""Where the photos of a data set are read: files of a folder, objects of a bucket, members of tar shards in either."""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from scripts.inspect.photo import HEAD_BYTES, TAIL_BYTES, CannotRead
from sources.disk import cause, patiently, read_file, shown
from sources.errors import ClusterError, ObjectError
from sources.shards.manifest import Place
from sources.shards.members import BLOCK
from sources.shards.reader import is_header_of
from sources.walk import PATIENCE_S

T = TypeVar("T")

_SMALL_OBJECT = 1 << 18
"""Bytes up to which an object is read whole: two requests for its ends cost more than its middle."""


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


@dataclass(frozen=True)
class Member:
    """Reads one photo of a tar shard, a file or, with ``store``, an object; what is read is what was indexed."""

    shard: str
    place: Place
    store: AisStore | None = None

    def ends(self, name: str, size: int) -> tuple[bytes, bytes]:
        """As ``Reader``. Raises ClusterError where no cluster answers."""
        if size <= (_SMALL_OBJECT if self.store else HEAD_BYTES + TAIL_BYTES):
            return self.whole(name), b""
        begin, end = self.place.offset, self.place.offset + size
        return self._behind_header(begin + HEAD_BYTES), self._part(end - TAIL_BYTES, end)

    def whole(self, name: str) -> bytes:
        """As ``Reader``. Raises ClusterError where no cluster answers."""
        data = self._behind_header(self.place.offset + self.place.size)
        if self.place.crc32 and zlib.crc32(data) != self.place.crc32:
            raise CannotRead("its CRC-32 is not the one that was indexed: it is damaged, or was overwritten meanwhile")
        return data

    def where(self, name: str) -> str:
        """Implement ``Reader.where``."""
        return f"{shown(name)} in {self.store.uri + '/' if self.store else ''}{shown(self.shard)}"

    def _behind_header(self, end: int) -> bytes:
        data = self._part(self.place.offset - BLOCK, end)
        if not is_header_of(data[:BLOCK], self.place):
            raise CannotRead("its shard was changed meanwhile: another member lies there")
        return data[BLOCK:]

    def _part(self, begin: int, end: int) -> bytes:
        """The bytes of the shard from ``begin`` to ``end``."""
        if self.store:
            http, path = _http(self.store.access), object_path(self.store.uri, self.shard)
            data = Objects(self.store)._asked(lambda: http.get(path, end - begin, part=(begin, end)))
        else:
            data = Files("")._asked(self.shard, lambda: _pread(self.shard, begin, end))
        if len(data) != end - begin:
            raise CannotRead("its shard was changed meanwhile: it is shorter")
        return data


@lru_cache(1)
def _http(access: Access) -> HttpReader:
    """Of this process: its connections are kept."""
    return HttpReader(access)


def _pread(path: str, begin: int, end: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), end - begin, begin)
