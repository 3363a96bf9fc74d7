"""Make the JPEG index of a folder ahead of a run, which would otherwise make it in its first epoch.

    python -m scripts.make_index /data/imagenet

The folder is what data.root will be. --workers processes read every photo once and write where its JPEG can be entered,
about 1 % of the data, to one file in the folder, or in ~/.cache/imagenet-ais where the folder cannot be written to. The
same command goes on after a kill, and adds what is new or has another size. Runs give the same results with and without
it, and may go on beside it.
"""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from etl.jpeg_index import JpegIndex, can_use
from etl.sample import native
from sources.command_line import add_workers, command, exit_code
from sources.disk import cause, read_file, shown
from sources.errors import ConfigError, DataError, UserError
from sources.jpeg_index import FolderIndex, described, open_index, renewed_words
from sources.misplaced import require_root
from sources.processes import answers
from sources.progress_bar import Progress
from sources.walk import Oddities, images_below

_CHUNK = 200
"""Photos that a process is given at a time."""

Photo = tuple[str, int]
"""(path below the folder, size in bytes)."""


def photos_below(root: Path) -> list[Photo]:
    """All of them, sorted by their paths. Raises ConfigError or DataError for what cannot be read."""
    with Progress(f"photos of {shown(root)} found") as progress:
        found = progress.over(images_below(str(root), b"", Oddities()))
        return sorted((name[1:].decode("utf-8", "surrogateescape"), size) for name, size in found)


def make_index(root: Path, index: JpegIndex, photos: Sequence[Photo], workers: int) -> int:
    """Make what is missing, or of another size; answers of how many photos. Raises UserError."""
    missing = [photo for photo in photos if not index.entry(photo[0]).is_of_size(photo[1])]
    chunks = list(_chunks(missing))
    found = answers(partial(_make, root, index), (names for names, _ in chunks), workers, (__name__,))
    with Progress("photos", len(missing)) as progress:
        try:
            for (names, size), problem in zip(chunks, found, strict=True):
                if problem:
                    raise DataError(f"{shown(index.path)} cannot be written to: {problem}. The same command goes on.")
                progress.add(len(names), size)
        except BrokenProcessPool:
            raise UserError("a process was killed, perhaps for lack of memory. The same command goes on.") from None
        finally:
            found.close()
    return len(missing)


def _chunks(photos: Sequence[Photo]) -> Iterator[tuple[list[str], int]]:
    for start in range(0, len(photos), _CHUNK):
        chunk = photos[start : start + _CHUNK]
        yield [name for name, _ in chunk], sum(size for _, size in chunk)


def _make(root: Path, index: JpegIndex, names: Sequence[str]) -> str:
    """Make entries; answers why no more can be written, "" if they can. Raises DataError."""
    module = native()
    assert module is not None
    for name in names:
        path = f"{root}/{name}"
        try:
            data = read_file(path)
        except OSError as error:
            raise DataError(f"{shown(path)} cannot be read: {cause(error)}. The same command goes on.") from None
        index.entry(name).make(module, data)
    return index.problem


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = command("scripts.make_index", __doc__)
    parser.add_argument("folder", metavar="DATA", type=Path, help="the folder that data.root will name")
    add_workers(parser)
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options.folder, options.workers))


def _run(root: Path, workers: int) -> None:
    if not can_use(native()):
        raise ConfigError("imagenet_ais_native is not built, older than this, or switched off: make setup builds it.")
    require_root(root, "it must hold photos")
    photos = photos_below(root)
    if not photos:
        raise ConfigError(f"{shown(root)} holds no images: give the folder that data.root will name.")
    opened = _opened(root, len(photos))
    made = make_index(root, opened.file, photos, workers)
    tally = opened.file.tally()
    print(f"{shown(opened.file.path)}: {made:,} photos read, {len(photos) - made:,} were there already")
    print(described(tally) + renewed_words(tally.renewed - opened.before.renewed))


def _opened(root: Path, photos: int) -> FolderIndex:
    said: list[str] = []
    opened = open_index(root, photos, said.append)
    if opened is None:
        raise ConfigError(said[0].removeprefix("warning: ") + ".")
    if not opened.file.is_written:
        raise ConfigError(f"{shown(opened.file.path)} cannot be written to: let this user write to it.")
    return opened


if __name__ == "__main__":
    sys.exit(main())
