"""A local folder in ImageFolder's layout: ``root/train/CLASS/x.JPEG`` and ``root/val/CLASS/y.JPEG``."""

import os
from collections.abc import Iterator
from pathlib import Path

from aistore_data.errors import ConfigError, DataError
from aistore_data.manifest import IMG_EXTENSIONS, Manifest


class FolderReader:
    """Reads the bytes of sample ``index`` of a manifest from files below ``root``."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    def read(self, index: int) -> bytes:
        """Raises DataError that names the file."""
        path = self.locate(index)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}; it was there when the run started.") from None

    def locate(self, index: int) -> str:
        """Where sample ``index`` lies, for messages."""
        return f"{self.root}/{self.manifest.name(index)}"


def scan_folder(root: Path) -> tuple[Manifest, Manifest]:
    """The manifests of ``root/train`` and ``root/val``, with names below these folders.

    Classes are the sub-folders of ``train`` in sorted order, as in torchvision's ImageFolder, and label both splits.
    Files without one of torchvision's image extensions are left out. Samples are sorted bytewise by name, which is
    ImageFolder's order too, except among classes whose names differ only by a suffix that starts with a character
    below ``/``. Raises ConfigError for a missing folder, an empty class or an unknown class.
    """
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder: it must hold train/ and val/, each with a folder for each class.")
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise ConfigError(
                f"{root / split} is missing: {root} must hold train/ and val/, each with a folder for each class."
            )
    classes = _classes(root / "train")
    if not classes:
        raise ConfigError(f"{root / 'train'} has no class folders: images belong in {root / 'train'}/CLASS/.")
    unknown = sorted(set(_classes(root / "val")) - set(classes))
    if unknown:
        raise ConfigError(
            f"{root / 'val' / unknown[0]} is a class that {root / 'train'} does not have"
            f"{f' (and {len(unknown) - 1} more)' if len(unknown) > 1 else ''}: "
            "both splits need the same classes; rename or remove it."
        )
    return _scan_split(root / "train", classes), _scan_split(root / "val", classes)


def _classes(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def _scan_split(folder: Path, classes: list[str]) -> Manifest:
    entries: list[tuple[bytes, int, int]] = []
    for label, name in enumerate(classes):
        before = len(entries)
        if (folder / name).is_dir():
            entries.extend((file, label, size) for file, size in _images(str(folder / name), os.fsencode(name)))
            if len(entries) == before:
                raise ConfigError(
                    f"the class folder {folder / name} holds no images ({', '.join(IMG_EXTENSIONS)}): "
                    "add some or remove the folder."
                )
    if not entries:
        raise ConfigError(f"{folder} holds no images: images belong in {folder}/CLASS/.")
    return Manifest.build(entries, classes)


def _images(folder: str, prefix: bytes) -> Iterator[tuple[bytes, int]]:
    with os.scandir(folder) as listing:
        for entry in listing:
            name = prefix + b"/" + os.fsencode(entry.name)
            if entry.is_dir():
                yield from _images(entry.path, name)
            elif entry.name.lower().endswith(IMG_EXTENSIONS):
                yield name, entry.stat().st_size
