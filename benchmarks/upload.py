"""Upload rates beside the SDK's: ``python -m benchmarks.upload [--endpoint URL]``, by default to an embedded AIStore.

The 1,000 photos of IMAGENET_TRAINER_DATA, in both splits, go to a bucket that is made anew: by ``Bucket.put_files`` of
the SDK, one after the other, and by ``aistore_data.upload``, listing and start of its processes included. Medians of
interleaved rounds.
"""

import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aistore_data.bucket.store import AisStore
from aistore_data.client.http_reader import Access
from aistore_data.client.sdk import make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.upload.command import upload
from benchmarks.measure import photo_folder
from benchmarks.results import Result, Table, begin, parser, rows


def seconds(access: Access, put: Callable[[Any, str], object]) -> float:
    """How long ``put`` takes to fill a new bucket."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    bucket = make_client(access).bucket(name).create()
    try:
        begin = time.monotonic()
        put(bucket, f"ais://{name}")
        return time.monotonic() - begin
    finally:
        bucket.delete()


def measure(root: Path, access: Access, rounds: int, result: Result) -> None:
    """Adds the tables."""
    files = [path for split in ("train", "val") for path in (root / split).rglob("*.JPEG")]
    total = sum(path.stat().st_size for path in files)

    def put_files(bucket: Any, uri: str) -> None:
        for split in ("train", "val"):
            bucket.put_files(root / split, prepend=f"{split}/", recursive=True, pattern="*.JPEG", verbose=False)

    kinds: dict[str, Callable[[Any, str], object]] = {"SDK put_files": put_files}
    for workers in (1, 2, 4):
        kinds[f"aistore_data.upload, {workers} workers"] = lambda bucket, uri, workers=workers: upload(
            root, AisStore(uri, access), "folders", workers
        )
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, put in kinds.items():
            times[kind].append(seconds(access, put))
    title = f"Upload of {len(files):,} objects, {total / 1e6:,.0f} MB"
    for name, unit, count in (("objects", "objects/s", len(files)), ("bytes", "MB/s", total / 1e6)):
        rates = {kind: [count / value for value in values] for kind, values in times.items()}
        result.add(Table(name, title, unit, rows(rates), "SDK put_files", "more"))


def main() -> int:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--endpoint", help="of a real cluster, with AIS_AUTHN_TOKEN; default: an embedded one")
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    result = begin(options)
    with photo_folder() as root:
        if options.endpoint:
            measure(root, Access.from_environment(options.endpoint), options.rounds, result)
        else:
            with EmbeddedAIS(root / "ais") as server:
                os.environ |= {"AIS_ENDPOINT": server.endpoint, "AIS_AUTHN_TOKEN": server.token}
                measure(root, Access.from_environment(""), options.rounds, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
