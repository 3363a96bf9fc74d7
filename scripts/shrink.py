"""Store smaller copies of the photos, once before training, since decoding is most of what a sample costs.

    python -m scripts.shrink /data/imagenet /data/imagenet-500 --side 500 --quality 90

A photo whose short side is longer than --side pixels becomes a JPEG of --quality, under its name, whatever its
extension; everything else is copied byte for byte. Layout, order and labels stay, and the *pixels differ*: it is
another data set, with another hash, so compare accuracies only with those of runs on it. --workers processes do the
work; the same command goes on after a kill. For a bucket, shrink the folder and upload the result
(python -m aistore_data.upload).
"""

import argparse
import io
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from PIL import Image

from aistore_data.bucket.layout import METADATA_PREFIX
from aistore_data.upload.destination import SPLITS, Folder, opened_folder, present, put
from aistore_data.upload.items import Item, index_folder, items_of
from aistore_data.upload.transfer import plan, transfer
from etl.sample import CorruptSample, transform
from etl.spec import Key, Spec
from sources.command_line import add_workers, command, exit_code, positive, print_line
from sources.errors import ConfigError
from sources.manifest import IMG_EXTENSIONS
from sources.notices import collect
from sources.progress_bar import Progress
from sources.text import shell_word

RECORD = f"{METADATA_PREFIX}shrink.json"


def shrink(data: bytes, side: int, quality: int) -> bytes:
    """A JPEG of ``quality`` whose short side is ``side`` pixels, if the photo's is longer; else the bytes as they are.

    What is no photo, or cannot be decoded whole, stays as it is too, so labels beside photos do. Greyscale stays
    greyscale, everything else becomes RGB as training makes it (``convert("RGB")``); EXIF and colour profile, which
    training ignores, are dropped. Resized by Lanczos, horizontally and then vertically: Pillow's own call has changed
    the order between its versions.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF
            with Image.open(io.BytesIO(data)) as opened:
                if min(opened.size) <= side:
                    return data
                image = opened.convert("L" if opened.mode == "L" else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return data
    width, height = shrunk_size(image.width, image.height, side)
    for size in ((width, image.height), (width, height)):
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def shrunk_size(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) with the short side ``side`` and the long one in proportion, rounded half up."""
    short = min(width, height)
    return (2 * width * side + short) // (2 * short), (2 * height * side + short) // (2 * short)


def _shrunk(side: int, quality: int, name: str, data: bytes) -> tuple[bytes, list[str]]:
    """Shrink a photo, in the form that ``aistore_data.upload.transfer`` calls."""
    return shrink(data, side, quality), []


def shrink_folder(dest: Folder, options: argparse.Namespace, check: Callable[[], None]) -> tuple[int, int]:
    """An ImageFolder into another; answers (photos stored, photos that were there). Raises UserError."""
    source = Path(options.source)
    splits = index_folder(source, print_line)
    items = [Item(i.name, i.place, -1) for split in splits for i in items_of(split, split.manifest(), "folders")]
    planned = plan(items, dest, replace=False)
    how = {"side": options.side, "quality": options.quality}
    record = json.dumps({"source": str(source.absolute()), **how}).encode()
    path = dest.root / RECORD
    there = path.read_bytes() if path.exists() else b"nothing that says how it was made"
    if there != record and any(entry.existing for entry in planned):  # a file's size does not tell how it was made
        raise ConfigError(
            f"{dest.root} holds other photos ({there.decode()}), not {record.decode()}: choose another DEST."
        )
    put(dest, RECORD, record)
    missing = [entry for entry in planned if entry.existing is None]
    transfer(missing, dest, options.workers, replace=False, transform=partial(_shrunk, *how.values()), check=check)
    photos = [entry for entry in planned if entry.item.name.startswith(SPLITS)]
    kept = sum(entry.existing is not None for entry in photos)
    return len(photos) - kept, kept


def measure(roots: Sequence[Path], names: Sequence[str]) -> list[tuple[float, float]]:
    """Means for each folder: a photo's bytes, and milliseconds of CPU for a training sample of 224 pixels.

    The folders take turns, photo by photo. What cannot be decoded counts with its bytes alone.
    """
    sizes, times = ([list[float]() for _ in roots] for _ in range(2))
    with Progress("photos measured", len(names)) as progress:
        for index, name in enumerate(progress.over(names, every=1)):
            for root, size, milliseconds in zip(roots, sizes, times, strict=True):
                data = (root / name).read_bytes()
                size.append(len(data))
                begin = time.process_time()
                with suppress(CorruptSample):
                    transform(data, Spec.train(224), Key(0, 0, index))
                    milliseconds.append(1000 * (time.process_time() - begin))
    return [(statistics.fmean(size), statistics.fmean(took or [0.0])) for size, took in zip(sizes, times, strict=True)]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = command("scripts.shrink", __doc__)
    parser.add_argument("source", metavar="SOURCE", help="a folder with train/ and val/")
    parser.add_argument("dest", metavar="DEST", help="another folder; made if it does not exist")
    parser.add_argument("--side", type=positive, required=True, help="the longest short side, in pixels")
    parser.add_argument("--quality", type=int, default=90, choices=range(1, 101), metavar="1…100", help="default: 90")
    parser.add_argument("--measure", type=positive, default=200, help="photos that are measured (default: 200)")
    add_workers(parser)
    options = parser.parse_args(arguments)
    if "://" in options.source or "://" in options.dest:
        parser.error(
            "SOURCE and DEST are folders: shrink the folder that the bucket was uploaded from, and bring DEST to a new "
            "bucket (python -m aistore_data.upload DEST ais://BUCKET)"
        )
    if options.source.rstrip("/") == options.dest.rstrip("/"):
        parser.error("SOURCE and DEST are the same")
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    with opened_folder(options.dest) as (dest, check):
        stored, kept = shrink_folder(dest, options, check)
        print(f"{options.dest}: {stored:,} photos stored, {kept:,} were there already")
        names = sorted(name for name in present(dest) if name.startswith(SPLITS[0]))
    photos = [name for name in names if name.lower().endswith(IMG_EXTENSIONS)]
    count = min(options.measure, len(photos))
    spread = [photos[index * len(photos) // count] for index in range(count)]
    collect()  # what Pillow says of odd photos is no part of the figures
    (size, before), (smaller, after) = measure((Path(options.source), dest.root), spread)
    print(f"measured on {count:,} photos, before → after:")
    print(f"  bytes per photo                     {size:,.0f} → {smaller:,.0f} ({smaller / size:.2f})")
    print(f"  CPU per training sample of 224 px   {before:.2f} → {after:.2f} ms ({after / max(before, 1e-9):.2f})")
    print("The pixels differ from the original photos': this is another data set, with another hash.")
    print(f"train on it: python train.py data.root={shell_word(options.dest)}")


if __name__ == "__main__":
    sys.exit(main())
