"""Turn ImageNet as you downloaded it into a folder to train from, or into a bucket, and check it on the way.

    python -m scripts.prepare_imagenet ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar \\
        ILSVRC2012_devkit_t12.tar.gz /data/imagenet
    python -m scripts.prepare_imagenet /downloads ais://imagenet                     # a folder that holds the three
    python -m scripts.prepare_imagenet imagenet-object-localization-challenge.zip ais://imagenet --layout pairs
    python -m scripts.prepare_imagenet /hf/imagenet-1k /data/imagenet --sample 100
    python -m scripts.prepare_imagenet /data/imagenet LOC_val_solution.csv /data/imagenet  # sorts a val/ that lies flat

SOURCE is ImageNet's archives, Kaggle's folder or zip, an ImageFolder, one whose val/ lies flat and a file of its
labels, or Hugging Face's Parquet files (these need pyarrow). DEST becomes train/CLASS/*.JPEG and val/CLASS/*.JPEG.
Killed at any moment, the same command goes on. What is odd about the photos is told at the end, and in DEST's
.imagenet-ais/prepare.json.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aistore_data.bucket.layout import METADATA_PREFIX
from aistore_data.bucket.store import Destination
from aistore_data.upload.destination import Folder, opened, put
from aistore_data.upload.items import InlineBytes, Item, Split, items_of
from aistore_data.upload.transfer import Outcome, Planned, plan, transfer
from scripts.prepare.checks import ArchiveSums, check_photos, check_splits, inspect
from scripts.prepare.flat import sort_in_place
from scripts.prepare.sources import Source, open_source, sampled
from sources.command_line import add_options, command, exit_code, positive, print_line
from sources.errors import ConfigError
from sources.text import shell_word, visible

REPORT = f"{METADATA_PREFIX}prepare.json"
_NAMES_TOLD = 3


def prepare(options: argparse.Namespace) -> dict[str, Any]:
    """The whole of it; answers the report. Raises UserError."""
    source = open_source(options.source)
    counts = ", ".join(f"{len(split.photos):,} {split.prefix[:-1]}" for split in source.splits)
    print(f"{source.kind}: {counts} photos, {len(source.splits[0].classes):,} classes", flush=True)
    if not options.allow_other:
        check_splits(source.splits)
    if source.flat and "://" not in options.dest and source.flat.resolve() == Path(options.dest).resolve():
        return _sort_in_place(source, options)
    splits = [sampled(split, options.sample) for split in source.splits] if options.sample else source.splits
    check_photos(splits, options.max_photo_mb)
    manifests = [split.manifest() for split in splits]
    items = [item for s, m in zip(splits, manifests, strict=True) for item in items_of(s, m, options.layout)]
    whole = source.archives and not options.sample and not options.allow_other
    sums = ArchiveSums(source.archives if whole else {})
    with opened(options.dest, options.endpoint) as (destination, check):
        planned = plan(items, destination, options.replace)
        _warn(planned, destination)
        transform = None if options.no_inspect else inspect
        outcome = transfer(planned, destination, options.workers, options.replace, transform, sums.on_read, check)
        sums.finish()
        report = _report(source, splits, items, outcome, options)
        put(destination, REPORT, json.dumps(report, indent=1).encode())
    return report


def _sort_in_place(source: Source, options: argparse.Namespace) -> dict[str, Any]:
    """Move validation photos that lie flat in DEST into class folders, and read nothing."""
    if options.sample:
        raise ConfigError("--sample makes a smaller set, which cannot lie where the photos do: use another DEST.")
    with opened(options.dest, options.endpoint) as (destination, _):
        moved = sort_in_place(source.splits[1], Path(options.dest).absolute())
        items = [item for split in source.splits for item in items_of(split, split.manifest(), "folders")]
        for item in items:
            if isinstance(item.place, InlineBytes):
                put(destination, item.name, item.place.read())
        kept = sum(len(split.photos) for split in source.splits) - moved
        outcome = Outcome(moved, kept, sizes=[item.size for item in items])
        report = _report(source, source.splits, items, outcome, options) | {"inspected": False}
        put(destination, REPORT, json.dumps(report, indent=1).encode())
    return report


def _warn(planned: Sequence[Planned], destination: Destination) -> None:
    if not isinstance(destination, Folder):
        odd = [entry.item.name for entry in planned if set(entry.item.name) & set("?#%")]
        if odd:  # AIS does not encode names in what it sends to a pod
            print_line(f"warning: {len(odd):,} names hold ?, # or %, like {odd[0]!r}. AIStore's ETLs are not asked for "
                       "these as they should be: use --layout pairs, or data.transform=client.")  # fmt: skip
    else:
        needed = sum(entry.item.size for entry in planned if entry.existing is None and entry.item.size > 0)
        free = shutil.disk_usage(destination.root).free
        if needed > free:
            print_line(f"warning: {needed / 1e9:,.1f} GB are to be written and {destination.uri} has room for "
                       f"{free / 1e9:,.1f} GB")  # fmt: skip


def _report(
    source: Source, splits: Sequence[Split], items: Sequence[Item], outcome: Outcome, options: argparse.Namespace
) -> dict[str, Any]:
    sizes = {item.place: size for item, size in zip(items, outcome.sizes, strict=True)}
    described = {}
    for split in splits:
        photos = [photo._replace(size=sizes[photo.place]) for photo in split.photos]
        manifest = Split(split.prefix, split.classes, photos).manifest()
        described[split.prefix[:-1]] = {
            "samples": len(manifest),
            "bytes": int(manifest.sizes.sum()),
            "sha256": manifest.sha256(),
        }
    return {
        "source": source.kind,
        "layout": options.layout,
        "sample": options.sample,
        "imagenet": not options.allow_other,
        "md5_checked": bool(source.archives) and not options.sample and not options.allow_other,
        "classes": len(splits[0].classes),
        **described,
        "written": outcome.sent,
        "written_bytes": outcome.sent_bytes,
        "kept": outcome.kept,
        "inspected": not options.no_inspect,
        "oddities": outcome.oddities,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = command("scripts.prepare_imagenet", __doc__)
    parser.add_argument("source", nargs="+", type=Path, metavar="SOURCE", help="what you have; see above")
    parser.add_argument("dest", metavar="DEST", help="a folder, or ais://BUCKET; made if it does not exist")
    parser.add_argument(
        "--layout",
        choices=("folders", "pairs"),
        default="folders",
        help="of a bucket: train/CLASS/x.JPEG, or train/0000353.JPEG beside train/0000353.cls (default: folders)",
    )
    parser.add_argument("--sample", type=positive, help="only the first so many photos of each class and split")
    parser.add_argument("--allow-other", action="store_true", help="also a subset of ImageNet, or another data set")
    parser.add_argument("--no-inspect", action="store_true", help="do not decode photos: saves 1 to 2 ms of CPU each")
    parser.add_argument(
        "--max-photo-mb",
        type=positive,
        default=256,
        metavar="N",
        help="refuse photos of more than N MB, which an archive made to harm may hold (default: 256)",
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    if options.layout == "pairs" and "://" not in options.dest:
        parser.error("--layout pairs is that of a bucket: training reads a folder by its class folders")
    return exit_code(lambda: _tell_report(prepare(options), options))


def _tell_report(report: dict[str, Any], options: argparse.Namespace) -> None:
    print(f"{options.dest}: {report['written']:,} written ({report['written_bytes'] / 1e6:,.1f} MB), "
          f"{report['kept']:,} were there already")  # fmt: skip
    for kind, names in sorted(report["oddities"].items(), key=lambda entry: -len(entry[1])):
        more = f" and {len(names) - _NAMES_TOLD:,} more" if len(names) > _NAMES_TOLD else ""
        print(f"  {len(names):,} {kind}: {visible(', '.join(names[:_NAMES_TOLD]))}{more}")
    print(
        f"  data set {report['train']['sha256'][:12]} (train), {report['val']['sha256'][:12]} (val); more in {REPORT}"
    )
    of_bucket = "data=aistore data.bucket=" if "://" in options.dest else "data.root="
    print(f"train on it: python train.py {of_bucket}{shell_word(options.dest)}")


if __name__ == "__main__":
    sys.exit(main())
