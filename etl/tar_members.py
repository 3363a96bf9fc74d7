"""The members of a tar by its headers, and a sentence for a file that is no tar or whose members cannot be read alone.

Python's ``tarfile`` reads the headers. It ends quietly where one is damaged, or where another tar follows: here both
are errors. Clients and the pods of ETLs read tars by this.
"""

import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from etl.spec import shown_path as shown

DAMAGED = (tarfile.TarError, EOFError, zlib.error, ValueError, OverflowError, RecursionError)
"""What a damaged tar makes Python's readers raise, beside OSError."""

BLOCK = tarfile.BLOCKSIZE
"""Bytes of a header, and of what a member's content is rounded up to."""

CRC_CHUNK = 1 << 22
"""Bytes that are read at a time for a CRC-32."""

MAKE_SHARDS = "python -m scripts.make_shards FOLDER OUT"
MAKE_ANEW = "make the shard anew, as GNU tar or python -m scripts.make_shards makes it"
_COPY = "Download or copy it again"

_HEADER_BYTES = 1 << 20
"""Of a tar's header with its extensions, at most: a name and a few attributes."""

_CHUNK_BYTES = 1 << 20

_PACKED = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\0", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd --rm"),
    (b"\x04\x22\x4d\x18", "lz4", "unlz4 --rm"),
)
"""What compressed files begin with, and what unpacks them."""


class BadTar(Exception):  # noqa: N818  # the file is the mistake
    """What is wrong with a file that should be a tar, as a sentence that names it."""


class Headers(io.FileIO):
    """A tar of which headers alone are read: what says that it is longer than a header is not believed."""

    def read(self, size: int | None = -1) -> bytes:
        """Raises tarfile.ReadError for more bytes than a header has."""
        if size is None or not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header that says that it has {size:,} bytes")
        return super().read(size) or b""


class Member(NamedTuple):
    """A file in a tar: its name, where its content begins, its bytes, and the checksum in the header before it."""

    name: bytes
    offset: int
    size: int
    header_sum: int


def members_of(path: str, file: Headers) -> Iterator[Member]:
    """The files of a whole tar, in its order; links, folders and labels of volumes are left out.

    Raises BadTar for what is compressed, sparse, cut off, damaged, empty, or more than one tar, and OSError.
    """
    where, end = shown(path), os.fstat(file.fileno()).st_size
    _refuse_other_kinds(path, os.pread(file.fileno(), 8, 0))
    at = 0
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape", errorlevel=2) as tar:
            while (found := tar.next()) is not None:
                at = found.offset
                member = Member(_bytes_of(found.name), found.offset_data, found.size, found.chksum)
                if found.issparse():
                    raise BadTar(
                        f"{where}: {shown(member.name)} is stored as a sparse file, without its zeros, so its bytes "
                        f"are not those of the photo: {MAKE_ANEW}."
                    )
                if member.size < 0 or member.offset + member.size > end:
                    raise _cut_off(where, f"in {shown(member.name)}, which begins at byte {member.offset:,}")
                if found.isreg():
                    yield member
                tar.members = []  # type: ignore[attr-defined]  # else it remembers all of them
            at = tar.offset
    except DAMAGED as error:
        if "unexpected end of data" in str(error) or "truncated header" in str(error):
            raise _cut_off(where, f"behind byte {at:,}") from None
        raise BadTar(f"{where} is not a tar, or is damaged, at or behind byte {at:,}: {error}. {_COPY}.") from None
    _check_end(where, file, at)


def crc32_of(file: io.FileIO, member: Member) -> int:
    """That of a member's content. Raises EOFError where the file has become shorter, and OSError."""
    total, at, end = 0, member.offset, member.offset + member.size
    while at < end:
        chunk = os.pread(file.fileno(), min(CRC_CHUNK, end - at), at)
        if not chunk:
            raise EOFError(f"the tar ends in {shown(member.name)}")
        total, at = zlib.crc32(chunk, total), at + len(chunk)
    return total


def _refuse_other_kinds(path: str, begin: bytes) -> None:
    where = shown(path)
    if not begin:
        raise BadTar(f"{where} is empty: download or copy it again, or remove it.")
    for magic, kind, command in _PACKED:
        if begin.startswith(magic):
            raise BadTar(
                f"{where} is compressed by {kind}, and photos are read from the middle of a shard: unpack it, as "
                f"{command} does. Photos become no smaller by it."
            )
    if begin.startswith(b"PK"):
        raise BadTar(f"{where} is a zip, and no tar: unpack it, and make shards: {MAKE_SHARDS}.")


def _check_end(where: str, file: Headers, at: int) -> None:
    """Raises BadTar unless blocks of zeros end the tar at byte ``at``, and nothing is behind them."""
    file.seek(at)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise _cut_off(where, f"at byte {at:,}, without the blocks that end a tar")
    if any(block):
        raise BadTar(
            f"{where} is damaged: the header at byte {at:,} has another checksum than it says, so this member and all "
            f"behind it cannot be found. {_COPY}."
        )
    while chunk := file.read(_CHUNK_BYTES):
        if any(chunk):
            raise BadTar(
                f"{where} has more data behind the end of its tar, at byte {at:,}: it may be two tars in one file, of "
                f"which only the first would be read. Let each be a file of its own: {MAKE_ANEW}."
            )


def _cut_off(where: str, how: str) -> BadTar:
    return BadTar(f"{where} is cut off: it ends {how}. {_COPY}.")


def _bytes_of(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
