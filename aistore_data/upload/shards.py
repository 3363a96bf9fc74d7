"""Tar shards of a folder on their way to a bucket: each is an object, put in one piece."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from aistore_data.bucket.store import AisStore
from aistore_data.upload.destination import SPLITS, opened_bucket, present
from aistore_data.upload.items import InlineBytes, Item, LargeFile
from aistore_data.upload.transfer import Outcome, plan, transfer
from sources.disk import Content, cause, shown
from sources.errors import ConfigError, DataError
from sources.manifest import IMG_EXTENSIONS
from sources.shards.listing import CLASSES, INFO, LIST, shards_of
from sources.shards.members import MAKE_SHARDS, Headers, members_of
from sources.walk import is_folder, top_of

MOST_BYTES = 256 << 20
"""Of a shard that AIStore serves well: all of it lies on one node, and of a cloud's bucket it is fetched whole."""

_ANSWER_S = 300.0
"""In which a node answers, once it has all of a shard: AIStore hands a cloud's on before it does."""

_LABELS = (b".cls", b".json")


class ShardFile(NamedTuple):
    """A shard, as an item's place. It can be pickled."""

    path: str
    unit: None = None

    def read(self) -> Content:
        """All of it, mapped. Raises DataError for what no run could read, as far as the headers tell."""
        content = LargeFile(self.path).read()
        names = []
        try:
            with Headers(self.path) as file:
                names = [member.name.lower() for member in members_of(self.path, file)]
        except OSError as error:
            raise DataError(f"{shown(self.path)} cannot be read: {cause(error)}.") from None
        images = tuple(extension.encode() for extension in IMG_EXTENSIONS)
        if not any(name.endswith(images) for name in names) or not any(name.endswith(_LABELS) for name in names):
            raise DataError(
                f"{shown(self.path)} is not a shard of photos with labels, which are KEY.jpg and KEY.cls, or KEY.json, "
                f"in a tar: remove it. {MAKE_SHARDS} makes shards of photos in class folders."
            )
        return content


def upload_shards(
    root: Path, store: AisStore, workers: int, replaces: bool, say: Callable[[str], None]
) -> tuple[Outcome, bool]:
    """Upload the shards of the splits; also whether there are such for validation.

    ``say`` hears of shards that AIStore does not serve well. Raises ConfigError, ClusterError and DataError.
    """
    splits = [prefix for prefix in SPLITS if (root / INFO).is_file() or is_folder(root / prefix)]
    items = [item for prefix in splits for item in _items(root, prefix, say)]
    tars = {item.name for item in items if isinstance(item.place, ShardFile)}
    if large := sorted((-item.size, item.name) for item in items if item.size > MOST_BYTES):
        size, name = large[0]
        say(
            f"warning: {len(large):,} of {len(tars):,} shards are larger than {MOST_BYTES >> 20} MB, as {name} with "
            f"{-size / (1 << 20):,.0f} MB is: each lies whole on one storage node, so that some nodes have more to do "
            f"than others. {MAKE_SHARDS} with fewer --samples makes smaller ones"
        )
    with opened_bucket(replace(store, timeout_s=_ANSWER_S)) as (bucket, check):
        done = transfer(plan(items, bucket, replaces), bucket, workers, replaces, check=check)
        if in_parts := sorted(name for name, entry in present(bucket).items() if name in tars and entry.in_parts):
            say(
                f"warning: {store.uri} keeps {len(in_parts):,} of {len(tars):,} shards in parts, like {in_parts[0]}, "
                "although each was put in one piece, so that this is how the bucket is set up: an ETL sees the first "
                "part alone, and the training node makes the samples of these shards"
            )
    return done, SPLITS[1] in splits


def _items(root: Path, prefix: str, say: Callable[[str], None]) -> list[Item]:
    """The objects of a split. The lists come first: a run that begins meanwhile is told which shards are missing."""
    where = root if (root / INFO).is_file() else root / prefix
    folder = Path(os.path.abspath(where))  # noqa: PTH100 - as those of a listing
    listing = shards_of(str(folder / INFO if where == root else folder), prefix.rstrip("/"), "ROOT")
    shards = {Path(listing.folder, shard.name): shard.size for shard in listing.shards()}
    if outside := next((path for path in shards if not path.is_relative_to(folder)), None):
        raise ConfigError(
            f"{shown(listing.source)} lists {shown(outside)}, which lies elsewhere: copy it to {shown(folder)}."
        )
    top = top_of(folder)
    others = {folder / name for name in top.archives if name.endswith(".tar") and not name.startswith(".")}
    if where != root and (unlisted := sorted(others - shards.keys())):
        raise ConfigError(
            f"{shown(unlisted[0])} is there, and {shown(listing.source)} does not list it: remove it, or mend the list."
        )
    if top.images:
        say(f"warning: {shown(folder)} holds {len(top.images):,} photos beside its shards, which are left out")
    lists = [LIST] * (where != root) + [CLASSES] * (listing.classes() is not None)
    contents = {prefix + name: (folder / name).read_bytes() for name in lists if (folder / name).is_file()}
    items = [Item(name, InlineBytes(content), len(content)) for name, content in contents.items()]
    for path, size in shards.items():
        if size == 0:
            raise DataError(f"{shown(path)} is empty: download or copy it again, or remove it.")
        items.append(Item(prefix + str(path.relative_to(folder)), ShardFile(str(path)), size))
    return items
