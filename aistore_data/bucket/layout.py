"""How a data set lies in a bucket: the names of its objects.

``folders`` is ImageFolder's layout, ``train/n01440764/x.JPEG``. ``pairs`` is that of AIStore's 2021 post,
``train/0000353.jpg`` beside ``train/0000353.cls`` with the class number as text; numbered in the manifest's order,
zero-padded, extensions kept. Both have the class names in ``.imagenet-ais/train/classes.json``. A folder and the
buckets that were uploaded from it have the same manifests, names apart.

Tar shards lie below the prefix of their split, ``train/train-000000.tar``, with the class names beside them in
``train/classes.json``.
"""

import hashlib
from typing import Literal

from sources.manifest import Manifest

Layout = Literal["folders", "pairs"]

METADATA_PREFIX = ".imagenet-ais/"
"""Where a bucket keeps what is no sample."""


def classes_name(prefix: str) -> str:
    """The object that lists the class names of the split below ``prefix``, in the order of their numbers.

    Not below ``prefix`` itself, where a dataset that takes every object for a sample would meet it.
    """
    return f"{METADATA_PREFIX}{prefix}classes.json"


def manifest_name(prefix: str) -> str:
    """The object that keeps the manifest of the split below ``prefix``."""
    return f"{METADATA_PREFIX}{prefix}manifest.npz"


def index_name(prefix: str, label_field: str) -> str:
    """The object that keeps the index of the tar shards below ``prefix``, whose labels ``label_field`` names."""
    return f"{METADATA_PREFIX}{prefix}shards-{hashlib.sha256(label_field.encode()).hexdigest()[:8]}.index"


def pair_names(manifest: Manifest) -> list[tuple[str, str]]:
    """The (image, class) object names of a split in the layout ``pairs``, without the prefix."""
    width = max(7, len(str(len(manifest))))
    names = []
    for index in range(len(manifest)):
        stem = f"{index:0{width}d}"
        names.append((f"{stem}.{manifest.name(index).rpartition('.')[2]}", f"{stem}.cls"))
    return names
