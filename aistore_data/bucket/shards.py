"""The manifest of a split that lies in tar shards of a bucket.

Each shard is read once, whole, here or by an ETL's pod beside it. What is found is kept in the bucket beside the
shards, or in the local cache. It is bound to the shards' names, sizes and checksums as the bucket is listed: of what
has changed alone it is made anew.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from aistore_data.bucket.layout import METADATA_PREFIX, index_name
from aistore_data.bucket.listing import NoImagesError, read_class_names, read_object
from aistore_data.bucket.store import Entry, ObjectStore
from sources.disk import read_cached, write_cached
from sources.errors import DataError, ObjectError
from sources.manifest import IMG_EXTENSIONS, Manifest, checksum_digest
from sources.progress_bar import Progress
from sources.shards.columns import Columns
from sources.shards.index import build_index, rows_of
from sources.shards.listing import CLASSES, LIST, counts_in
from sources.shards.manifest import Shard, ShardManifest, in_memory, of_bytes
from sources.shards.members import BLOCK, MAKE_SHARDS, Headers
from sources.shards.shard import MOST_CLASSES, Rows, read_open_shard
from sources.shards.splits import Found

_NOWHERE = Path()
"""The folder of a manifest whose shards have their objects' names."""

_SPARE_BYTES = 1 << 24
_XXHASH = 16
"""Characters of AIStore's own checksum in a listing: those of other kinds are not of this length."""

_INSTEAD = f"{MAKE_SHARDS} makes them of a folder, or data.layout=objects reads photos"


class Listed(NamedTuple):
    """The shards below a prefix, sorted, and what lies there beside them."""

    entries: dict[Shard, Entry]
    images: int
    """Objects that are photos of their own."""


ByEtl = Callable[[Mapping[Shard, Entry]], Iterator[tuple[Shard, Rows]]]
"""Yields what an ETL reads of some of the shards that it is given."""


def read_shards(
    store: ObjectStore, prefix: str, label_field: str, say: Callable[[str], None], by_etl: ByEtl | None = None
) -> tuple[Found, frozenset[str]]:
    """The samples below ``prefix`` of a bucket and their classes' names, and the shards that AIStore keeps in parts.

    ``say`` hears what is done about a kept index that cannot be used, and of photos that are left out. Shards are read
    ``by_etl``, and those that it leaves out here. Raises NoImagesError where there are no shards, DataError that names
    shard and member, and what the store and ``by_etl`` raise.
    """
    where = f"{store.uri}/{prefix}".removesuffix("/")
    listed = _list(store, prefix)
    if not listed.entries:
        raise NoImagesError(
            f"{where} holds no tar shards, which are objects named *.tar: {_INSTEAD}. Check data.bucket and the "
            "prefixes, too."
        )
    if listed.images:
        say(f"{where} holds {listed.images:,} photos beside its shards, which data.layout=shards leaves out")
    shards = list(listed.entries)
    for shard in shards:
        if shard.size == 0:
            raise DataError(f"{store.uri}/{shard.name} is empty: upload it again, or remove it.")
    counts = _counts(store, prefix, {shard.name for shard in shards})
    former = _kept(store, prefix, label_field, shards, say)
    if former and former.shards == tuple(shards):
        manifest = former
    else:
        read = partial(_read, store, label_field, listed.entries, by_etl)
        manifest = build_index(former, shards, read, partial(_keep, store, prefix, label_field))
    held = np.bincount(manifest.columns.shard, minlength=len(shards)).tolist()
    for shard, holds in zip(manifest.shards, held, strict=True):
        if (count := counts.get(shard.name, holds)) != holds:
            raise DataError(
                f"{store.uri}/{shard.name} holds {holds:,} photos, and {store.uri}/{prefix}{LIST} says {count:,}: "
                "upload the shard again, or the list that belongs to it."
            )
    names = read_class_names(store, prefix + CLASSES) or None
    in_parts = frozenset(entry.name for entry in listed.entries.values() if entry.in_parts)
    return Found(manifest, names, where, where), in_parts


def _list(store: ObjectStore, prefix: str) -> Listed:
    """A cloud's checksums count for nothing: what a listing says is not what AIStore says when it has the objects."""
    entries, images, is_cloud = [], 0, store.is_cloud
    with Progress(f"objects of {store.uri}/{prefix} listed") as progress:
        for entry in store.list(prefix):
            name = entry.name
            if name.endswith(".tar") and not name.startswith(METADATA_PREFIX) and "/." not in f"/{name}":
                entries.append(entry._replace(checksum="") if is_cloud else entry)
            images += name.lower().endswith(IMG_EXTENSIONS) and not name.startswith(METADATA_PREFIX)
            progress.add(1)
    entries.sort(key=lambda entry: entry.name.encode("utf-8", "surrogateescape"))
    return Listed({Shard(e.name, e.size, checksum_digest(e.checksum)): e for e in entries}, images)


def _counts(store: ObjectStore, prefix: str, there: set[str]) -> dict[str, int]:
    """How many photos each shard has by wids' list beside them; none where there is no list, or one of other places.

    Raises DataError unless it lists the shards that are there.
    """
    where = f"{store.uri}/{prefix}{LIST}"
    content = read_object(store, prefix + LIST, _SPARE_BYTES)
    if content is None:
        return {}
    try:
        listed = counts_in(content)
    except ValueError:
        raise DataError(
            f"{where} is not a list of shards: wids' has shardlist with url and nsamples of each. Upload it again, or "
            "remove it."
        ) from None
    if any(":" in name or name.startswith(("/", "..")) for name in listed):
        return {}
    counts = {prefix + name: count for name, count in listed.items()}
    for name in sorted(counts.keys() ^ there):
        how = "lists it" if name in counts else "does not list it"
        missing = "is missing" if name in counts else "is there"
        raise DataError(
            f"{store.uri}/{name} {missing}, and {where} {how}: upload the shards again, or the list that belongs to "
            "them."
        )
    return counts


def _kept(
    store: ObjectStore, prefix: str, label_field: str, shards: Sequence[Shard], say: Callable[[str], None]
) -> ShardManifest | None:
    """The kept index that knows most of ``shards``, of the bucket's and that of the local cache; None for none.

    Others may write to the bucket, so all of it is checked; a label that was changed there cannot be seen.
    """
    name, now = index_name(prefix, label_field), set(shards)
    most = _SPARE_BYTES + sum(shard.size for shard in shards) // 8
    found: list[ShardManifest] = []
    for content in (read_object(store, name, most), read_cached(f"{store.uri}/{name}", most)):
        if content:
            try:
                manifest = of_bytes(content, _NOWHERE, ())
                if problem := _problem(manifest):
                    raise ValueError(problem)
                found.append(manifest)
            except (ValueError, TypeError, OverflowError, IndexError) as error:
                say(f"the index that is kept of {store.uri}/{prefix} cannot be used, as {error}: it is made anew")
    return max(found, key=lambda manifest: len(now.intersection(manifest.shards)), default=None)


def _problem(manifest: ShardManifest) -> str:
    """What shows that a kept index is not as one is made; "" if nothing does. Whoever wrote it may mean ill."""
    columns, shards = manifest.columns, manifest.shards
    if not all(type(s.name) is str and type(s.size) is int and type(s.stamp) is int for s in shards):
        return "its list of shards is damaged"
    if columns.samples == 0 or min(int(column.min()) for column in columns[1:]) < 0:
        return "it has no samples, or negative numbers"
    if int(columns.labels.max()) >= MOST_CLASSES or int(columns.shard.max()) >= len(shards):
        return "it has labels, or shards, that there are not"
    if problem := manifest.problem():
        return problem
    if Manifest.sha256(manifest) != manifest.sha256() or columns.ordered() is not columns:
        return "its hash or its order is not that of its samples"
    sizes = np.array([shard.size for shard in shards], np.int64)[columns.shard]
    begins = columns.offsets_in.astype(np.int64)
    inside = (begins >= BLOCK) & (columns.sizes <= sizes) & (begins <= sizes - columns.sizes.astype(np.int64))
    return "" if bool(inside.all()) else "it has photos that lie outside their shards"


def _keep(
    store: ObjectStore, prefix: str, label_field: str, columns: Columns, shards: Sequence[Shard], complete: bool
) -> ShardManifest:
    """The manifest; its image is kept in the bucket, or in the local cache where that may not be written to.

    One that is not complete is kept in the cache alone: nobody waits for an upload who has interrupted this.
    """
    manifest, name = in_memory(columns, shards, _NOWHERE, ()), index_name(prefix, label_field)
    image = manifest.to_bytes()
    if complete:
        try:
            store.put(name, image)
            return manifest
        except (ObjectError, OSError) as error:
            write_cached(f"{store.uri}/{name}", image)  # it may have taken long to make
            if not (isinstance(error, ObjectError) and error.status in (401, 403)):
                raise
    else:
        write_cached(f"{store.uri}/{name}", image)
    return manifest


def _read(
    store: ObjectStore, label_field: str, entries: dict[Shard, Entry], by_etl: ByEtl | None, shards: Sequence[Shard]
) -> Iterator[tuple[Shard, Rows]]:
    """Each shard and what is in it: what the ETL answers of them first."""
    left = {shard: entries[shard] for shard in shards}
    if by_etl and left:
        for shard, rows in by_etl(dict(left)):
            del left[shard]
            yield shard, rows
    if left:
        checksums = {shard: entry.checksum for shard, entry in left.items()}
        yield from rows_of(list(left), partial(_rows, store, label_field, checksums))


def _rows(store: ObjectStore, label_field: str, checksums: dict[Shard, str], shard: Shard) -> Rows:
    """What is in a shard: it is copied to a file without a name, and read there."""
    where, size, digest = f"{store.uri}/{shard.name}", 0, xxhash.xxh64()
    with tempfile.TemporaryFile() as file:
        try:
            for piece in store.read(shard.name):
                size += len(piece)
                digest.update(piece)
                file.write(piece)
                if size > shard.size:
                    break
            file.flush()
        except (ObjectError, OSError) as error:
            raise DataError(f"{where} cannot be read: {store.explain(error)}") from None
        listed = checksums[shard]
        if size != shard.size or (len(listed) == _XXHASH and listed != digest.hexdigest()):
            raise DataError(
                f"{where} did not come as it was listed a moment ago: start again when nobody writes to the bucket."
            )
        with Headers(file.fileno(), closefd=False) as tar:
            tar.seek(0)
            return read_open_shard(tar, where, label_field)
