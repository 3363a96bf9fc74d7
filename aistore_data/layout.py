"""How a data set lies in a bucket, and its manifest.

``folders`` is ImageFolder's layout, ``train/n01440764/x.JPEG``. ``pairs`` is that of AIStore's 2021 post,
``train/0000353.jpg`` beside ``train/0000353.cls`` with the class number as text; numbered in the manifest's order,
zero-padded, extensions kept. Both have the class names in ``train/.classes.json``. A folder and the buckets that were
uploaded from it have the same manifests, names apart.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from torchvision.datasets.folder import IMG_EXTENSIONS

from aistore_data.errors import ClusterError, ObjectError
from aistore_data.http_reader import HttpReader, object_path
from aistore_data.manifest import Manifest

Layout = Literal["folders", "pairs"]

CLASSES = ".classes.json"
"""The object, below a split's prefix, that lists the class names in the order of their numbers."""

_FETCHES = 16


def pair_names(manifest: Manifest) -> list[tuple[str, str]]:
    """The (image, class) object names of a split in the layout ``pairs``, without the prefix."""
    width = max(7, len(str(len(manifest))))
    names = []
    for index in range(len(manifest)):
        stem = f"{index:0{width}d}"
        names.append((f"{stem}.{manifest.name(index).rpartition('.')[2]}", f"{stem}.cls"))
    return names


def read_manifest(bucket: Any, uri: str, prefix: str, reader: HttpReader, classes: tuple[str, ...] = ()) -> Manifest:
    """List ``prefix`` of an SDK bucket and find the labels, in either layout.

    ``classes`` are those of the training split, which a validation split must not go beyond. Names in the manifest are
    whole object names. Raises ClusterError for what is missing or does not fit.
    """
    sizes: dict[str, int] = {entry.name: entry.size for entry in bucket.list_all_objects(prefix=prefix)}
    images = [name for name in sizes if name.lower().endswith(IMG_EXTENSIONS)]
    if not images:
        raise ClusterError(
            f"{uri}/{prefix} holds no images ({', '.join(IMG_EXTENSIONS)}): upload them with "
            f"python -m aistore_data.upload FOLDER {uri}, or check data.bucket and the prefixes."
        )
    if any(name.endswith(".cls") for name in sizes):
        return _pairs(uri, prefix, images, sizes, reader, classes)
    return _folders(uri, prefix, images, sizes, classes)


def _folders(uri: str, prefix: str, images: list[str], sizes: dict[str, int], classes: tuple[str, ...]) -> Manifest:
    folders = [name[len(prefix) :].partition("/")[0] for name in images]
    for name, folder in zip(images, folders, strict=True):
        if name == prefix + folder:
            raise ClusterError(f"{uri}/{name} has no label: it lies in no class folder, and there is no .cls object.")
    names = classes or tuple(sorted(set(folders)))
    numbers = {name: number for number, name in enumerate(names)}
    for name, folder in zip(images, folders, strict=True):
        if folder not in numbers:
            raise ClusterError(f"{uri}/{name} is of the class {folder!r}, which the training split does not have.")
    entries = [(name.encode(), numbers[folder], sizes[name]) for name, folder in zip(images, folders, strict=True)]
    return Manifest.build(entries, names)


def _pairs(
    uri: str, prefix: str, images: list[str], sizes: dict[str, int], reader: HttpReader, classes: tuple[str, ...]
) -> Manifest:
    labels_of = {name: f"{name.rpartition('.')[0]}.cls" for name in images}
    missing = [name for name, label in labels_of.items() if label not in sizes]
    if missing:
        raise ClusterError(
            f"{uri}/{missing[0]} has no label: {uri}/{labels_of[missing[0]]} is missing"
            f"{f', and {len(missing) - 1} more are' if len(missing) > 1 else ''}. Upload the labels again."
        )
    with ThreadPoolExecutor(_FETCHES) as pool:
        texts = list(pool.map(lambda name: reader.get(object_path(uri, labels_of[name])), images))
    try:
        names = classes or tuple(json.loads(reader.get(object_path(uri, prefix + CLASSES))))
    except ObjectError as error:
        if error.status != 404:
            raise
        names = ()  # somebody else's upload: the classes go by number
    labels = []
    for name, text in zip(images, texts, strict=True):
        number = text.decode("utf-8", "replace").strip()
        if not number.isdecimal() or (names and int(number) >= len(names)):
            allowed = f"a class number from 0 to {len(names) - 1}" if names else "a class number"
            raise ClusterError(f"{uri}/{labels_of[name]} holds {number[:20]!r}, not {allowed}.")
        labels.append(int(number))
    names = names or tuple(str(number) for number in range(max(labels) + 1))
    return Manifest.build([(n.encode(), label, sizes[n]) for n, label in zip(images, labels, strict=True)], names)
