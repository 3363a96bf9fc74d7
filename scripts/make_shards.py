"""Make tar shards of a folder, in WebDataset's layout: ``python -m scripts.make_shards FOLDER OUT [--samples 1000]``.

FOLDER holds train/ and val/, or the class folders alone, each with a folder for each class. OUT gets train/ and val/
with train-000000.tar and so on: KEY.jpg with KEY.cls beside it, which holds the class number, where KEY is CLASS/NAME.
Beside the tars lie index.json, wids' list of them, and classes.json, the classes' names by their numbers. data=shards,
webdataset and wids read them. Photos are copied byte by byte, in an order that their names and --seed decide, and the
same folder makes the same bytes. A shard is written whole or not at all, is read back, and its checksums are compared;
the same command goes on where it was interrupted, and checks what is there.
"""

import argparse
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aistore_data.bucket.layout import METADATA_PREFIX
from aistore_data.upload.destination import Folder, opened_folder
from aistore_data.upload.items import File
from sources.command_line import add_workers, command, exit_code, positive, print_line
from sources.disk import replace_file, shown
from sources.errors import ConfigError, DataError
from sources.folder import classes_of, manifest_of, scan_folder
from sources.manifest import Manifest
from sources.processes import in_processes
from sources.progress_bar import Progress
from sources.shards.listing import CLASSES, LIST
from sources.shards.shard import read_shard
from sources.walk import is_folder

_PLAIN = re.compile(rb"(?:.*/|)[^./]+[.][^./]+", re.DOTALL)
"""A name with one dot, behind its key."""


class Photo(NamedTuple):
    """One to store: its file, the name of its member, its class number, its bytes."""

    path: str
    name: bytes
    label: int
    size: int


@dataclass(frozen=True)
class Planned:
    """A shard to be made: its path, and the photos in their order."""

    path: str
    photos: list[Photo]
    replace: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = command("scripts.make_shards", __doc__)
    parser.add_argument("folder", metavar="FOLDER", help="a folder with train/ and val/, or class folders alone")
    parser.add_argument("out", metavar="OUT", help="another folder; made if it does not exist")
    parser.add_argument("--samples", type=positive, default=1000, help="photos of a shard (default %(default)s)")
    parser.add_argument(
        "--order",
        choices=("shuffled", "sorted"),
        default="shuffled",
        help="of the photos: by a hash of their names and --seed, or by name (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of --order=shuffled (default %(default)s)")
    parser.add_argument("--replace", action="store_true", help="replace shards that hold something else")
    add_workers(parser)
    options = parser.parse_args(arguments)
    if os.path.realpath(options.folder) == os.path.realpath(options.out):
        parser.error("FOLDER and OUT are the same")
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    splits = _splits(Path(options.folder))
    with opened_folder(options.out) as (dest, check):
        for split, folder, manifest in splits:
            photos = _in_order(_photos(folder, manifest), options)
            out = dest.root / split
            out.mkdir(exist_ok=True)
            parts = [photos[begin : begin + options.samples] for begin in range(0, len(photos), options.samples)]
            planned = [
                Planned(str(out / f"{split}-{number:06d}.tar"), part, options.replace)
                for number, part in enumerate(parts)
            ]
            _refuse_strangers(out, planned)
            made = 0
            with Progress(f"shards of {split}", len(planned)) as progress:
                work = partial(make_shard, partial_folder(dest))
                for is_new in in_processes(work, planned, min(options.workers, len(planned)), "made shards"):
                    check()
                    made += is_new
                    progress.add(1)
            _list(dest, out, planned, manifest.classes)
            print(f"{out}: {len(photos):,} photos in {len(planned):,} shards, of which {made:,} are new")


def partial_folder(dest: Folder) -> Path:
    """Where shards lie until they are whole."""
    return dest.root / METADATA_PREFIX / "partial"


def _splits(root: Path) -> list[tuple[str, Path, Manifest]]:
    """(split, folder, manifest) of what there is. Raises ConfigError or DataError."""
    if is_folder(root / "train") and is_folder(root / "val"):
        manifests = scan_folder(root, print_line)
        return [(split, root / split, found) for split, found in zip(("train", "val"), manifests, strict=True)]
    folder = root / "train" if is_folder(root / "train") else root
    if not is_folder(folder):
        raise ConfigError(f"{shown(root)} is not a folder: it must hold train/ and val/, or a folder for each class.")
    classes = classes_of(folder, print_line)
    return [("train", folder, manifest_of(folder, classes, classes, print_line))]


def _photos(folder: Path, manifest: Manifest) -> list[Photo]:
    """In the manifest's order. A key has no dot, and one photo: what is behind its first dot is a member's kind."""
    names = [os.fsencode(manifest.name(index)) for index in range(len(manifest))]
    keys = [_key(name) for name in names]
    taken: dict[bytes, int] = {}
    for key in keys:
        taken[key] = taken.get(key, 0) + 1
    members = [
        name if taken[key] == 1 and _PLAIN.fullmatch(name) else _renamed(name)
        for name, key in zip(names, keys, strict=True)
    ]
    renamed = [(name, member) for name, member in zip(names, members, strict=True) if name != member]
    if len({_key(member) for member in members}) < len(members):
        raise ConfigError(
            f"{shown(folder)} has photos whose names differ by dots and underscores alone, like "
            f"{shown(renamed[0][0])}: rename them. What is behind the first dot of a name in a shard is its kind."
        )
    if renamed:
        name, member = renamed[0]
        print_line(
            f"note: {len(renamed):,} photos are called otherwise in the shards, as {shown(name)} is {shown(member)}: "
            "what is behind the first dot is a member's kind there. If they sort otherwise now, these shards are "
            "another data set than the folder."
        )
    rows = zip(names, members, manifest.labels.tolist(), manifest.sizes.tolist(), strict=True)
    return [Photo(f"{folder}/{os.fsdecode(name)}", member, label, size) for name, member, label, size in rows]


def _key(name: bytes) -> bytes:
    folder, slash, base = name.rpartition(b"/")
    return folder + slash + base.split(b".")[0]


def _renamed(name: bytes) -> bytes:
    """CLASS/a.b.JPEG → CLASS/a_b_JPEG.JPEG."""
    folder, slash, base = name.rpartition(b"/")
    return folder + slash + base.replace(b".", b"_") + b"." + base.rpartition(b".")[2]


def _in_order(photos: list[Photo], options: argparse.Namespace) -> list[Photo]:
    if options.order == "sorted":
        return photos
    key = options.seed.to_bytes(16, "little", signed=True)
    return sorted(photos, key=lambda photo: hashlib.blake2b(photo.name, digest_size=16, key=key).digest())


def _refuse_strangers(out: Path, planned: Sequence[Planned]) -> None:
    names = {Path(shard.path).name for shard in planned}
    strangers = sorted(path.name for path in out.iterdir() if path.suffix == ".tar" and path.name not in names)
    if strangers:
        raise ConfigError(
            f"{shown(out / strangers[0])} does not belong to these shards, of which there are {len(planned):,}: remove "
            "what is there of other shards, or choose another OUT."
        )


def make_shard(folder: Path, planned: Planned) -> bool:
    """Whether the shard is new; one that is there is compared. ``folder`` holds it until it is whole.

    Raises DataError for a photo that cannot be stored, and for a shard that holds something else.
    """
    path = Path(planned.path)
    if path.exists():
        problem = _problem(path, [(photo, zlib.crc32(_read(photo))) for photo in planned.photos])
        if not problem:
            return False
        if not planned.replace:
            raise DataError(f"{shown(path)} {problem}. Remove it, choose another OUT, or add --replace.")
    whole = folder / f"{path.name}.{os.getpid()}"
    found = []
    with open(whole, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for photo in planned.photos:
                data = _read(photo)
                found.append((photo, zlib.crc32(data)))
                _add(tar, photo, photo.name, data)
                _add(tar, photo, _key(photo.name) + b".cls", str(photo.label).encode())
        file.flush()
        os.fsync(file.fileno())
    if problem := _problem(whole, found):
        raise DataError(f"{shown(path)} {problem}, as it is read back: the disk, or a photo's name, is at fault.")
    whole.replace(path)
    return True


def _add(tar: tarfile.TarFile, photo: Photo, name: bytes, data: bytes) -> None:
    member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    member.size = len(data)
    try:
        tar.addfile(member, io.BytesIO(data))
    except ValueError as error:
        raise DataError(f"{shown(photo.path)} cannot be in a tar as {shown(name)}: {error}. Rename it.") from None


def _read(photo: Photo) -> bytes:
    data = File(photo.path).read()
    if len(data) != photo.size:
        raise DataError(f"{shown(photo.path)} was changed meanwhile: start again when nobody writes to it.")
    return data


def _problem(path: Path, photos: Sequence[tuple[Photo, int]]) -> str:
    """By what a shard differs from the photos and their CRC-32 that it should hold; "" if by nothing."""
    try:
        rows = read_shard(str(path))
    except DataError as error:
        return re.sub(rf"^{re.escape(shown(path))}:? ", "cannot be used, as it ", str(error)).rstrip(".")
    numbers = zip(rows.names, rows.labels.tolist(), rows.sizes.tolist(), rows.crc32.tolist(), strict=True)
    wanted = ((photo.name, photo.label, photo.size, crc) for photo, crc in photos)
    if len(rows) != len(photos):
        return f"holds {len(rows):,} photos, and {len(photos):,} belong there"
    other = next((photo[0] for photo, row in zip(wanted, numbers, strict=True) if photo != row), None)
    return "" if other is None else f"holds something else in the place of {shown(other)}"


def _list(dest: Folder, out: Path, planned: Sequence[Planned], classes: Sequence[str]) -> None:
    rows = [{"url": Path(shard.path).name, "nsamples": len(shard.photos)} for shard in planned]
    wids = {"wids_version": 1, "name": out.name, "shardlist": rows}
    for name, content in ((LIST, json.dumps(wids, indent=1)), (CLASSES, json.dumps(list(classes)))):
        replace_file(out / name, f"{content}\n".encode(), partial_folder(dest), 0o644)


if __name__ == "__main__":
    sys.exit(main())
