"""The splits of a bucket, whose photos are objects or lie in tar shards."""

from dataclasses import replace

from aistore_data.bucket.listing import NoImagesError, read_manifest
from aistore_data.bucket.shards import read_shards
from aistore_data.bucket.store import AisStore
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import Access
from aistore_data.client.sdk import connect
from scripts.inspect.readers import Objects
from scripts.inspect.splits import SPLITS, DataSet, ShardSplit, Split
from sources.errors import ClusterError, ConfigError, DataError, ObjectError
from sources.manifest import IMG_EXTENSIONS, Manifest
from sources.shards.manifest import ShardManifest
from sources.shards.splits import Found, named


class _ReadOnly(AisStore):
    """A store that a manifest is not kept in: it goes to the local cache, as where nobody may write."""

    def put(self, name: str, content: object) -> None:
        """Refuse to write."""
        raise ObjectError(403, "an inspection writes nothing")


def open_bucket(uri: str, endpoint: str, label_field: str) -> DataSet:
    """Training and validation. Raises ClusterError where there is nothing to look at, ConfigError."""
    parse_bucket(uri, "DATA=")
    data, store = DataSet(uri), _ReadOnly(uri, Access.from_environment(endpoint, "--endpoint"))
    connect(store.access)
    try:
        store.head()
        data.splits = _in_objects(data, store)
        if not data.splits and _has_shards(store):
            data.findings.clear()  # they say that there are no photos
            data.splits = _in_shards(data, store, label_field)
    except (ObjectError, OSError) as error:
        raise ClusterError(f"{uri} cannot be read: {store.explain(error)}") from None
    if not data.splits:
        raise ClusterError(data.findings[0].what)
    return data


def _has_shards(store: AisStore) -> bool:
    return any(entry.name.endswith(".tar") for split in SPLITS for entry in store.list(f"{split}/"))


def _in_objects(data: DataSet, store: AisStore) -> list[Split]:
    classes: tuple[str, ...] = ()
    splits = []
    for split in SPLITS:
        try:
            found = read_manifest(store, f"{split}/", classes, data.warn)
        except NoImagesError as error:
            data.stop(error)
            continue
        except ClusterError as error:
            data.stop(error)
            found = _by_folder(store, f"{split}/", classes)
        classes = found.classes
        splits.append(Split(split, found, Objects(store), f"{split}/"))
    if len({split.manifest.classes for split in splits}) > 1:  # of a bucket that a run would refuse
        names = max((split.manifest.classes for split in splits), key=len)
        splits = [replace(split, manifest=replace(split.manifest, classes=names)) for split in splits]
    return splits


def _in_shards(data: DataSet, store: AisStore, label_field: str) -> list[ShardSplit]:
    """A split of which one shard is bad is told and left out."""
    found: dict[str, Found] = {}
    for split in SPLITS:
        try:
            found[split], in_parts = read_shards(store, f"{split}/", label_field, data.warn)
        except (NoImagesError, DataError) as error:
            data.stop(error)
            continue
        if in_parts:
            data.warn(
                f"AIStore keeps {len(in_parts):,} shards of {split}/ in parts, like {min(in_parts)}: an ETL sees the "
                "first part alone, and the training node makes their samples. Upload them again "
                "(python -m aistore_data.upload)"
            )
    if not found:
        return []
    splits = list(found.values())
    try:
        manifests: tuple[ShardManifest, ...] = named((splits[0], splits[-1]), "", data.warn, True)
    except ConfigError as error:
        data.stop(error)
        names = max((split.names or () for split in splits), key=len)
        most = max(int(split.manifest.labels.max()) for split in splits)
        names += tuple(str(number) for number in range(len(names), most + 1))
        manifests = tuple(split.manifest.named(names) for split in splits)
    return [ShardSplit(name, manifest, store) for name, manifest in zip(found, manifests, strict=False)]


def _by_folder(store: AisStore, prefix: str, classes: tuple[str, ...]) -> Manifest:
    """What can be looked at below a prefix whose labels cannot be read: the folders are the classes."""
    sizes = {e.name: e.size for e in store.list(prefix) if e.name.lower().endswith(IMG_EXTENSIONS)}
    labels = {name: name.removeprefix(prefix).rpartition("/")[0] for name in sizes}
    names = [*classes, *sorted(set(labels.values()) - set(classes))]
    return Manifest.build(((name.encode(), names.index(labels[name]), size) for name, size in sizes.items()), names)
