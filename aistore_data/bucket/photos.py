"""The bytes of a sample's photo in a bucket: an object, or a member of a tar shard, which is a part of an object.

A member is asked for with the tar header before it. The answer says how large the shard is; the header's checksum and
the photo's CRC-32 show that it is the member that was indexed.
"""

import re
import zlib
from collections.abc import Iterable
from functools import partial
from typing import Any

from aistore_data.bucket.listing import object_problem
from aistore_data.client.access import object_path
from aistore_data.client.answer import Get
from aistore_data.client.http_reader import HttpReader
from etl.request import At
from sources.manifest import Manifest
from sources.shards.manifest import Place, ShardManifest
from sources.shards.members import BLOCK
from sources.shards.reader import is_header_of
from sources.text import shell_word

_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


def objects_of(manifest: Manifest, indices: Iterable[int]) -> list[str]:
    """The names of the objects in which samples lie."""
    if isinstance(manifest, ShardManifest):
        return [manifest.shard_of(index).name for index in indices]
    return [manifest.name(index) for index in indices]


def object_of(manifest: Manifest, index: int) -> str:
    """The name of the object in which a sample lies."""
    return objects_of(manifest, [index])[0]


def some_objects(manifest: Manifest, most: int) -> list[str]:
    """The names of up to ``most`` objects that hold samples."""
    if isinstance(manifest, ShardManifest):
        return [shard.name for shard in manifest.used()[:most]]
    return [manifest.name(index) for index in range(min(len(manifest), most))]


def at_of(manifest: Manifest, index: int) -> tuple[()] | At:
    """Where in its object a sample lies, as a request to an ETL says it; of an object that is the photo nothing."""
    if not isinstance(manifest, ShardManifest):
        return ()
    place = manifest.place(index)
    return place.offset, place.size, place.header_sum, place.crc32


def asking(manifest: Manifest, index: int) -> dict[str, Any]:
    """What a ``Get`` of the photo of sample ``index`` says beside its path."""
    if not isinstance(manifest, ShardManifest):
        return {"most": int(manifest.sizes[index]), "check": partial(object_problem, manifest, index)}
    place = manifest.place(index)
    begin, end = place.offset - BLOCK, place.offset + place.size
    return {"part": (begin, end), "most": end - begin, "check": partial(member_problem, manifest, index)}


def photo_in(manifest: Manifest, body: bytes | bytearray) -> bytes:
    """The photo in the answer to a ``Get``."""
    return bytes(body[BLOCK:] if isinstance(manifest, ShardManifest) else body)


def read_photo(reader: HttpReader, uri: str, manifest: Manifest, index: int) -> bytes:
    """The photo of a sample; of an object whatever it is by now.

    Raises ObjectError, also for a member that is not as it was indexed, and OSError.
    """
    path = object_path(uri, object_of(manifest, index))
    if not isinstance(manifest, ShardManifest):
        return reader.get(path)
    return photo_in(manifest, reader.get(path, **asking(manifest, index)))


def how_to_look(uri: str, endpoint: str, manifest: Manifest, index: int) -> str:
    """The command that shows what the photo of a sample is."""
    name = object_of(manifest, index)
    if not isinstance(manifest, ShardManifest):
        return f"ais get {shell_word(f'{uri}/{name}')} - | file -"
    place = manifest.place(index)
    part = f"{place.offset}-{place.offset + place.size - 1}"
    return f"curl -sLr {part} {shell_word(endpoint + object_path(uri, name))} | file -"


def shard_problem(manifest: ShardManifest, index: int, get: Get) -> str:
    """What the answer to ``get`` says of a shard that is not the one that was indexed; "" if nothing does."""
    place = manifest.place(index)
    if get.status == 416:
        return f"it has no byte {place.offset - BLOCK:,} any more, and had {place.shard_size:,}"
    match = _CONTENT_RANGE.fullmatch(get.headers.get("content-range", ""))
    if match and int(match[3]) != place.shard_size:
        return f"it has {int(match[3]):,} bytes and had {place.shard_size:,}"
    if _is_part(get, place) and not is_header_of(get.body[:BLOCK], place):
        return f"another member lies at byte {place.offset:,}"
    return ""


def member_problem(manifest: ShardManifest, index: int, get: Get) -> str:
    """What shows that the answer to ``get`` is not sample ``index`` as it was indexed; "" if nothing does."""
    place = manifest.place(index)
    if problem := shard_problem(manifest, index, get):
        return f"was indexed in a shard that was changed since: {problem}"
    if not _is_part(get, place):
        return "did not come: the answer is not the part of the shard that was asked for"
    if place.crc32 and zlib.crc32(get.body[BLOCK:]) != place.crc32:
        return "is damaged, or overwritten in its shard: its CRC-32 is not the one that was indexed"
    return ""


def _is_part(get: Get, place: Place) -> bool:
    begin, end = place.offset - BLOCK, place.offset + place.size
    said = f"bytes {begin}-{end - 1}/{place.shard_size}"
    return get.headers.get("content-range", "") == said and len(get.body) == end - begin
