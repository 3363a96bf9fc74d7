"""What somebody has: which of the four kinds of source, and the photos in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aistore_data.upload.items import Split, index_folder
from scripts.prepare.archives import GROUND_TRUTH, index_archives, kind_of
from scripts.prepare.flat import index_flat, labels_in, lies_flat
from scripts.prepare.kaggle import IMAGES, index_kaggle
from scripts.prepare.parquet import index_parquet, parquet_files
from sources.command_line import print_line
from sources.errors import ConfigError

ARCHIVES = {
    "train": "ILSVRC2012_img_train.tar",
    "val": "ILSVRC2012_img_val.tar",
    "devkit": "ILSVRC2012_devkit_t12.tar.gz",
}
_TAKEN = (
    f"{', '.join(ARCHIVES.values())} (or a folder with them), Kaggle's folder or zip, a folder with train/CLASS/ and "
    "val/CLASS/, one whose val/ lies flat and a file of its labels, or a folder with Hugging Face's Parquet files"
)


@dataclass(frozen=True)
class Source:
    """The kind of a source, both splits, and ImageNet's own archives if it is made of them."""

    kind: str
    splits: list[Split]
    archives: Mapping[str, Path] = field(default_factory=dict)
    flat: Path | None = None
    """The folder whose val/ holds photos without class folders, where it is that."""


def open_source(paths: Sequence[Path]) -> Source:
    """What the paths of a command line hold. Raises ConfigError or DataError."""
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path} does not exist. SOURCE is {_TAKEN}.")
    if flat := _flat(paths):
        return flat
    if len(paths) == 1:
        only = paths[0]
        if (only / IMAGES).is_dir() or (only.suffix == ".zip" and only.is_file()):
            return Source("Kaggle", index_kaggle(only))
        if (only / "train").is_dir() and (only / "val").is_dir() and not any((only / "train").glob("*.parquet")):
            return Source("ImageFolder", index_folder(only, print_line))
        if (only / ARCHIVES["train"]).is_file():
            return _archives([only / name for name in ARCHIVES.values()])
        if only.is_dir() and (files := parquet_files(only)):
            return Source("Parquet", index_parquet(files))
        if only.is_dir():
            raise ConfigError(f"{only} holds none of what can be read. SOURCE is {_TAKEN}.")
    if all(path.suffix == ".parquet" for path in paths):
        return Source("Parquet", index_parquet(list(paths)))
    return _archives(paths)


def _flat(paths: Sequence[Path]) -> Source | None:
    """Training photos in class folders, validation photos that lie flat, and their labels: in one folder, or apart."""
    folders = [path for path in paths if path.is_dir() and not (path / GROUND_TRUTH).is_file()]
    others = [path for path in paths if path not in folders]
    if len(folders) == 1 and len(others) < 2:
        train, val, labels = folders[0] / "train", folders[0] / "val", others[0] if others else labels_in(folders[0])
    elif len(folders) == 2 and len(others) == 1:
        (val, train), labels = sorted(folders, key=lies_flat, reverse=True), others[0]
    else:
        return None
    if labels is None or not train.is_dir() or not lies_flat(val):
        return None
    root = val.parent if (train.parent, train.name, val.name) == (val.parent, "train", "val") else None
    return Source("class folders, flat val", index_flat(train, val, labels, print_line), flat=root)


def _archives(paths: Sequence[Path]) -> Source:
    found: dict[str, Path] = {}
    for path in paths:
        if not path.is_file():
            raise ConfigError(f"{path} is missing or no file: SOURCE is {_TAKEN}.")
        kind = kind_of(path)
        if not kind or kind in found:
            what = f"is, like {found[kind]}, {ARCHIVES[kind]}" if kind else "is none of ImageNet's archives"
            raise ConfigError(f"{path} {what}, or is damaged. SOURCE is {_TAKEN}.")
        found[kind] = path
    missing = [ARCHIVES[kind] for kind in ARCHIVES if kind not in found]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given too: photos and labels are in different archives.")
    splits = index_archives(str(found["train"]), str(found["val"]), str(found["devkit"]))
    return Source("archives", splits, found)


def sampled(split: Split, per_class: int) -> Split:
    """The first photos of each class by name, in the source's order."""
    by_class: dict[int, list[str]] = {}
    for photo in split.photos:
        by_class.setdefault(photo.label, []).append(photo.name)
    chosen = {name for names in by_class.values() for name in sorted(names, key=str.encode)[:per_class]}
    return Split(split.prefix, split.classes, [photo for photo in split.photos if photo.name in chosen])
