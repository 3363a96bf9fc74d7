"""The JPEG index of a folder: where its file lies, the names of its entries, and what it says to a person."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from etl.jpeg_index import VERSION, Entry, IndexFileError, IntervalMetrics, JpegIndex, can_use
from etl.sample import native
from sources.disk import cache_file, cause, shown

NAME = f".imagenet-ais-jpeg-index-{VERSION}"
"""The name of the file in the folder of the data."""


@dataclass(frozen=True)
class FolderIndex:
    """That of the photos below ``root``, whose entries have their paths from there as names."""

    root: Path
    file: JpegIndex
    before: IntervalMetrics
    """What it held when it was opened."""

    def of(self, folder: Path) -> "SplitIndex":
        """Return the index for the photos below ``folder``, which is ``root`` or lies in it."""
        below = folder.relative_to(self.root).as_posix()
        return SplitIndex(self.file, "" if below == "." else f"{below}/")

    def report(self, say: Callable[[str], None]) -> None:
        """Say what has been added since it was opened."""
        now = self.file.tally()
        before = self.before
        if now != before:
            renewed = now.renewed - before.renewed
            say(f"JPEG index: {described(now)} in {shown(self.file.path)}{renewed_words(renewed)}")


@dataclass(frozen=True)
class SplitIndex:
    """The JPEG index of a split, whose photos' names begin with ``prefix`` there."""

    file: JpegIndex
    prefix: str

    def entry(self, name: str) -> Entry:
        """That of a photo of the split's manifest."""
        return self.file.entry(self.prefix + name)


def open_index(root: Path, photos: int, say: Callable[[str], None], made: bool = True) -> FolderIndex | None:
    """The JPEG index of a folder with about so many photos; None, and a warning, where none can be had.

    It lies in the folder, where that can be written to or has one already, else in the user's cache. None without a
    word where the native module is missing, or older. Not ``made``: one that is there is read and not written to.
    """
    if not can_use(native()):
        return None
    problem = ""
    for path in places(root):
        try:
            file = JpegIndex(str(path), photos, made=made)
            return FolderIndex(root, file, file.tally())
        except IndexFileError as error:
            problem = str(error)
            break
        except OSError as error:
            if made or not isinstance(error, FileNotFoundError):
                problem = f"{shown(path)} cannot be {'written' if made else 'read'}: {cause(error)}"
    if problem:
        say(f"warning: no JPEG index is used, and crops take longer to decode: {problem}")
    return None


def places(root: Path) -> list[Path]:
    """Return the places where the file of a folder's JPEG index may lie, the best one first."""
    found = [root / NAME]
    try:
        found.append(cache_file(f"jpeg index {VERSION} {root.absolute()}"))
        found[1].parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home folder, or one that cannot be written to
        return found[:1]
    return found


def described(tally: IntervalMetrics) -> str:
    """What an index holds, in words."""
    text = f"{tally.photos:,} photos have an entry, {tally.size / max(tally.photos, 1):,.0f} bytes each"
    return text + "".join(f", {count:,} have none ({reason})" for reason, count in sorted(tally.refused.items()))


def renewed_words(count: int) -> str:
    """How many entries did not fit, to end a sentence."""
    return f"; {count:,} that were damaged, or of another content, were made anew" if count else ""
