"""Upload an ImageFolder to a bucket: ``python -m aistore_data.upload ROOT ais://BUCKET [--layout folders|pairs]``.

ROOT holds train/ and val/. What is there already with the same size is not sent again, so an upload that was
interrupted goes on where it was. The cluster is AIS_ENDPOINT's or --endpoint's, with the SDK's environment names for
token and TLS.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aistore.sdk.errors import AISError
from requests.exceptions import RequestException

from aistore_data.bucket_uri import parse_bucket
from aistore_data.cluster import connect, make_client
from aistore_data.errors import ClusterError, UserError
from aistore_data.folder import scan_folder
from aistore_data.http_reader import Access
from aistore_data.layout import Layout, classes_name, pair_names
from aistore_data.manifest import Manifest
from aistore_data.objects import iter_objects
from aistore_data.progress import Progress

Content = Path | bytes


def objects_of(root: Path, prefix: str, manifest: Manifest, layout: Layout) -> Iterator[tuple[str, Content]]:
    """(object name, content) of a split in a layout: images as paths below ``root``, labels as bytes."""
    yield classes_name(prefix), json.dumps(list(manifest.classes)).encode()
    if layout == "folders":
        for index in range(len(manifest)):
            yield prefix + manifest.name(index), root / manifest.name(index)
    else:
        for index, (image, label) in enumerate(pair_names(manifest)):
            yield prefix + image, root / manifest.name(index)
            yield prefix + label, str(int(manifest.labels[index])).encode()


def upload(root: Path, bucket: Any, layout: Layout, workers: int = 8) -> tuple[int, int]:
    """Upload both splits to an SDK bucket, made if it is missing; answers the objects (sent, already there).

    Raises ClusterError if the bucket cannot be made or written to, ConfigError for a folder that is no ImageFolder.
    """
    splits = zip(("train/", "val/"), scan_folder(root), strict=True)
    try:
        if not bucket.provider.is_remote():  # a cloud's buckets are made there
            bucket.create(exist_ok=True)
        present = {entry.name: entry.size for entry in iter_objects(bucket)}
        objects = [item for prefix, m in splits for item in objects_of(root / prefix, prefix, m, layout)]
        missing = [(name, content) for name, content in objects if not _is_there(present.get(name), content)]
        with Progress("objects", len(missing)) as progress, ThreadPoolExecutor(workers) as pool:
            for size in pool.map(lambda item: _put(bucket, *item), missing):
                progress.add(1, size)
    except (AISError, RequestException, OSError) as error:
        raise ClusterError(f"the upload to ais://{bucket.name} failed: {error}. The same command goes on.") from None
    return len(missing), len(objects) - len(missing)


def _is_there(size: int | None, content: Content) -> bool:
    # Labels are a few bytes of any content: equal sizes say nothing.
    return isinstance(content, Path) and size == content.stat().st_size


def _put(bucket: Any, name: str, content: Content) -> int:
    data = content.read_bytes() if isinstance(content, Path) else content
    bucket.object(name).get_writer().put_content(data)
    return len(data)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m aistore_data.upload", description=__doc__)
    parser.add_argument("root", type=Path, help="the folder that holds train/ and val/")
    parser.add_argument(
        "bucket", help="ais://NAME, made if it does not exist; or s3://NAME, gs://NAME, ais://#NAMESPACE/NAME"
    )
    parser.add_argument("--layout", choices=("folders", "pairs"), default="folders")
    parser.add_argument("--endpoint", default="", help="default: AIS_ENDPOINT")
    parser.add_argument("--workers", type=int, default=8, help="uploads at a time (default 8)")
    options = parser.parse_args()
    try:
        uri = parse_bucket(options.bucket, "BUCKET=")
        access = Access.from_environment(options.endpoint)
        connect(access)
        sent, kept = upload(options.root, uri.of(make_client(access)), options.layout, options.workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.bucket}: {sent:,} objects uploaded, {kept:,} were there already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
