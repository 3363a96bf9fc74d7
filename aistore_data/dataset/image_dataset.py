"""A bucket as a map-style dataset for one's own training loop."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from aistore_data.bucket.listing import object_problem, read_manifest
from aistore_data.bucket.store import AisStore
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import connect
from aistore_data.etls.asking import EtlPaths, former_version, knows_policy, knows_tags
from etl.sample import transform
from etl.spec import Key, Spec
from sources.errors import ClusterError
from sources.shared_memory import share


class ImageDataset(Dataset[tuple[Any, int]]):
    """(image, label) of the images below ``prefix`` of a bucket, for any ``DataLoader``.

    The image is a uint8 tensor [3, spec.size, spec.size], or what ``transform`` makes of it; made by the ETL
    ``etl_name``, or here without one. Labels are indices into ``classes``, by default those of the bucket. A sample is
    a function of (object, spec, seed, epoch, index): call ``set_epoch`` before each epoch, with running workers too.

    The token comes from AIS_AUTHN_TOKEN or AIS_AUTHN_TOKEN_FILE. Raises ClusterError for a cluster or bucket that
    cannot be used, ConfigError for what is no bucket's address, ObjectError and OSError for a sample that cannot be
    had, CorruptSample for an object that is no image.
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
    ) -> None:
        parse_bucket(bucket)
        access = Access.from_environment(endpoint)
        connect(access)
        self.bucket = bucket
        self.spec = spec or (Spec.val() if prefix.startswith("val") else Spec.train())
        self.seed = seed
        self.transform = transform
        self.http = HttpReader(access)
        self.manifest = share(read_manifest(AisStore(bucket, access), prefix, classes))
        self.classes = self.manifest.classes  # names, in the order of the labels
        self._paths: EtlPaths | None = None
        if etl_name:
            if not knows_policy(self.http, bucket, self.manifest, etl_name, self.spec):
                raise ClusterError(f"{former_version(etl_name, self.spec)}. Start one of this version, or name none.")
            tags = knows_tags(self.http, bucket, self.manifest, etl_name)
            self._paths = EtlPaths(bucket, etl_name, self.spec, seed, "raw", tags)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Choose the augmentation of an epoch, in this process and in running workers."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        name, epoch = self.manifest.name(index), int(self._epoch)
        if self._paths:
            pixels = np.empty((self.spec.size, self.spec.size, 3), np.uint8)
            path, stated = self._paths.ask(name, epoch, index)
            self.http.get_into(path, pixels.data.cast("B"), stated)
        else:
            key = Key(self.seed, epoch, index) if self.spec.recipe == "train" else None
            check = partial(object_problem, self.manifest, index)
            content = self.http.get(object_path(self.bucket, name), int(self.manifest.sizes[index]), check)
            pixels = transform(content, self.spec, key)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        return (self.transform(image) if self.transform else image), int(self.manifest.labels[index])
