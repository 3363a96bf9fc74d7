"""The id and the name of each ImageNet class, from the devkit's meta.mat.

A reader of just so much of MATLAB's level 5 format as that one file needs (MathWorks, "MAT-File Format", chapter 1): an
array of structures with numbers and texts, compressed or not.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_HEADER_BYTES = 128

MOST_BYTES = 64 << 20
"""Of the file, unpacked: the devkit's has less than 1 MB."""

_MOST_NUMBERS = 1 << 16
_MOST_DEPTH = 8


def read_synsets(content: bytes) -> dict[int, str]:
    """ILSVRC2012_ID → WNID of the leaves, which are the classes. Raises ValueError for anything but such a file."""
    try:
        if content[126:128] != b"IM":
            raise ValueError("it is no little-endian MAT file of level 5")
        for kind, body in _elements(content[_HEADER_BYTES:], _MOST_DEPTH):
            name, rows = _matrix(body, _MOST_DEPTH) if kind == _MATRIX else ("", [])
            if name == "synsets":
                return {int(row["ILSVRC2012_ID"][0]): row["WNID"] for row in rows if int(row["num_children"][0]) == 0}
    except (struct.error, zlib.error, KeyError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(f"its structures cannot be read: {error!r}") from None
    raise ValueError("it has no variable 'synsets'")


def _elements(data: bytes, depth: int) -> Iterator[tuple[int, bytes]]:
    """(type, bytes) of the data elements one after the other; ``depth``: how deep packed ones may lie in each other."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:  # up to four bytes of data within the tag
            yield kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]
            at += 8
            continue
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            raise ValueError("it is cut short")
        at += 8 + size
        if kind == _COMPRESSED:
            yield from _elements(_unpacked(body), _deeper(depth))
        else:
            yield kind, body
            at += -at % 8


def _unpacked(body: bytes) -> bytes:
    """At most MOST_BYTES, whatever is packed there."""
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(body, MOST_BYTES)
    if unpacker.unconsumed_tail or not unpacker.eof:
        raise ValueError(f"it is cut short, or unpacks to more than {MOST_BYTES:,} bytes")
    return data


def _deeper(depth: int) -> int:
    if depth == 0:
        raise ValueError("its structures lie too deep in each other")
    return depth - 1


def _matrix(body: bytes, depth: int) -> tuple[str, Any]:
    """(name, value): a list of dictionaries for structures, a text, or a tuple of numbers."""
    parts = list(_elements(body, 0))
    kind = struct.unpack_from("<I", parts[0][1])[0] & 0xFF
    name = parts[2][1].decode()
    if kind == _STRUCT:
        width = struct.unpack("<i", parts[3][1])[0]
        packed = parts[4][1]
        if width < 1 or not packed:
            raise ValueError("its structures have no fields")
        fields = [packed[at : at + width].split(b"\0")[0].decode() for at in range(0, len(packed), width)]
        values = [_matrix(part, _deeper(depth))[1] for _, part in parts[5:]]
        rows = range(0, len(values), len(fields))
        return name, [dict(zip(fields, values[row : row + len(fields)], strict=True)) for row in rows]
    if kind == _CELL or len(parts) < 4:
        return name, ()
    kind_of_data, data = parts[3]
    if kind == _CHAR and kind_of_data in _TEXTS:
        return name, data.decode(_TEXTS[kind_of_data])
    numbers = _numbers(kind_of_data, data)
    return name, "".join(map(chr, numbers)) if kind == _CHAR else numbers


def _numbers(kind: int, data: bytes) -> tuple[Any, ...]:
    code = _NUMBERS[kind]
    if len(data) > _MOST_NUMBERS:
        raise ValueError("it holds an array that is larger than any of the devkit's")
    return struct.unpack(f"<{len(data) // struct.calcsize(code)}{code}", data)
