"""What lies where ``train/CLASS/`` and ``val/CLASS/`` should, as people have downloaded it, and what to do about it."""

import re
import shlex
from pathlib import Path

from sources.disk import shown
from sources.errors import ConfigError, DataError
from sources.walk import Top, is_folder, top_of

PREPARE = "python -m scripts.prepare_imagenet"
"""The command that takes data as they were downloaded."""

_NEEDED = "it must hold train/ and val/, each with a folder for each class"
_SPLITS = ("train", "val")
_OTHER_NAMES = {
    "train": re.compile(r"train(ing)?(_?(set|images|data))?|.*img_train", re.IGNORECASE),
    "val": re.compile(r"val(id(ation)?)?(_?(set|images|data))?|test|.*img_val", re.IGNORECASE),
}
_SOME = 3


def require_split(root: Path, split: str) -> None:
    """Raises ConfigError for a root that is no folder, or has no folder ``split``, with what was probably meant."""
    require_root(root, _NEEDED)
    if not is_folder(root / split):
        raise ConfigError(f"{shown(root / split)} is missing: {shown(root)} {_NEEDED[3:]}.{_instead(root, split)}")


def require_root(root: Path, needed: str) -> None:
    """Raises ConfigError for a root that is no folder; ``needed``: what it must hold."""
    if not is_folder(root):
        what = "is a file, not a folder" if root.is_file() else "is not a folder"
        unpack = f" {PREPARE} takes ImageNet's archives as they are." if root.is_file() else ""
        raise ConfigError(f"{shown(root)} {what}: {needed}.{unpack}")


def _instead(root: Path, split: str) -> str:
    try:
        top = top_of(root)
    except (ConfigError, DataError):
        return ""  # what is wrong there is not what is missing
    if _holds_splits(root.parent) and root.name in _SPLITS:
        return f" Did you mean {shown(root.parent)}?"
    for below in ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC", *top.folders):
        if _holds_splits(root / below):
            where = shown(root / below)
            if below.endswith("CLS-LOC"):
                return f" Kaggle's data lie in {where}, whose val/ has no classes: {_command(root)} sorts them."
            return f" Did you mean {where}?"
    if archives := [name for name in top.archives if "ILSVRC" in name or name.endswith(".tar")]:
        return f" {shown(root / archives[0])} is an archive: {_command(root)} takes ImageNet's as they are."
    for name in top.folders:
        if _OTHER_NAMES[split].fullmatch(name):
            return f" Rename {shown(root / name)} to {split}, if that is it."
    if any(name.endswith(".parquet") for name in top.others) or "data" in top.folders:
        return f" {_command(root)} takes Hugging Face's Parquet files, if these are some."
    if top.images:
        return f" {_lie(top.images, 'image')} directly in it, without classes."
    if split == "val" and "train" in top.folders:
        return " For training, data.val_split=0.1 takes a tenth of train/ in its place."
    return ""


def _holds_splits(folder: Path) -> bool:
    try:
        return all(is_folder(folder / split) for split in _SPLITS)
    except (ConfigError, DataError):
        return False


def check_classes(folder: Path, top: Top) -> None:
    """Raises ConfigError where the folders that lie in the folder of a split cannot be its classes."""
    if not top.folders:
        raise ConfigError(f"{shown(folder)} has no class folders{_found(folder, top)}")
    for name in top.archives:
        wnid = re.fullmatch(r"(n\d{8})\.tar", name)
        if wnid and wnid[1] not in top.folders:
            raise ConfigError(
                f"{shown(folder / name)} is not unpacked, and its class would be missing: unpack it into a folder "
                f"{wnid[1]} of its own, as mkdir {wnid[1]} && tar -xf {name} -C {wnid[1]} does."
            )
    if len(top.folders) == 1:
        only = folder / top.folders[0]
        below = top_of(only)
        if len(below.folders) > 1 and not below.images:
            raise ConfigError(
                f"{shown(folder)} holds {shown(top.folders[0])}/ alone, which holds {len(below.folders):,} folders: "
                f"the classes lie too deep. Move them up, as mv {_quoted(only)}/* {_quoted(folder)}/ && "
                f"rmdir {_quoted(only)} does."
            )


def _found(folder: Path, top: Top) -> str:
    """What lies there instead of classes."""
    if top.images and folder.name == "val":
        return (
            f": {_lie(top.images, 'image')} flat in it, {_some(top.images)}, and their classes are in a "
            f"file of labels. {_command(folder.parent, 'LABELS', to=folder.parent)} sorts them where they lie: LABELS "
            "is LOC_val_solution.csv, ILSVRC2012_devkit_t12.tar.gz, or a text with a photo's name and its class in "
            "each line. A run reads the first or the last of these where they lie, by data.labels=FILE."
        )
    if top.images:
        lie = f"{_lie(top.images, 'image')} directly in it, {_some(top.images)}"
        return (
            f": {lie}, and belong in {shown(folder)}/CLASS/. A file can give their classes instead: data.labels=FILE."
        )
    if top.archives:
        lie = f"{_lie(top.archives, 'archive')} in it, {_some(top.archives)}"
        return f": {lie}. Unpack each into a folder of its own, or let {_command(folder.parent)} do all of it."
    if any(name.endswith(".parquet") for name in top.others):
        return f": it holds Parquet files. {_command(folder.parent)} makes a folder to train from of them."
    return f": images belong in {shown(folder)}/CLASS/."


def _command(source: Path, *more: str, to: Path | None = None) -> str:
    return " ".join((PREPARE, _quoted(source), *more, _quoted(to) if to else "DEST"))


def _quoted(path: Path) -> str:
    return shlex.quote(shown(path))


def _lie(names: list[str], what: str) -> str:
    return f"{len(names):,} {what}s lie" if len(names) > 1 else f"1 {what} lies"


def _some(names: list[str]) -> str:
    return ", ".join(map(shown, names[:_SOME])) + ", …" * (len(names) > _SOME)
