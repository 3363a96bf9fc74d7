"""Upload an ImageFolder, or tar shards, to a bucket: ``python -m aistore_data.upload ROOT ais://BUCKET``.

ROOT holds train/ and val/, which hold class folders, or tar shards: train/*.tar. Of shards, which Hugging Face's
_info.json may list too, each is put in one piece, and classes.json and index.json are put beside them. What is there
already with the same size and checksum is not sent again, so an upload that was interrupted goes on where it was. The
cluster is AIS_ENDPOINT's or --endpoint's, with the SDK's environment names for token and TLS. ``python -m
scripts.prepare_imagenet`` takes ImageNet as it was downloaded, and checks it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from aistore_data.bucket.layout import Layout
from aistore_data.bucket.store import AisStore
from aistore_data.upload.destination import open_bucket, opened_bucket
from aistore_data.upload.items import index_folder, items_of
from aistore_data.upload.shards import upload_shards
from aistore_data.upload.transfer import Outcome, plan, transfer
from sources.command_line import add_options, command, exit_code, print_line
from sources.errors import ConfigError
from sources.shards.listing import holds_shards
from sources.text import shell_word


def upload(root: Path, store: AisStore, layout: Layout, workers: int, replace: bool = False) -> Outcome:
    """Upload both splits. Raises ConfigError for a folder that is no ImageFolder, ClusterError and DataError."""
    items = [item for split in index_folder(root, print_line) for item in items_of(split, split.manifest(), layout)]
    with opened_bucket(store) as (bucket, check):
        return transfer(plan(items, bucket, replace), bucket, workers, replace, check=check)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = command("aistore_data.upload", __doc__)
    parser.add_argument("root", metavar="ROOT", type=Path, help="the folder that holds train/ and val/")
    parser.add_argument(
        "bucket", help="ais://NAME, made if it does not exist; or s3://NAME, gs://NAME, ais://#NAMESPACE/NAME"
    )
    parser.add_argument("--layout", choices=("folders", "pairs"), help="of photos (default folders)")
    add_options(parser)
    options = parser.parse_args(arguments)

    def work() -> None:
        shards = holds_shards(options.root)
        if shards and options.layout:
            raise ConfigError(f"{options.root} holds tar shards, and --layout is for photos: leave it out.")
        store, more = open_bucket(options.bucket, options.endpoint), ""
        if shards:
            done, with_val = upload_shards(options.root, store, options.workers, options.replace, print_line)
            more = f" data.layout=shards{'' if with_val else ' data.val_split=0.1'}"
        else:
            done = upload(options.root, store, options.layout or "folders", options.workers, options.replace)
        print(f"{options.bucket}: {done.sent:,} objects uploaded, {done.kept:,} were there already")
        endpoint = f" data.endpoint={shell_word(options.endpoint)}" if options.endpoint else ""
        print(f"train on it: python train.py data=aistore{endpoint} data.bucket={shell_word(options.bucket)}{more}")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
