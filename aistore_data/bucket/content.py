"""Whether an object's bytes are those that were listed under its name."""

import hashlib

import xxhash

from aistore_data.client.connection import Get
from sources.manifest import Manifest, checksum_digest

_COMPUTABLE = ("md5", "sha256", "sha512")


def object_problem(manifest: Manifest, index: int, get: Get) -> str:
    """What shows that the answer to ``get`` is not object ``index`` as it was listed; "" if nothing does.

    The content itself is summed up. Of a bucket whose checksums cannot be computed here (crc32c) the answer's own word
    is taken; of one without checksums, the size alone is known.
    """
    size, listed = int(manifest.sizes[index]), int(manifest.checksums[index])
    if len(get.body) != size:
        return f"has {len(get.body)} bytes, and had {size} when it was listed: somebody has replaced it"
    if listed and checksum_digest(xxhash.xxh64_hexdigest(get.body)) != listed and not _fits(get, listed):
        return "has another checksum than when it was listed: somebody has replaced it"
    return ""


def _fits(get: Get, listed: int) -> bool:
    """By a checksum of another kind than AIStore's own."""
    kind = get.headers.get("ais-checksum-type", "").lower()
    if kind in _COMPUTABLE:
        return checksum_digest(hashlib.new(kind, get.body).hexdigest()) == listed
    return kind not in ("", "none", "xxhash2") and checksum_digest(get.headers.get("ais-checksum-value")) == listed
