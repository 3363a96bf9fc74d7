"""A local folder in ImageFolder's layout: ``root/train/CLASS/x.JPEG`` and ``root/val/CLASS/y.JPEG``."""

import errno
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from etl.decoded_sample import file_key, is_settled
from etl.sample import CorruptSample
from sources.disk import MISSING_S, TRANSIENT, cause, patiently, read_file, shown
from sources.errors import ConfigError, DataError, UnreachableError
from sources.manifest import IMG_EXTENSIONS, Manifest
from sources.misplaced import check_classes, require_split
from sources.progress_bar import Progress
from sources.shared_memory import SharedMemory
from sources.walk import Oddities, identity, images_below, is_folder, kinds_of, of_the_file_system, top_of


@dataclass(eq=False)
class FolderReader:
    """Reads the bytes of sample ``index`` of a manifest from files below ``root``.

    Faults that may pass are waited for, for up to ``patience_s`` seconds; ``retries`` counts the attempts that they
    cost, and ``on_wait`` hears the path and the system's words for the fault.
    """

    root: Path
    manifest: Manifest
    patience_s: float = 0.0
    on_wait: Callable[[str, str], None] | None = None
    retries: int = field(default=0, init=False)
    _ended: SharedMemory = field(default_factory=partial(SharedMemory, 1), init=False)

    def __post_init__(self) -> None:
        self._absolute = str(self.root.absolute())

    def end(self) -> None:
        """Let no process that has this reader wait any more."""
        self._ended.buffer[0] = 1

    def read(self, index: int) -> bytes:
        """Raises CorruptSample for a file that is gone or another one by now, UnreachableError, DataError."""
        path = f"{self.root}/{self.manifest.name(index)}"

        def waits(error: OSError) -> None:
            self.retries += 1
            if self.on_wait:
                self.on_wait(path, cause(error))

        def missing_s() -> float:  # where all of the folder is missing, its disk may return
            return MISSING_S if self._is_there() else self.patience_s

        try:
            ended = self._ended.buffer
            data = patiently(lambda: read_file(path), self.patience_s, waits, missing_s, lambda: ended[0] == 1)
        except OSError as error:
            raise self._lost(path, error) from None
        expected = int(self.manifest.sizes[index])
        if len(data) != expected:
            raise CorruptSample(f"another file than when the run started: it has {len(data)} bytes and had {expected}")
        return data

    def content_key(self, index: int) -> bytes | None:
        """What tells the file's present content from any other: 16 bytes of its place, size, times and inode.

        None for one that changed a moment ago, and for what ``read`` raises for. The file is opened, since a network
        file system may know an old state of it until then.
        """
        path = f"{self._absolute}/{self.manifest.name(index)}"
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            status = os.fstat(file)
        finally:
            os.close(file)
        fits = status.st_size == self.manifest.sizes[index] and is_settled(status)
        return file_key(path, status) if fits else None

    def stored(self, index: int) -> Path:
        """The file of sample ``index``."""
        return Path(self.root, self.manifest.name(index))

    def locate(self, index: int) -> str:
        """Say where sample ``index`` lies, for messages."""
        return shown(f"{self.root}/{self.manifest.name(index)}")

    def _is_there(self) -> bool:
        try:
            with os.scandir(self.root) as listing:
                return next(listing, None) is not None  # where a disk was mounted there may be an empty folder
        except OSError:
            return False

    def _lost(self, path: str, error: OSError) -> Exception:
        where = shown(path)
        if error.errno == errno.ENOENT and self._is_there():
            return CorruptSample("gone, and was there when the run started")
        if error.errno == errno.ENOENT or error.errno in TRANSIENT:
            return UnreachableError(
                f"{where} could not be read for {self.patience_s:g} s (data.patience_s): {cause(error)}."
            )
        return DataError(f"{where} cannot be read: {cause(error)}; it could be read when the run started.")


def scan_folder(
    root: Path, say: Callable[[str], None] = lambda line: None, with_train: bool = True
) -> tuple[Manifest, Manifest]:
    """The manifests of ``root/train`` and ``root/val``, with names below these folders; ``say`` hears warnings.

    Classes are the sub-folders of ``train`` in sorted order, as in torchvision's ImageFolder, and label both splits.
    Files without one of torchvision's image extensions are left out. Samples are sorted bytewise by name, which is
    ImageFolder's order too, except among classes whose names differ only by a suffix that starts with a character
    below ``/``. Without ``with_train`` the first manifest is empty, and the classes are those of ``val`` where there is
    no ``train``. Raises ConfigError for a folder, a class or a file that is missing, unreadable or in a wrong place,
    DataError for a disk that fails.
    """
    train, val = root / "train", root / "val"
    if with_train:
        require_split(root, "train")
    require_split(root, "val")
    there = is_folder(train)
    classes = classes_of(train if there else val, say)
    own = classes_of(val, say) if there else classes
    unknown = sorted(set(own) - set(classes))
    if unknown:
        raise ConfigError(
            f"{shown(val / unknown[0])} is a class that {shown(train)} does not have"
            f"{f' (and {len(unknown) - 1} more)' if len(unknown) > 1 else ''}: "
            "both splits need the same classes; rename or remove it."
        )
    lacking = sorted(set(classes) - set(own))
    for name in lacking:
        if os.path.lexists(val / name):
            raise ConfigError(f"{shown(val / name)} is a file, and a class folder in {shown(train)}: remove it.")
    if lacking:
        say(
            f"warning: {shown(val)} has no folder for {len(lacking):,} of the {len(classes):,} classes, like "
            f"{shown(lacking[0])}: they are trained on and never validated"
        )
    return manifest_of(train, classes if with_train else [], classes, say), manifest_of(val, own, classes, say)


def classes_of(folder: Path, say: Callable[[str], None]) -> list[str]:
    """The class folders of a split, sorted; ``say`` hears warnings. Raises as ``scan_folder``."""
    top = top_of(folder)
    check_classes(folder, top)
    if top.images:
        say(
            f"warning: {len(top.images):,} images lie directly in {shown(folder)}, like {shown(top.images[0])}: they "
            "are left out, since they are in no class folder"
        )
    forgotten = [name for name in top.archives if name.partition(".")[0] not in top.folders]
    if forgotten:
        say(f"warning: {shown(folder / forgotten[0])} is an archive that is not unpacked: its content is left out")
    return top.folders


def manifest_of(folder: Path, own: Sequence[str], classes: Sequence[str], say: Callable[[str], None]) -> Manifest:
    """The manifest of the class folders ``own`` of a split, labelled by their places in ``classes``.

    Raises as ``scan_folder``.
    """
    entries: list[tuple[bytes, int, int]] = []
    oddities = Oddities()
    labels = {name: label for label, name in enumerate(classes)}
    above = (identity(str(folder)),) if own else ()
    with Progress(f"photos of {shown(folder)} found") as progress:
        for name in own:
            before = len(entries)
            found = progress.over(images_below(str(folder / name), os.fsencode(name), oddities, above))
            entries.extend((file, labels[name], size) for file, size in found)
            if len(entries) == before:
                raise _empty_class(folder / name)
    tell_oddities(folder, oddities, say)
    return Manifest.build(entries, classes)


def _empty_class(folder: Path) -> ConfigError:
    where = shown(folder)
    if folder.name == "lost+found":
        return ConfigError(f"{where} holds no images. {of_the_file_system(str(folder))}")
    return ConfigError(
        f"{where} holds no images ({', '.join(IMG_EXTENSIONS)}){kinds_of(folder)}: as a class folder it needs some. "
        "Add some or remove the folder."
    )


def tell_oddities(folder: Path, oddities: Oddities, say: Callable[[str], None]) -> None:
    """Warnings. Raises ConfigError for what macOS leaves beside photos: each of these files would end an epoch."""
    if oddities.apple_double:
        raise ConfigError(
            f"{len(oddities.apple_double):,} files below {shown(folder)}, like {shown(oddities.apple_double[0])}, are "
            "no photos but what macOS keeps beside them, under names of photos. Delete them: "
            f"find {shlex.quote(shown(folder))} -name '._*' -delete"
        )
    hidden = sorted(oddities.hidden)
    if hidden:
        more = f" (and {len(hidden) - 1:,} more)" if len(hidden) > 1 else ""
        say(
            f"warning: {shown(hidden[0])}{more} is a folder that a program has made, and counts like any other, as in "
            "torchvision's ImageFolder: its images are samples, and where a class should be it is a class. "
            f"If you do not want that: rm -r {shlex.quote(shown(hidden[0]))}"
        )
    if oddities.empty:
        say(
            f"warning: {len(oddities.empty):,} images of {shown(folder)} are empty files, like "
            f"{shown(oddities.empty[0])}: replace or remove them, since they cannot be read as images"
        )
