"""Which file an ETL reads for an object, and how.

A storage node sends an ETL a path in place of an object's bytes, in a URL into which it writes the object's name as it
is. So an object named ``x?etl_fqn=/etc/passwd#`` asks for another file. An ETL therefore reads a file only if AIStore
keeps the very object there that the request names:

    MOUNTPATH/@PROVIDER[/@UUID#NAMESPACE or /#NAMESPACE]/BUCKET/%ob/OBJECT
"""

import os
import re
import stat
import zlib
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, unquote

from etl.request import TAR_BLOCK, At, BadRequest, looks_pulled
from etl.sample import CorruptSample

FILE_OF_SCOPE = "embedded_ais.file"
"""Key of an ASGI scope, where no client can write: ``etl_fqn`` as the embedded AIS has checked it. Its files lie as it
likes."""

_OBJECTS = "/%ob/"
_LONG_NAME, _LONG_PATH = 255, 3072
_SLASHES = re.compile("/{2,}")


class FileBytes(bytes):
    """A photo that was read from a file, or found in a tar shard, and knows where it lies; "": in no file."""

    file = ""


def query_of(scope: Mapping[str, Any]) -> dict[str, str]:
    """The query of a request for an object. Raises BadRequest where it asks for another object's file, or twice."""
    items = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    query = dict(items)
    if len(query) < len(items):
        raise BadRequest("an argument of the query is given twice")
    path = scope["path"].removeprefix("/")
    if {".", ".."} & set(path.split("/")):
        raise BadRequest("a path with . or .. is the name of no object")
    if scope["method"] == "PUT" and looks_pulled(path):
        raise BadRequest("a name that begins with PROVIDER/@# cannot be told from another object's")
    fqn = query.get("etl_fqn", "").strip()
    checked = not fqn or scope["method"] not in ("PUT", "GET") or scope.get(FILE_OF_SCOPE) == query["etl_fqn"]
    if not checked and not is_own_file(scope["method"], path, normal_path(fqn)):
        raise BadRequest("etl_fqn is not the file of the object that is asked for")
    return query


def is_of_aistore(file: str) -> bool:
    """Whether a file lies as AIStore's do. Those of the embedded AIS are a user's own."""
    return _OBJECTS in file


def normal_path(fqn: str) -> str:
    """The file that ``etl_fqn`` names; it is encoded once more than the query."""
    return os.path.normpath("/" + unquote(fqn).lstrip("/"))


def is_own_file(method: str, path: str, file: str) -> bool:
    """Whether AIStore keeps the object that ``method`` and the decoded ``path`` name in ``file``.

    PUT has the path BUCKET/OBJECT (hpush). It tells neither provider nor namespace, and the name has been decoded once
    too often. GET has PROVIDER/@UUID#NAMESPACE/BUCKET/OBJECT (hpull).
    """
    folder, objects, name = file.partition(_OBJECTS)
    *rest, bucket = folder.split("/")
    namespace = rest.pop() if len(rest) > 1 and "#" in rest[-1] and rest[-1][0] in "@#" else ""
    if not (objects and name and bucket and rest[-1:] and rest[-1].startswith("@")):
        return False
    if method == "PUT":
        if looks_pulled(path):
            return False
        start = f"{bucket}/"
    else:
        start = f"{rest[-1][1:]}/{namespace if namespace.startswith('@') else '@' + (namespace or '#')}/{bucket}/"
    if not path.startswith(start):
        return False
    asked = path[len(start) :]
    return (
        asked in (name, unquote(name)) or _SLASHES.sub("/", path) == start + name or _is_short_form(folder, asked, name)
    )


def _is_short_form(folder: str, asked: str, name: str) -> bool:
    """Whether ``name`` stands for a name that no file can have (fs/fntl.go of AIStore)."""
    long = asked.encode("utf-8", "replace")
    if len(long) <= _LONG_NAME or (len(long) <= _LONG_PATH and len(os.path.basename(long)) <= _LONG_NAME):
        return False
    whole = f"{folder}{_OBJECTS}".encode("utf-8", "replace") + long
    return name in (f".x{sha256(whole).hexdigest()}", f".x{sha256(long).hexdigest()}")


def open_file(path: str) -> tuple[int, os.stat_result]:
    """A regular file, to be read. Raises BadRequest for anything else, and OSError."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError as error:  # NUL
        raise BadRequest(f"etl_fqn is not a path: {error}") from None
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        os.close(file)
        raise BadRequest("etl_fqn is not a regular file")
    return file, status


def read(path: str, limit: int, wait: bool = True, at: At | None = None) -> bytes:
    """The photo in a regular file, or ``at`` a place in it. Raises BadRequest for anything else, and for more than
    ``limit`` bytes; OSError; CorruptSample as ``member``.

    Not ``wait``: by preadv2's RWF_NOWAIT, which raises BlockingIOError where a disk would have to be waited for.
    """
    file, status = open_file(path)
    try:
        size = at[1] if at else status.st_size
        if size > limit:
            raise BadRequest(f"the object has {size} bytes, and this ETL reads {limit} at most")
        begin = 0
        if at:
            begin, size = at[0] - TAR_BLOCK, max(0, min(size + TAR_BLOCK, status.st_size - at[0] + TAR_BLOCK))
        data: bytes | bytearray
        if wait:
            data = os.pread(file, size, begin)
        else:
            data = bytearray(size)
            if os.preadv(file, [data], begin, os.RWF_NOWAIT) < size:
                raise BlockingIOError
        content = member(data, at) if at else FileBytes(data)
        content.file = f"{path}:{at[0]}" if at else path
        return content
    finally:
        os.close(file)


def in_shard(shard: bytes, at: At) -> "FileBytes":
    """The photo ``at`` a place in a tar shard. Raises CorruptSample as ``member``."""
    return member(shard[at[0] - TAR_BLOCK : at[0] + at[1]], at)


def member(data: bytes | bytearray, at: At) -> "FileBytes":
    """The photo behind its header. Raises CorruptSample for another member than ``at`` says, or a part of it."""
    _, size, header_sum, crc32 = at
    photo = FileBytes(data[TAR_BLOCK:])
    if len(photo) != size or data[148:156].strip(b" \0") != b"%06o" % header_sum:
        raise CorruptSample("in a shard in which another member lies at its place")
    if crc32 and zlib.crc32(photo) != crc32:
        raise CorruptSample("damaged: its CRC-32 is another one")
    return photo


def read_cached(path: str, limit: int, at: At | None = None) -> bytes | None:
    """The bytes of a file that can be had without waiting for a disk, or None.

    None also for files of more than ``limit`` bytes, for systems and file systems that cannot tell, and for whatever
    cannot be read.
    """
    try:
        return read(path, limit, wait=False, at=at)
    except (OSError, BadRequest, AttributeError):  # told by whoever reads it; AttributeError: no RWF_NOWAIT here
        return None
