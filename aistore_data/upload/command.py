"""Upload an ImageFolder to a bucket: ``python -m aistore_data.upload ROOT ais://BUCKET [--layout folders|pairs]``.

ROOT holds train/ and val/. What is there already with the same size and checksum is not sent again, so an upload that
was interrupted goes on where it was. The cluster is AIS_ENDPOINT's or --endpoint's, with the SDK's environment names
for token and TLS. ``python -m scripts.prepare_imagenet`` takes ImageNet as it was downloaded, and checks it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from aistore_data.bucket.layout import Layout
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.http_reader import Access
from aistore_data.client.sdk import connect
from aistore_data.upload.claim import Claim
from aistore_data.upload.destination import Bucket
from aistore_data.upload.items import index_folder, items_of
from aistore_data.upload.transfer import Outcome, plan, transfer
from sources.disk import cause, shown
from sources.errors import UserError
from sources.text import visible

STOPPED = 85
"""Exit code: stopped on request, and the same command goes on."""


def open_bucket(uri: str, endpoint: str, create: bool = True) -> Bucket:
    """The bucket of a command line, made if it is missing, where wanted. Raises ConfigError or ClusterError."""
    parse_bucket(uri, "BUCKET=")
    access = Access.from_environment(endpoint, "--endpoint")
    connect(access)
    bucket = Bucket(uri, access)
    if create:
        bucket.prepare()
    return bucket


def upload(root: Path, bucket: Bucket, layout: Layout, workers: int, replace: bool = False) -> Outcome:
    """Upload both splits. Raises ConfigError for a folder that is no ImageFolder, ClusterError and DataError."""
    items = [item for split in index_folder(root, print_line) for item in items_of(split, split.manifest(), layout)]
    with Claim(bucket.sdk, bucket.uri, print_line) as claim:
        return transfer(plan(items, bucket, replace), bucket, workers, replace, check=claim.check)


def print_line(text: str) -> None:
    """A line beside the result."""
    print(visible(text), file=sys.stderr, flush=True)


def add_options(parser: argparse.ArgumentParser, replace: bool = True) -> None:
    """The options that all commands have that put a data set somewhere."""
    parser.add_argument("--endpoint", default="", help="of the cluster; default: AIS_ENDPOINT")
    parser.add_argument(
        "--workers", type=positive, default=max(4, len(os.sched_getaffinity(0))), help="processes (default %(default)s)"
    )
    if replace:
        parser.add_argument("--replace", action="store_true", help="replace what is there with another content")


def exit_code(work: Callable[[], None]) -> int:
    """That of a command that can be started again, with a sentence for whatever a user or a machine can do to it."""
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped. The same command goes on.", file=sys.stderr)
        return STOPPED
    except MemoryError:
        print("error: the memory is too small: fewer --workers need less. The same command goes on.", file=sys.stderr)
        return UserError.exit_code
    except OSError as error:
        where = f"{shown(error.filename)}: " if isinstance(error.filename, str) else ""
        print(f"error: {where}{cause(error)}. The same command goes on when that is mended.", file=sys.stderr)
        return UserError.exit_code
    return 0


def positive(text: str) -> int:
    """A number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m aistore_data.upload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the folder that holds train/ and val/")
    parser.add_argument(
        "bucket", help="ais://NAME, made if it does not exist; or s3://NAME, gs://NAME, ais://#NAMESPACE/NAME"
    )
    parser.add_argument("--layout", choices=("folders", "pairs"), default="folders")
    add_options(parser)
    options = parser.parse_args(arguments)

    def work() -> None:
        bucket = open_bucket(options.bucket, options.endpoint)
        done = upload(options.root, bucket, options.layout, options.workers, options.replace)
        print(f"{options.bucket}: {done.sent:,} objects uploaded, {done.kept:,} were there already")

    return exit_code(work)
