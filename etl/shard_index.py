"""What an ETL answers to ``wire=index``: the members of a tar shard, and the contents of those that may be labels.

Little-endian: a magic number of 24 bytes; the shard's bytes, the number n of its members, and the CRC-32 of all that
follows, int64; six rows of n int64 (the bytes of the name, where the content begins, its bytes, the checksum in the
header, the CRC-32, and the bytes of the content that is told, -1 for none); the names; the contents.
"""

import os
import zlib
from typing import NamedTuple

import numpy as np

from etl.files import open_file
from etl.request import BadRequest, Request
from etl.tar_members import BLOCK, BadTar, Headers, Member, crc32_of, members_of

LABEL_BYTES = {"cls": 64, "json": 1 << 24}
"""Kinds of members that hold labels, and the bytes that one may have."""

MOST_BYTES = 1 << 25
"""Of an index: some 300,000 members. A client reads larger shards itself."""

_MAGIC = b"imagenet-ais members 1\n\0"
_NUMBER = np.dtype("<i8")
_HEAD = len(_MAGIC) + 3 * _NUMBER.itemsize
_COLUMNS = 6
_MOST_SUM = 255 * BLOCK


class Indexed(NamedTuple):
    """A member, the CRC-32 of its content, and its content where that is told."""

    member: Member
    crc32: int
    content: bytes | None


def index_of(path: str, request: Request) -> bytes:
    """The index of the shard in a regular file, all of which is read.

    Raises BadRequest for what is no tar whose members can be read, or has too many; EOFError for one that becomes
    shorter; and OSError.
    """
    kinds = ("cls", "json") if request.labels == "json" else ("cls",)
    most = {f".{kind}".encode(): LABEL_BYTES[kind] for kind in kinds}
    rows: list[tuple[int, ...]] = []
    names, contents, total = list[bytes](), list[bytes](), 0
    descriptor, status = open_file(path)
    try:
        with Headers(descriptor) as file:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            for member in members_of(path, file):
                told = member.size <= most.get(member.name[member.name.rfind(b".") :].lower(), -1)
                content = os.pread(descriptor, member.size, member.offset) if told else b""
                crc32 = zlib.crc32(content) if told else crc32_of(file, member)
                names.append(member.name)
                contents.append(content)
                rows.append((len(member.name), *member[1:], crc32, len(content) if told else -1))
                total += _COLUMNS * _NUMBER.itemsize + len(member.name) + len(content)
                if total > MOST_BYTES - _HEAD:
                    raise BadRequest(f"the index of this shard has more than {MOST_BYTES} bytes")
    except BadTar as error:
        raise BadRequest(str(error)) from None
    numbers = np.array(rows, _NUMBER).reshape(-1, _COLUMNS).T.tobytes()
    return packed(status.st_size, len(rows), b"".join((numbers, *names, *contents)))


def packed(size: int, members: int, rest: bytes) -> bytes:
    """An index: ``rest`` is all behind its head."""
    return _MAGIC + np.array((size, members, zlib.crc32(rest)), _NUMBER).tobytes() + rest


def unpacked(index: bytes, size: int) -> list[Indexed]:
    """The members in the index of a shard of ``size`` bytes, in its order.

    Raises ValueError for what is no such index, or cannot be true of any such shard.
    """
    if len(index) < _HEAD or not index.startswith(_MAGIC):
        raise ValueError("the answer is not the index of a shard")
    has, count, crc32 = np.frombuffer(index, _NUMBER, 3, len(_MAGIC)).tolist()
    if has != size:
        raise ValueError(f"the ETL sees a shard of {has:,} bytes, and {size:,} are listed")
    begin = _HEAD + _COLUMNS * _NUMBER.itemsize * count
    if count < 0 or begin > len(index) or zlib.crc32(memoryview(index)[_HEAD:]) != crc32:
        raise ValueError("the index is damaged")
    columns = np.frombuffer(index, _NUMBER, _COLUMNS * count, _HEAD).reshape(_COLUMNS, count)
    lengths, offsets, sizes, _, _, told = columns
    most = (len(index), size, size, _MOST_SUM, (1 << 32) - 1, len(index))
    least = (1, BLOCK, 0, 1, 0, -1)
    bounded = zip(columns, least, most, strict=True)
    if any(int(c.min(initial=low)) < low or int(c.max(initial=low)) > high for c, low, high in bounded):
        raise ValueError("the index has numbers that no shard has")
    ends = offsets + sizes
    if (offsets % BLOCK).any() or (ends > size).any() or (offsets[1:] < ends[:-1] + BLOCK).any():
        raise ValueError("the index has members that lie in each other, or outside their shard")
    known = told >= 0
    if (told[known] != sizes[known]).any() or begin + int(lengths.sum()) + int(told[known].sum()) != len(index):
        raise ValueError("the index has other names or contents than it says")
    found, at, to = list[Indexed](), begin, begin + int(lengths.sum())
    if index.find(0, begin, to) >= 0:
        raise ValueError("the index has names with zeros, which no tar has")
    for length, offset, bytes_, header_sum, crc, content in columns.T.tolist():
        member = Member(index[at : at + length], offset, bytes_, header_sum)
        at += length
        found.append(Indexed(member, crc, index[to : to + content] if content >= 0 else None))
        to += max(content, 0)
    return found
