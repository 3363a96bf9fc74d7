"""How a data set lies in a bucket, and its manifest.

``folders`` is ImageFolder's layout, ``train/n01440764/x.JPEG``. ``pairs`` is that of AIStore's 2021 post,
``train/0000353.jpg`` beside ``train/0000353.cls`` with the class number as text; numbered in the manifest's order,
zero-padded, extensions kept. Both have the class names in ``.imagenet-ais/train/classes.json``. A folder and the
buckets that were uploaded from it have the same manifests, names apart.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from aistore.sdk.errors import AISError
from torchvision.datasets.folder import IMG_EXTENSIONS

from aistore_data.errors import ClusterError, ObjectError
from aistore_data.http_reader import HttpReader, object_path
from aistore_data.manifest import Manifest
from aistore_data.objects import iter_objects

Layout = Literal["folders", "pairs"]

_BESIDE = ".imagenet-ais/"
_FETCHES = 16


def classes_name(prefix: str) -> str:
    """The object that lists the class names of the split below ``prefix``, in the order of their numbers.

    Not below ``prefix`` itself, where a dataset that takes every object for a sample would meet it.
    """
    return f"{_BESIDE}{prefix}classes.json"


def manifest_name(prefix: str) -> str:
    """The object that keeps the manifest of the split below ``prefix``."""
    return f"{_BESIDE}{prefix}manifest.npz"


def pair_names(manifest: Manifest) -> list[tuple[str, str]]:
    """The (image, class) object names of a split in the layout ``pairs``, without the prefix."""
    width = max(7, len(str(len(manifest))))
    names = []
    for index in range(len(manifest)):
        stem = f"{index:0{width}d}"
        names.append((f"{stem}.{manifest.name(index).rpartition('.')[2]}", f"{stem}.cls"))
    return names


def read_manifest(bucket: Any, uri: str, prefix: str, reader: HttpReader, classes: tuple[str, ...] = ()) -> Manifest:
    """The manifest of the images below ``prefix`` of an SDK bucket, in either layout; names are whole object names.

    The bucket is listed. A manifest that was made from the same names, sizes and checksums and is stored there is
    taken, which saves reading the labels; else it is built, and stored where the bucket may be written to. ``classes``
    are those of the training split, which a validation split must not go beyond. Raises ClusterError for what is
    missing or does not fit.
    """
    found = iter_objects(bucket, prefix, "name,size,checksum")
    entries = [entry for entry in found if not entry.name.startswith(_BESIDE)]
    sizes: dict[str, int] = {entry.name: entry.size for entry in entries}
    listing = hashlib.sha256("".join(f"{e.name} {e.size} {e.checksum}\n" for e in entries).encode()).hexdigest()
    images = [name for name in sizes if name.lower().endswith(IMG_EXTENSIONS)]
    if not images:
        raise ClusterError(
            f"{uri}/{prefix} holds no images ({', '.join(IMG_EXTENSIONS)}): upload them with "
            f"python -m aistore_data.upload FOLDER {uri}, or check data.bucket and the prefixes."
        )
    stored = _stored(reader, object_path(uri, manifest_name(prefix)), listing)
    if stored and (not classes or stored.classes == classes):
        return stored
    if any(name.endswith(".cls") for name in sizes):
        manifest = _pairs(uri, prefix, images, sizes, reader, classes)
    else:
        manifest = _folders(uri, prefix, images, sizes, classes)
    try:
        bucket.object(manifest_name(prefix)).get_writer().put_content(listing.encode() + manifest.to_bytes())
    except AISError as error:
        if error.status_code not in (401, 403):
            raise
    return manifest


def _stored(reader: HttpReader, path: str, listing: str) -> Manifest | None:
    """The stored manifest, if there is one and it was made from this very listing."""
    try:
        content = reader.get(path)
        return Manifest.from_bytes(content[len(listing) :]) if content.startswith(listing.encode()) else None
    except ObjectError as error:
        if error.status != 404:
            raise
    except ValueError:
        pass  # cut short: it is built anew
    return None


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
        names = classes or tuple(json.loads(reader.get(object_path(uri, classes_name(prefix)))))
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
