"""The manifest of a split in a bucket, from its listing, and whether an object is as it was listed."""

import hashlib
import shlex
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import xxhash

from aistore_data.bucket.layout import METADATA_PREFIX, classes_name, manifest_name
from aistore_data.bucket.store import ObjectStore
from aistore_data.client.answer import Get
from sources.disk import read_cached, write_cached
from sources.errors import ClusterError, ObjectError
from sources.manifest import ARRAYS, IMG_EXTENSIONS, Manifest, checksum_digest, class_names
from sources.progress_bar import Progress
from sources.text import shell_word
from sources.walk import APPLE_DOUBLE

_HASH = 64
"""Characters of a SHA-256, before a kept manifest."""

_LOOKS = 16
"""Objects that are read to see whether they are photos, at most."""

_COMPUTABLE = ("md5", "sha256", "sha512")
"""Checksums of other kinds than AIStore's own."""

_SPARE_BYTES = 1 << 24
"""Of a kept manifest beyond what the listing lets expect, and of the list of class names."""

_SHARDS_INSTEAD = " It holds tar shards, which data.layout=shards reads."


class NoImagesError(ClusterError):
    """There is a bucket, and nothing in it that could be a sample."""


def read_manifest(
    store: ObjectStore, prefix: str, classes: tuple[str, ...] = (), say: Callable[[str], None] = lambda line: None
) -> Manifest:
    """The manifest of the images below ``prefix`` of a bucket, in either layout; names are whole object names.

    The bucket is listed. A manifest that was made from the same names, sizes and checksums and is kept is taken, which
    saves reading the labels; else it is built, and kept: in the bucket, or in the local cache if that may not be
    written to; ``say`` hears what has changed since a former one was made. ``classes`` are those of the training
    split, which a validation split must not go beyond. Raises ClusterError for what is missing or does not fit, and
    what the store raises.
    """
    uri = store.uri
    sizes, checksums, listing = _list(store, prefix)
    images = [name for name in sizes if name.lower().endswith(IMG_EXTENSIONS)]
    if not images:
        raise NoImagesError(
            f"{uri}/{prefix} holds no images ({', '.join(IMG_EXTENSIONS)}): upload them with "
            f"python -m aistore_data.upload FOLDER {shell_word(uri)}, or check data.bucket and the prefixes."
            f"{_SHARDS_INSTEAD if any(name.endswith('.tar') for name in sizes) else ''}"
        )
    _refuse_apple_double(store, images, sizes)
    images.sort(key=str.encode)
    pairs = any(name.endswith(".cls") for name in sizes)

    def build(labels: list[int], names: tuple[str, ...]) -> Manifest:
        entries = ((name.encode(), label, sizes[name]) for name, label in zip(images, labels, strict=True))
        return Manifest.build(entries, names, checksums)

    kept = _kept(store, prefix, images, say)
    for former, manifest in tuple(kept):
        if former == listing and (not classes or manifest.classes == classes):
            # Others may write to the bucket, so all is compared with the listing but labels of pairs, which it lacks.
            labels = manifest.labels.tolist()
            right = pairs or [manifest.classes[label] for label in labels] == _folder_names(prefix, images)
            if right and len(labels) == len(images):
                again = build(labels, manifest.classes)
                if all(np.array_equal(getattr(manifest, name), getattr(again, name)) for name in ARRAYS):
                    return manifest
            say(f"{uri}/{manifest_name(prefix)} is not as the bucket is listed: it is made anew")
            kept.remove((former, manifest))
    found = _pairs(store, prefix, images, sizes, classes) if pairs else _folders(uri, prefix, images, classes)
    manifest = build(*found)
    if kept:
        say(f"{uri}/{prefix} {_changes(kept[0][1], manifest)} since its manifest was made: it is made anew")
    content = listing.encode() + manifest.to_bytes()
    try:
        store.put(manifest_name(prefix), content)
    except ObjectError as error:
        if error.status not in (401, 403):
            raise
        write_cached(f"{uri}/{prefix}", content)
    return manifest


def _list(store: ObjectStore, prefix: str) -> tuple[dict[str, int], dict[bytes, int], str]:
    """Sizes and checksums of the objects below ``prefix`` by name, and a hash of them all.

    No checksums of a cloud's bucket: what a listing says of its objects is not what AIS says when it has them.
    """
    sizes, checksums, is_cloud = {}, {}, store.is_cloud
    digest = hashlib.sha256()
    with Progress(f"objects of {store.uri}/{prefix} listed") as progress:
        for entry in store.list(prefix):
            if not entry.name.startswith(METADATA_PREFIX):
                sizes[entry.name] = entry.size
                if not is_cloud:
                    checksums[entry.name.encode()] = checksum_digest(entry.checksum)
                digest.update(f"{entry.name} {entry.size} {entry.checksum}\n".encode())
            progress.add(1)
    return sizes, checksums, digest.hexdigest()


def _refuse_apple_double(store: ObjectStore, images: list[str], sizes: dict[str, int]) -> None:
    """Raises ClusterError for what macOS keeps beside photos: each of these objects would end an epoch."""
    uri, named = store.uri, [name for name in images if name.rpartition("/")[2].startswith("._")]
    for name in named[:_LOOKS]:
        if (read_object(store, name, sizes[name]) or b"").startswith(APPLE_DOUBLE):
            raise ClusterError(
                f"{uri}/{name} is not a photo but what macOS keeps beside one, and {len(named) - 1:,} more objects "
                "have names that begin with '._'. Delete such files from the folder (find FOLDER -name '._*' -delete), "
                f"and the objects from the bucket: ais object rm {shlex.quote(f'{uri}/{name}')}"
            )


def _kept(store: ObjectStore, prefix: str, images: list[str], say: Callable[[str], None]) -> list[tuple[str, Manifest]]:
    """The manifests that are kept, each with the hash of its listing: the bucket's, then that of the local cache.

    ``say`` hears of one that is none. Others may write to the bucket, so all of it is checked.
    """
    most = _SPARE_BYTES + 2 * sum(4 * len(name) + 48 for name in images)
    found = []
    for content in (read_object(store, manifest_name(prefix), most), read_cached(f"{store.uri}/{prefix}", most)):
        if content:
            try:
                former = content[:_HASH].decode("ascii", "replace")
                found.append((former, Manifest.from_bytes(content[_HASH:], most)))
            except ValueError as error:
                say(f"the manifest that is kept of {store.uri}/{prefix} cannot be used, as {error}: it is made anew")
    return found


def _changes(former: Manifest, manifest: Manifest) -> str:
    """What is not the same, in words."""
    old, new = ({m.name(index): int(m.sizes[index]) for index in range(len(m))} for m in (former, manifest))
    added, removed = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    replaced = sorted(name for name in new.keys() & old.keys() if new[name] != old[name])
    lists = (("added", added), ("removed", removed), ("replaced", replaced))
    told = [f"had {len(names):,} objects {what} (the first: {names[0]})" for what, names in lists if names]
    return ", ".join(told) or "had objects or labels replaced by others of the same size"


def _folder_names(prefix: str, images: list[str]) -> list[str]:
    return [name[len(prefix) :].partition("/")[0] for name in images]


def read_object(store: ObjectStore, name: str, most: int) -> bytes | None:
    """An object that need not exist; None also for one of over ``most`` bytes."""
    try:
        return store.get(name, most)
    except ObjectError as error:
        if error.status not in (200, 404):
            raise
    return None


def _folders(uri: str, prefix: str, images: list[str], classes: tuple[str, ...]) -> tuple[list[int], tuple[str, ...]]:
    """Labels of the images by their folders, and the names of the classes."""
    folders = _folder_names(prefix, images)
    for name, folder in zip(images, folders, strict=True):
        if name == prefix + folder:
            raise ClusterError(f"{uri}/{name} has no label: it lies in no class folder, and there is no .cls object.")
    names = classes or tuple(sorted(set(folders)))
    numbers = {name: number for number, name in enumerate(names)}
    for name, folder in zip(images, folders, strict=True):
        if folder not in numbers:
            raise ClusterError(f"{uri}/{name} is of the class {folder!r}, which the training split does not have.")
    return [numbers[folder] for folder in folders], names


def _pairs(
    store: ObjectStore, prefix: str, images: list[str], sizes: dict[str, int], classes: tuple[str, ...]
) -> tuple[list[int], tuple[str, ...]]:
    """Labels of the images by the objects beside them, and the names of the classes."""
    uri, labels_of = store.uri, {name: f"{name.rpartition('.')[0]}.cls" for name in images}
    missing = [name for name, label in labels_of.items() if label not in sizes]
    if missing:
        raise ClusterError(
            f"{uri}/{missing[0]} has no label: {uri}/{labels_of[missing[0]]} is missing"
            f"{f', and {len(missing) - 1} more are' if len(missing) > 1 else ''}. Upload the labels again."
        )
    texts: list[bytes] = []
    with Progress(f"labels of {uri}/{prefix} read", len(images)) as progress:
        for some in store.get_many([labels_of[name] for name in images]):
            texts += some
            progress.add(len(some))
    if len(texts) < len(images):
        raise ClusterError(f"{uri}: the answer broke off after {len(texts):,} of {len(images):,} labels. Try again.")
    # Without class names it is somebody else's upload: the classes go by number.
    names = classes or read_class_names(store, classes_name(prefix))
    labels = []
    for name, text in zip(images, texts, strict=True):
        number = text.decode("utf-8", "replace").strip()
        if not number.isdecimal() or (names and int(number) >= len(names)):
            allowed = f"a class number from 0 to {len(names) - 1}" if names else "a class number"
            raise ClusterError(f"{uri}/{labels_of[name]} holds {number[:20]!r}, not {allowed}.")
        labels.append(int(number))
    return labels, names or tuple(str(number) for number in range(max(labels) + 1))


def read_class_names(store: ObjectStore, name: str) -> tuple[str, ...]:
    """The list in an object; none where the bucket does not have it. Raises ClusterError for what is no list."""
    with suppress(ValueError):
        names = class_names(read_object(store, name, _SPARE_BYTES) or b"[]")
        if len(set(names)) == len(names):
            return names
    raise ClusterError(f"{store.uri}/{name} is not a list of class names, each once: upload the data again.")


def object_problem(manifest: Manifest, index: int, get: Get) -> str:
    """What shows that the answer to ``get`` is not object ``index`` as it was listed; "" if nothing does."""
    return content_problem(int(manifest.sizes[index]), int(manifest.checksums[index]), get)


def content_problem(size: int, listed: int, get: Get) -> str:
    """The same of an object of ``size`` bytes; ``listed``: its checksum as a manifest has it, 0 if it has none.

    The content itself is summed up. Of a bucket whose checksums cannot be computed here (crc32c) the answer's own word
    is taken; of one without checksums, the size alone is known.
    """
    if len(get.body) != size:
        return f"has {len(get.body)} bytes, and had {size} when it was listed: somebody has replaced it"
    if listed and checksum_digest(xxhash.xxh64_hexdigest(get.body)) != listed and not _fits(get, listed):
        return "has another checksum than when it was listed: somebody has replaced it"
    return ""


def _fits(get: Get, listed: int) -> bool:
    """By a checksum of another kind than AIStore's own."""
    kind = get.headers.get("ais-checksum-type", "").lower()
    if kind in _COMPUTABLE:
        return checksum_digest(hashlib.new(kind, get.body).hexdigest()) == listed
    return kind not in ("", "none", "xxhash2") and checksum_digest(get.headers.get("ais-checksum-value")) == listed
