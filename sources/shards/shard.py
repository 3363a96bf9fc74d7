"""One shard: its samples, where they lie, and their labels.

WebDataset's rules: a member's key is its folder and its name up to the first dot, what follows is its kind, and the
members of one key are a sample, wherever in the shard they lie. ``key.jpg`` is the photo and ``key.cls`` its label.
"""

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etl.shard_index import LABEL_BYTES
from sources.disk import shown
from sources.errors import DataError
from sources.manifest import IMG_EXTENSIONS
from sources.shards.members import MAKE_ANEW, Headers, Member, crc32_of, members_of

MOST_CLASSES = 100_000
"""Larger numbers of classes are something else."""

_KEY = re.compile(rb"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(rb"__[^/]*__(?:$|/)")
"""Members that WebDataset skips."""
_KINDS = frozenset(extension[1:].encode() for extension in IMG_EXTENSIONS)


@dataclass(frozen=True)
class Rows:
    """The n samples of a shard in the order of their photos: names bytewise, all else int64 [n].

    ``offsets`` are where the photos begin in the file, ``header_sums`` the checksums in the tar headers before them.
    """

    names: list[bytes]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    header_sums: NDArray[np.int64]
    crc32: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)


def read_shard(path: str, label_field: str = "") -> Rows:
    """The samples of a shard, of which all is read; labels are those of ``.cls``, or of a field of ``.json``.

    Raises DataError that names the shard and the member for what is not a shard of photos with labels, and OSError.
    """
    with Headers(path) as file:
        return read_open_shard(file, path, label_field)


def read_open_shard(file: Headers, path: str, label_field: str = "") -> Rows:
    """As ``read_shard``, of an open file; ``path`` is where the shard lies, for messages."""
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def crc32(member: Member) -> int:
        try:
            return crc32_of(file, member)
        except EOFError:
            what = "became shorter while it was read: start again when nobody writes to it"
            raise _at(path, member.name, what) from None

    def content(member: Member) -> bytes:
        return os.pread(file.fileno(), member.size, member.offset)

    return samples_of(members_of(path, file), crc32, content, path, label_field)


def samples_of(
    members: Iterable[Member],
    crc32: Callable[[Member], int],
    content: Callable[[Member], bytes],
    path: str,
    label_field: str,
) -> Rows:
    """The samples among the members of a shard: the CRC-32 of photos is asked for, and the content of labels.

    Raises as ``read_shard``, and what the two functions raise.
    """
    photos: dict[bytes, Member] = {}
    labels: dict[bytes, tuple[int, bytes]] = {}
    fields: dict[bytes, tuple[int, bytes]] = {}
    seen: set[bytes] = set()
    sums: list[int] = []
    for member in members:
        _refuse_way_out(path, member.name)
        match = _KEY.fullmatch(member.name)
        if match is None or _META.match(member.name):
            continue
        key, kind = match[1], match[2].lower()
        if (member.name if kind in _KINDS else key + b"." + kind) in seen:
            raise _at(path, member.name, f"is there twice: {MAKE_ANEW}")
        seen.add(member.name if kind in _KINDS else key + b"." + kind)
        if kind in _KINDS:
            if key in photos:
                raise _at(path, member.name, f"and {shown(photos[key].name)} are two photos of one key: remove one")
            photos[key] = member
            sums.append(crc32(member))
        elif kind == b"cls":
            labels[key] = _number_in(path, member, _content(content, path, member, "cls")), member.name
        elif kind == b"json" and label_field:
            text = _content(content, path, member, "json")
            fields[key] = _field_in(path, member, text, label_field), member.name
    chosen = _labels(path, photos, labels, fields, label_field)
    found = list(photos.values())
    if not found:
        raise DataError(
            f"{shown(path)} holds no photos ({', '.join(IMG_EXTENSIONS)}), whose names are KEY.jpg with KEY.cls beside "
            "them: remove it, or name the shards that are meant."
        )
    return Rows(
        [member.name for member in found],
        np.array(chosen, np.int64),
        np.array([member.size for member in found], np.int64),
        np.array([member.offset for member in found], np.int64),
        np.array([member.header_sum for member in found], np.int64),
        np.array(sums, np.int64),
    )


def _labels(
    path: str,
    photos: dict[bytes, Member],
    labels: dict[bytes, tuple[int, bytes]],
    fields: dict[bytes, tuple[int, bytes]],
    label_field: str,
) -> list[int]:
    """Those of the photos, in their order."""
    for key, (number, name) in labels.items():
        if key not in photos:
            raise _at(path, name, f"is a label without a photo: add one, or remove the label; {MAKE_ANEW}")
        if key in fields and fields[key][0] != number:
            raise _at(
                path,
                name,
                f"says {number:,}, and the field {label_field!r} of {shown(fields[key][1])} {fields[key][0]:,}: leave "
                f"data.label_field out to believe the first, or {MAKE_ANEW}",
            )
    given = fields if label_field else labels
    for key, member in photos.items():
        if key not in given and label_field:
            raise _at(path, member.name, f"has no .json with its label, for data.label_field={label_field}")
        if key not in given:
            raise _at(
                path,
                member.name,
                f"has no label: {shown(key)}.cls is missing. Where a .json has it, name its field: "
                f"data.label_field=label. Else {MAKE_ANEW}",
            )
    return [given[key][0] for key in photos]


def _content(content: Callable[[Member], bytes], path: str, member: Member, kind: str) -> bytes:
    most = LABEL_BYTES[kind]
    if member.size > most:
        raise _at(path, member.name, f"has {member.size:,} bytes, and a label has {most:,} at most: {MAKE_ANEW}")
    return content(member)


def _number_in(path: str, member: Member, content: bytes) -> int:
    text = content.decode("utf-8", "replace").strip()
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) >= MOST_CLASSES:
        raise _at(path, member.name, f"holds {text[:20]!r}, and no class number from 0 to {MOST_CLASSES - 1:,}")
    return int(text)


def _field_in(path: str, member: Member, content: bytes, field: str) -> int:
    try:
        value = json.loads(content)[field]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _at(path, member.name, f"is not JSON with a field {field!r} (data.label_field)") from None
    number = int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value) else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < MOST_CLASSES:
        said = f"holds {str(value)[:20]!r} in the field {field!r}"
        raise _at(path, member.name, f"{said}, and no class number from 0 to {MOST_CLASSES - 1:,}")
    return number


def _refuse_way_out(path: str, name: bytes) -> None:
    if name.startswith(b"/") or b".." in name.split(b"/"):
        raise _at(
            path, name, f"is a name that leads out of the folder that a tar is unpacked in, as none has that is meant "
            f"well: {MAKE_ANEW}"
        )  # fmt: skip


def _at(path: str, name: bytes, what: str) -> DataError:
    return DataError(f"{shown(path)}: {shown(name)} {what}.")
