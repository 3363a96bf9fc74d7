"""The images below a folder, and a sentence for whatever keeps one of them from being found."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sources.disk import cause, patiently, shown
from sources.errors import ConfigError, DataError
from sources.manifest import IMG_EXTENSIONS

T = TypeVar("T")

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip", ".7z", ".rar")

PATIENCE_S = 5.0
"""Seconds for which a folder is asked for again that a network file system does not give."""

APPLE_DOUBLE = b"\0\5\x16\7"
"""What a file begins with in which macOS keeps what another file system has no place for (RFC 1740)."""

_NOT_FOR_PEOPLE = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "#recycle")
"""Folders that programs make beside those of people; folders that begin with a dot are such too."""

_LASTING = {
    errno.ELOOP: "is a link that leads in a circle: repair or remove it.",
    errno.ENAMETOOLONG: "cannot be read: its path is too long. Move the data to a shorter one.",
    errno.ENOTDIR: "cannot be read: a part of its path is a file, and no folder.",
}
"""What to say of faults that waiting does not mend."""


@dataclass
class Oddities:
    """What is odd below a folder: paths, but for what can be loaded."""

    apple_double: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    """Folders with images that somebody's program has made: ImageFolder takes them like any other."""


@dataclass
class Top:
    """What lies directly in the folder of a split: names of folders, images, archives and of all else."""

    folders: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def top_of(folder: Path) -> Top:
    """Sorted. Raises ConfigError or DataError that names what cannot be read, such as a link that leads nowhere."""
    top = Top()
    for entry in sorted(_entries(str(folder)), key=lambda entry: entry.name):
        name = entry.name.lower()
        if _is_folder(entry):
            top.folders.append(entry.name)
        elif name.endswith(IMG_EXTENSIONS):
            top.images.append(entry.name)
        else:
            (top.archives if name.endswith(ARCHIVES) else top.others).append(entry.name)
    return top


def is_folder(path: Path) -> bool:
    """Whether a folder is there, or a link to one. Raises ConfigError or DataError if that cannot be known."""
    try:
        return stat.S_ISDIR(patiently(lambda: path.stat(), PATIENCE_S).st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and not Path(path).is_symlink():
            return False
        raise cannot_read(str(path), error) from None


def images_below(
    folder: str, prefix: bytes, oddities: Oddities, above: tuple[tuple[int, int], ...] = ()
) -> Iterator[tuple[bytes, int]]:
    """(name that begins with ``prefix``, size in bytes) of the images of a folder and those below it, in any order.

    Links are followed. ``above`` identifies the folders that this one lies in. Raises as ``top_of``, and ConfigError
    for a link that leads back to a folder above it.
    """
    above = (*above, identity(folder))
    if above[-1] in above[:-1]:
        raise ConfigError(f"{shown(folder)} leads back to a folder that it lies in: remove the link.")
    found = False
    for entry in _entries(folder):
        name = entry.name
        image = name.lower().endswith(IMG_EXTENSIONS)
        try:
            status = entry.stat() if image or entry.is_symlink() or entry.is_dir() else None
        except OSError:
            status = _asked(entry.path, entry.stat)
        if status is None:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from images_below(entry.path, prefix + b"/" + os.fsencode(name), oddities, above)
        elif image:
            found = True
            if not stat.S_ISREG(status.st_mode) or status.st_size == 0 or name.startswith("._"):
                _look_at(entry.path, status, oddities)
            yield prefix + b"/" + os.fsencode(name), status.st_size
    own = Path(folder).name
    if found and (own.startswith(".") or own in _NOT_FOR_PEOPLE):
        oddities.hidden.append(folder)


def kinds_of(folder: Path) -> str:
    """What a folder without images holds, in words that begin with a semicolon; "" for nothing."""
    names = [entry.name for entry in _entries(str(folder))]
    kinds = sorted({Path(name).suffix or name for name in names})
    return f"; it holds {len(names):,} other files or folders ({', '.join(map(shown, kinds[:3]))})" if names else ""


def identity(folder: str) -> tuple[int, int]:
    """Device and number of a folder, which links to it share. Raises as ``top_of``."""
    status = _asked(folder, lambda: os.stat(folder))  # noqa: PTH116  # a path of any bytes
    return status.st_dev, status.st_ino


def cannot_read(path: str, error: OSError) -> ConfigError | DataError:
    """The sentence for a path that the system does not give."""
    where = shown(path)
    if Path(path).name == "lost+found":
        return ConfigError(f"{where} cannot be read: {cause(error)}. {of_the_file_system(path)}")
    if error.errno == errno.ENOENT and Path(path).is_symlink():
        return ConfigError(
            f"{where} is a link to {shown(Path(path).readlink())}, which does not exist: repair or remove it."
        )
    if error.errno == errno.ENOENT:
        return DataError(f"{where} vanished while its folder was read: start again once nobody changes the data.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError(f"{where} cannot be read: {cause(error)}. Let this user read it, or remove it.")
    if error.errno in _LASTING:
        return ConfigError(f"{where} {_LASTING[error.errno]}")
    return DataError(f"{where} cannot be read: {cause(error)}. Start again when the disk works.")


def of_the_file_system(path: str) -> str:
    """What to do about a folder lost+found that lies where classes do."""
    return (
        f"It is the file system's own and no class: move the class folders from {shown(Path(path).parent)} into a "
        "folder of their own."
    )


def _entries(folder: str) -> list[os.DirEntry[str]]:
    def listed() -> list[os.DirEntry[str]]:
        with os.scandir(folder) as listing:
            return list(listing)

    return _asked(folder, listed)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Follows links. Raises for one that leads nowhere: it may have been a folder, or a photo."""
    return _asked(entry.path, lambda: entry.is_dir() or (entry.is_symlink() and stat.S_ISDIR(entry.stat().st_mode)))


def _asked(path: str, ask: Callable[[], T]) -> T:
    """What the system answers of a path, with patience. Raises as ``top_of``."""
    try:
        return patiently(ask, PATIENCE_S)
    except OSError as error:
        raise cannot_read(path, error) from None


def _look_at(path: str, status: os.stat_result, oddities: Oddities) -> None:
    """Note what is odd about an image. Raises ConfigError for one that would be waited for for ever."""
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{shown(path)} is a pipe or a device and not a file, so it holds no photo: remove it.")
    if status.st_size == 0:
        oddities.empty.append(path)
        return
    try:
        with open(path, "rb") as file:
            if file.read(4) == APPLE_DOUBLE:
                oddities.apple_double.append(path)
    except OSError as error:
        raise cannot_read(path, error) from None
