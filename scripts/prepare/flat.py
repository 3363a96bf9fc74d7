"""Validation photos that lie flat, as ImageNet's archive unpacks them, with a file of labels."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from aistore_data.upload.items import File, Photo, Split, photos_of
from scripts.prepare.archives import read_devkit, reading
from sources.errors import DataError
from sources.folder import classes_of, manifest_of
from sources.labels import SOLUTION, rows_of, solution, text_of
from sources.walk import Oddities, images_below, top_of

LABELS = (
    SOLUTION,
    "ILSVRC2012_devkit_t12.tar.gz",
    "ILSVRC2012_devkit_t12",
    "imagenet_2012_validation_synset_labels.txt",
)
"""Names under which labels of the validation photos are known."""

_KINDS = (
    f"{SOLUTION}, ILSVRC2012_devkit_t12.tar.gz or the folder that it unpacks to, or a text with a photo's name and its "
    "class in each line, or with the classes alone, in the order of the names"
)


def labels_in(root: Path) -> Path | None:
    """The labels that lie in a folder under a name that is known."""
    return next((root / name for name in LABELS if (root / name).exists()), None)


def lies_flat(folder: Path) -> bool:
    """Whether photos lie directly in a folder."""
    return folder.is_dir() and bool(top_of(folder).images)


def index_flat(train: Path, val: Path, labels: Path, say: Callable[[str], None]) -> list[Split]:
    """Both splits. Validation photos may lie in class folders already. Raises ConfigError or DataError."""
    classes = classes_of(train, say)
    photos = photos_of(str(train), manifest_of(train, classes, classes, say))
    there = [(os.fsdecode(name)[2:], size) for name, size in images_below(str(val), b".", Oddities())]
    names = sorted(name.rpartition("/")[2] for name, _ in there)
    class_of = _labels(labels, names, classes)
    numbers = {name: number for number, name in enumerate(classes)}
    val_photos = []
    for path, size in there:
        folder, _, name = path.rpartition("/")
        label = class_of.get(name) or class_of.get(name.rpartition(".")[0], "")
        said = f"{val}/{path} is of the class {label!r} by {labels}"
        if folder not in ("", label):
            raise DataError(f"{said}, and lies in another folder: remove it.")
        if label not in numbers:
            raise DataError(f"{said}, which {train} does not have.")
        val_photos.append(Photo(f"{label}/{name}", numbers[label], size, File(f"{val}/{path}")))
    return [Split("train/", tuple(classes), photos), Split("val/", tuple(classes), val_photos)]


def sort_in_place(split: Split, root: Path) -> int:
    """Move the photos of a split that lie flat below ``root`` into its class folders; how many there were.

    Killed at any moment, it goes on when it is called again. Raises DataError.
    """
    moved = 0
    for photo in split.photos:
        assert isinstance(photo.place, File)
        path = root / split.prefix / photo.name
        if Path(photo.place.path) != path:
            try:
                path.parent.mkdir(exist_ok=True)
                Path(photo.place.path).rename(path)
            except OSError as error:
                raise DataError(
                    f"{photo.place.path} could not be moved to {path}: {error.strerror}. The same command goes on."
                ) from None
            moved += 1
    return moved


def _labels(path: Path, names: Sequence[str], classes: Sequence[str]) -> dict[str, str]:
    """Photo, with or without its extension → class. ``names``: of all photos, sorted."""
    if path.is_dir():
        return _in_order(path, read_devkit(path), names)
    with reading(path), open(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            return _in_order(path, read_devkit(path), names)
        file.seek(0)
        text = text_of(file, str(path))
    if text.startswith("ImageId,"):
        return solution(text, path)
    lines = [line.strip() for line in text.replace("\t", " ").replace(",", " ").splitlines() if line.strip()]
    known = {*names, *(name.rpartition(".")[0] for name in names)}
    rows = [cells for _, cells in rows_of(text, path)]
    named = all(len(row) == 2 and row[0].rpartition("/")[2] in known for row in rows)
    labels = [row[1] for row in rows] if named else lines
    if not labels or (all(map(str.isdecimal, labels)) and not set(labels) <= set(classes)):
        what = "gives numbers, which mean different classes in different files" if labels else "is empty"
        raise DataError(f"{path} {what}: labels are {_KINDS}.")
    return {row[0].rpartition("/")[2]: row[1] for row in rows} if named else _in_order(path, labels, names)


def _in_order(path: Path, labels: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    if len(labels) != len(names):
        raise DataError(f"{path} has {len(labels):,} labels for {len(names):,} photos: they do not belong together.")
    return dict(zip(names, labels, strict=True))
