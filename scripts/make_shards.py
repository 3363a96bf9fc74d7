"""Make tar shards, in WebDataset's layout: ``python -m scripts.make_shards FOLDER|BUCKET OUT [--samples 1000]``.

FOLDER holds train/ and val/, or the class folders alone, each with a folder for each class. Of ais://BUCKET, which
holds photos as objects, the shards are those of the folder that was uploaded. OUT gets train/ and val/ with
train-000000.tar and so on: KEY.jpg with KEY.cls beside it, which holds the class number, where KEY is CLASS/NAME.
Beside the tars lie index.json, wids' list of them, and classes.json, the classes' names by their numbers. data=shards,
webdataset and wids read them. Photos are copied byte by byte, in an order that their names and --seed decide, and the
same photos make the same bytes. A shard is written whole or not at all, is read back, and its checksums are compared;
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

from aistore_data.bucket.layout import METADATA_PREFIX
from aistore_data.upload.destination import Folder, opened_folder
from scripts.shard_photos import Photo, Place, key_of, splits_of
from sources.command_line import add_workers, command, exit_code, positive
from sources.disk import replace_file, shown
from sources.errors import ConfigError, DataError
from sources.processes import in_processes
from sources.progress_bar import Progress
from sources.shards.listing import CLASSES, LIST
from sources.shards.shard import read_shard
from sources.text import shell_word


@dataclass(frozen=True)
class Planned:
    """A shard to be made: its path, where its photos lie, and these in their order."""

    path: str
    place: Place
    photos: list[Photo]
    replace: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = command("scripts.make_shards", __doc__)
    parser.add_argument(
        "source", metavar="FOLDER|BUCKET", help="a folder with train/ and val/, or class folders alone; or ais://NAME"
    )
    parser.add_argument("out", metavar="OUT", help="another folder; made if it does not exist")
    parser.add_argument("--endpoint", default="", help="of a bucket's cluster; default: AIS_ENDPOINT")
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
    if "://" in options.out:
        parser.error("OUT is a folder: python -m aistore_data.upload OUT ais://BUCKET brings it to a bucket")
    if "://" not in options.source and os.path.realpath(options.source) == os.path.realpath(options.out):
        parser.error("FOLDER and OUT are the same")
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    splits = splits_of(options.source, options.endpoint)
    with opened_folder(options.out) as (dest, check):
        for split, place, listed, classes in splits:
            photos = _in_order(listed, options)
            out = dest.root / split
            out.mkdir(exist_ok=True)
            parts = [photos[begin : begin + options.samples] for begin in range(0, len(photos), options.samples)]
            planned = [
                Planned(str(out / f"{split}-{number:06d}.tar"), place, part, options.replace)
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
            _list(dest, out, planned, classes)
            print(f"{out}: {len(photos):,} photos in {len(planned):,} shards, of which {made:,} are new")
    alone = "" if len(splits) > 1 else " data.val_split=0.1"
    print(f"train on it: python train.py data=shards data.root={shell_word(str(options.out))}{alone}")


def partial_folder(dest: Folder) -> Path:
    """Where shards lie until they are whole."""
    return dest.root / METADATA_PREFIX / "partial"


def _in_order(photos: list[Photo], options: argparse.Namespace) -> list[Photo]:
    if options.order == "sorted":
        return photos
    key = options.seed.to_bytes(16, "little", signed=True)
    return sorted(photos, key=lambda photo: hashlib.blake2b(photo.member, digest_size=16, key=key).digest())


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
        problem = _problem(path, [(photo, zlib.crc32(planned.place.read(photo))) for photo in planned.photos])
        if not problem:
            return False
        if not planned.replace:
            raise DataError(f"{shown(path)} {problem}. Remove it, choose another OUT, or add --replace.")
    whole = folder / f"{path.name}.{os.getpid()}"
    found = []
    with open(whole, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for photo in planned.photos:
                data = planned.place.read(photo)
                found.append((photo, zlib.crc32(data)))
                where = planned.place.where(photo)
                _add(tar, where, photo.member, data)
                _add(tar, where, key_of(photo.member) + b".cls", str(photo.label).encode())
        file.flush()
        os.fsync(file.fileno())
    if problem := _problem(whole, found):
        raise DataError(f"{shown(path)} {problem}, as it is read back: the disk, or a photo's name, is at fault.")
    whole.replace(path)
    return True


def _add(tar: tarfile.TarFile, where: str, name: bytes, data: bytes) -> None:
    member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    member.size = len(data)
    try:
        tar.addfile(member, io.BytesIO(data))
    except ValueError as error:
        raise DataError(f"{where} cannot be in a tar as {shown(name)}: {error}. Rename it.") from None


def _problem(path: Path, photos: Sequence[tuple[Photo, int]]) -> str:
    """By what a shard differs from the photos and their CRC-32 that it should hold; "" if by nothing."""
    try:
        rows = read_shard(str(path))
    except DataError as error:
        return re.sub(rf"^{re.escape(shown(path))}:? ", "cannot be used, as it ", str(error)).rstrip(".")
    numbers = zip(rows.names, rows.labels.tolist(), rows.sizes.tolist(), rows.crc32.tolist(), strict=True)
    wanted = ((photo.member, photo.label, photo.size, crc) for photo, crc in photos)
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
