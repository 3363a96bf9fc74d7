"""A bucket, or tar shards on a disk, as a map-style dataset for one's own training loop."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.photos import asking, at_of, object_of, photo_in
from aistore_data.bucket.shards import read_shards
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import connect
from aistore_data.dataset.bucket_splits import read_bucket
from aistore_data.etls.asking import EtlPaths, former_version, knows_policy, knows_shards, knows_tags
from etl.sample import transform
from etl.spec import Key, Spec
from sources.errors import ClusterError, ConfigError
from sources.manifest import Manifest
from sources.shards.listing import INFO, shards_of
from sources.shards.manifest import ShardManifest
from sources.shards.reader import ShardReader
from sources.shards.splits import ShardOptions, found_in, with_classes
from sources.shared_memory import share
from sources.walk import is_folder

_PATIENCE_S = 60.0
"""Seconds for which a shard is waited for that a disk or a network file system does not give."""


class _Photos(Protocol):
    """Reads the bytes of sample ``index``."""

    def read(self, index: int) -> bytes: ...


class _InBucket(NamedTuple):
    """Reads photos of a bucket: objects, or members of shards, each compared with what was listed or indexed."""

    http: HttpReader
    uri: str
    manifest: Manifest

    def read(self, index: int) -> bytes:
        """Raises ObjectError and OSError."""
        path = object_path(self.uri, object_of(self.manifest, index))
        return photo_in(self.manifest, self.http.get(path, **asking(self.manifest, index)))


class ImageDataset(Dataset[tuple[Any, int]]):
    """(image, label) of the images below ``prefix`` of a bucket, for any ``DataLoader``.

    The image is a uint8 tensor [3, spec.size, spec.size], or what ``transform`` makes of it; made by the ETL
    ``etl_name``, or here without one. Labels are indices into ``classes``, by default those of the bucket. A sample is
    a function of (object, spec, seed, epoch, index): call ``set_epoch`` before each epoch, with running workers too.
    With ``layout="shards"`` the images lie in tar shards, and ``label_field`` is the field of their .json that has the
    labels, where .cls does not. ``ImageDataset.of_shards`` takes shards on a disk.

    The token comes from AIS_AUTHN_TOKEN or AIS_AUTHN_TOKEN_FILE. Raises ClusterError for a cluster or bucket that
    cannot be used, ConfigError for what is no bucket's address, DataError for a shard that cannot be used; ObjectError
    and OSError for a sample that cannot be had, CorruptSample for an object that is no image.
    """

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        prefix: str = "train/",
        etl_name: str | None = None,
        spec: Spec | None = None,
        seed: int = 0,
        classes: tuple[str, ...] = (),
        transform: Callable[[torch.Tensor], Any] | None = None,
        layout: str = "objects",
        label_field: str = "",
    ) -> None:
        parse_bucket(bucket)
        if layout not in ("objects", "shards"):
            raise ConfigError(f"layout={layout!r} is not known: a bucket holds objects, or tar shards, 'shards'.")
        access = Access.from_environment(endpoint)
        connect(access)
        self.bucket = bucket
        self.http = HttpReader(access)
        manifest: Manifest
        self._made_here: frozenset[str] = frozenset()  # shards of which an ETL sees a part alone
        self._paths: EtlPaths | None
        if layout == "shards":
            read = partial(read_shards, prefix=prefix, label_field=label_field, say=_silent)
            found, self._made_here = read_bucket(access, bucket, read)
            manifest = with_classes(found, classes, _silent)
        else:
            manifest = share(read_bucket(access, bucket, partial(read_manifest, prefix=prefix, classes=classes)))
        spec = spec or (Spec.val() if prefix.startswith("val") else Spec.train())
        self._begin(manifest, _InBucket(self.http, bucket, manifest), spec, seed, transform)
        self._paths = self._asked_of(etl_name) if etl_name else None

    @classmethod
    def of_shards(
        cls,
        shards: str | Path,
        split: str = "train",
        spec: Spec | None = None,
        seed: int = 0,
        classes: tuple[str, ...] = (),
        transform: Callable[[torch.Tensor], Any] | None = None,
        label_field: str = "",
    ) -> "ImageDataset":
        """The same of tar shards on a disk: ``shards`` is what ``data.root`` is, or a folder, a pattern or a list.

        ``split`` is train or val. Raises ConfigError and DataError; of a sample, DataError for a shard that is gone or
        another one by now, and CorruptSample for a member that is no image, or damaged.
        """
        root = Path(shards)
        if split not in ("train", "val"):
            raise ConfigError(f"split={split!r} is not known: there are train and val.")
        if is_folder(root) and not (root / INFO).is_file() and is_folder(root / split):
            root = root / split
        elif (root / INFO).is_file():
            root = root / INFO
        found = found_in(shards_of(str(root), split, "shards"), ShardOptions(label_field=label_field), _silent)
        manifest = with_classes(found, classes, _silent)
        dataset = cls.__new__(cls)
        dataset.bucket, dataset._paths = "", None
        spec = spec or (Spec.val() if split == "val" else Spec.train())
        dataset._begin(manifest, ShardReader(manifest, _PATIENCE_S), spec, seed, transform)
        return dataset

    def _begin(
        self,
        manifest: Manifest,
        photos: _Photos,
        spec: Spec,
        seed: int,
        transform: Callable[[torch.Tensor], Any] | None,
    ) -> None:
        self.manifest = manifest
        self.classes = manifest.classes  # names, in the order of the labels
        self.spec, self.seed, self.transform = spec, seed, transform
        self._photos = photos
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def _asked_of(self, etl_name: str) -> EtlPaths:
        """Requests to an ETL that can answer them. Raises ClusterError for one that cannot."""
        of = self.http, self.bucket, self.manifest, etl_name
        former = "" if knows_policy(*of, self.spec) else former_version(etl_name, self.spec)
        in_shards = isinstance(self.manifest, ShardManifest)
        if in_shards and not knows_shards(*of):
            former = f"ETL {etl_name} runs the code of a former version, which does not know tar shards"
        if former:
            raise ClusterError(f"{former}. Start one of this version, or name none.")
        return EtlPaths(self.bucket, etl_name, self.spec, self.seed, "raw", knows_tags(*of), in_shards)

    def set_epoch(self, epoch: int) -> None:
        """Choose the augmentation of an epoch, in this process and in running workers."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        epoch = int(self._epoch)
        name = object_of(self.manifest, index) if self._paths else ""
        if self._paths and name not in self._made_here:
            pixels = np.empty((self.spec.size, self.spec.size, 3), np.uint8)
            path, stated = self._paths.ask(name, epoch, index, at=at_of(self.manifest, index))
            self.http.get_into(path, pixels.data.cast("B"), stated)
        else:
            key = Key(self.seed, epoch, index) if self.spec.recipe == "train" else None
            pixels = transform(self._photos.read(index), self.spec, key)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        return (self.transform(image) if self.transform else image), int(self.manifest.labels[index])


def _silent(line: str) -> None:
    """Hear what a run is told when it starts."""
