"""Which samples of a bucket, or of two, are for training and for validation, as the options say."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aistore_data.bucket.listing import NoImagesError, read_manifest
from aistore_data.bucket.shards import read_shards
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
    """Of a shard's .json, where .cls is not the label."""

    @property
    def embedded(self) -> bool:
        """Whether the cluster is a server on this machine, for this run alone."""
        return self.endpoint == "embedded"


def splits_of(options: BucketOptions, access: Access, say: Callable[[str], None]) -> tuple[Manifest, Manifest]:
    """The training and validation samples, whose classes have the same numbers; without ``train`` the first are none.

    ``say`` hears what is told of kept manifests, and warnings. Raises ClusterError, ConfigError or DataError.
    """
    uri = options.bucket
    return (_in_shards if options.layout == "shards" else _in_objects)(
        options, access, uri, options.val_bucket or uri, say
    )


def _in_objects(
    options: BucketOptions, access: Access, uri: str, val_uri: str, say: Callable[[str], None]
) -> tuple[Manifest, Manifest]:
    """The training and validation samples, each of which is an object."""

    def read(of: str, prefix: str, classes: tuple[str, ...]) -> Manifest:
        return _read(access, of, lambda store: read_manifest(store, prefix, classes, say))

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
    return ordered((train, val), options.classes, uri if uri == val_uri else f"{uri} and {val_uri}", say)


def _in_shards(
    options: BucketOptions, access: Access, uri: str, val_uri: str, say: Callable[[str], None]
) -> tuple[Manifest, Manifest]:
    """The training and validation samples, which are members of tar shards."""

    def read(of: str, prefix: str) -> Found:
        return _read(access, of, lambda store: read_shards(store, prefix, options.label_field, say))

    if options.held_out:
        found = read(uri, options.train_prefix)
        whole, _ = named((found, found), options.classes, say, options.train)
        return options.held_out.parts(whole, found.where, say, options.train)
    splits = [read(uri, options.train_prefix)] if options.train else []
    splits.append(read(val_uri, options.val_prefix))
    train = splits[0] if options.train else splits[0].without_samples()
    return named((train, splits[-1]), options.classes, say, options.train)


def _read(access: Access, uri: str, read: Callable[[AisStore], T]) -> T:
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
