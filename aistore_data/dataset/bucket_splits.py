"""Which samples of a bucket, or of two, are for training and for validation, as the options say."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from aistore_data.bucket.listing import NoImagesError, read_manifest
from aistore_data.bucket.shards import ByEtl, read_shards
from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.etls import lifecycle
from sources.classes import ordered
from sources.errors import ClusterError, ObjectError
from sources.folds import HeldOut
from sources.manifest import Manifest
from sources.shards.splits import Found, named
from sources.text import shell_word

T = TypeVar("T")


@dataclass(frozen=True)
class BucketOptions:
    """What the user chose of a bucket and its ETLs; the names are those of the options."""

    endpoint: str
    """The proxy's address; "embedded": a server on this machine; "": that of AIS_ENDPOINT."""
    endpoint_option: str
    """The option's whole name, for messages."""
    bucket: str
    val_bucket: str
    train_prefix: str
    val_prefix: str
    embedded_root: Path
    embedded_layout: str
    train: bool
    """Whether training samples are needed."""
    seed: int
    transform: str
    local_share: float
    wire: str
    replace: bool
    patience_s: float
    audit_every: int
    deadline_s: float
    adaptive_deadline: bool
    etl_names: tuple[str, str]
    etl: lifecycle.EtlSettings
    on_exit: str
    held_out: HeldOut = HeldOut()
    """What of the training objects is the validation, in the place of those below ``val_prefix``."""
    classes: str = ""
    """A file that gives the order of the classes."""
    layout: str = "objects"
    """objects, or shards: the samples lie in tar shards."""
    label_field: str = ""
    """The field of a shard's .json that is the label, if .cls is not."""

    @property
    def embedded(self) -> bool:
        """Whether the cluster is a server on this machine, for this run alone."""
        return self.endpoint == "embedded"


class Splits(NamedTuple):
    """The training and validation samples, whose classes have the same numbers; where none are trained on, the first
    manifest is empty."""

    train: Manifest
    val: Manifest
    in_parts: frozenset[str] = frozenset()
    """The shards that AIStore keeps in several files, of which an ETL sees the first alone."""


Indexing = Callable[[str, lifecycle.Recipe], ByEtl]
"""What indexes the shards of a bucket, given its address and which ETL is asked."""


def splits_of(
    options: BucketOptions, access: Access, say: Callable[[str], None], indexing: Indexing | None = None
) -> Splits:
    """As the options say; ``say`` hears what is told of kept manifests, and warnings.

    ``indexing``: ETLs read shards that are not indexed yet. Raises ClusterError, ConfigError or DataError.
    """
    uri, val_uri = options.bucket, options.val_bucket or options.bucket
    if options.layout == "shards":
        return _in_shards(options, access, uri, val_uri, say, indexing)
    return _in_objects(options, access, uri, val_uri, say)


def _in_objects(options: BucketOptions, access: Access, uri: str, val_uri: str, say: Callable[[str], None]) -> Splits:
    """The training and validation samples, each of which is an object."""

    def read(of: str, prefix: str, classes: tuple[str, ...]) -> Manifest:
        return read_bucket(access, of, lambda store: read_manifest(store, prefix, classes, say))

    try:
        train = read(uri, options.train_prefix, ())
        if options.held_out:
            where, skip = f"{uri}/{options.train_prefix}", len(options.train_prefix.encode())
            train, val = options.held_out.parts(train, where, say, options.train, skip)
        else:
            val = read(val_uri, options.val_prefix, train.classes)
    except NoImagesError:
        if options.train or options.held_out:
            raise
        val = read(val_uri, options.val_prefix, ())
        train = Manifest.build([], val.classes)
    where = uri if uri == val_uri else f"{uri} and {val_uri}"
    return Splits(*ordered((train, val), options.classes, where, say))


def _in_shards(
    options: BucketOptions,
    access: Access,
    uri: str,
    val_uri: str,
    say: Callable[[str], None],
    indexing: Indexing | None,
) -> Splits:
    """The training and validation samples, which are members of tar shards."""

    in_parts: set[str] = set()

    def read(of: str, prefix: str, recipe: lifecycle.Recipe) -> Found:
        by_etl = indexing(of, recipe) if indexing else None
        found, parted = read_bucket(
            access, of, lambda store: read_shards(store, prefix, options.label_field, say, by_etl)
        )
        in_parts.update(parted)
        if parted and options.transform != "client":
            say(
                f"{found.where}: AIStore keeps {len(parted):,} of its {len(found.manifest.shards):,} shards in parts, "
                f"as they were uploaded, like {min(parted)}. An ETL sees the first part alone: this machine makes "
                "their samples. Put them again whole (docs/shards.md)"
            )
        return found

    if options.held_out:
        found = read(uri, options.train_prefix, "train")
        whole, _ = named((found, found), options.classes, say, options.train)
        return Splits(*options.held_out.parts(whole, found.where, say, options.train), frozenset(in_parts))
    splits = [read(uri, options.train_prefix, "train")] if options.train else []
    splits.append(read(val_uri, options.val_prefix, "val"))
    train = splits[0] if options.train else splits[0].without_samples()
    return Splits(*named((train, splits[-1]), options.classes, say, options.train), frozenset(in_parts))


def read_bucket(access: Access, uri: str, read: Callable[[AisStore], T]) -> T:
    """What ``read`` answers of a bucket that exists and may be read, or ClusterError."""
    store = AisStore(uri, access)
    hint = f" Check its address; python -m aistore_data.upload FOLDER {shell_word(uri)} makes it."
    if store.is_cloud:
        hint = " Check its address, and that the cluster has this provider's backend and its credentials."
    try:
        store.head()
        hint = ""
        return read(store)
    except (ObjectError, OSError) as error:
        missing = isinstance(error, ObjectError) and error.status not in (401, 403)
        raise ClusterError(
            f"{uri} cannot be read on {access.endpoint}: {store.explain(error)}{hint if missing else ''}"
        ) from None
