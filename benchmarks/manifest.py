"""Seconds to a bucket's manifest at ImageNet's size: when it is made, and when it is kept; beside the SDK's listing.

    python -m benchmarks.manifest [--samples 1281167] [--layouts folders pairs]

A folder of that many hard links to one small photo a class is served by an embedded server, in both layouts.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aistore_data.cluster import make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.http_reader import Access, HttpReader
from aistore_data.listing import read_manifest
from aistore_data.manifest import Manifest
from benchmarks.measure import print_machine
from benchmarks.resume import make_folder


def timed(what: str, call: Callable[[], Any], count: Callable[[Any], int]) -> Any:
    """The call's answer; prints its seconds, CPU seconds and rate."""
    begin, cpu = time.perf_counter(), time.process_time()
    answer = call()
    took, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(f"  {what:<44} {took:7.2f} s  {cpu:7.2f} s of CPU here  {count(answer) / took:12,.0f} objects/s", flush=True)
    return answer


def measure(access: Access, layout: str, samples: int) -> None:
    """Print the lines of a layout."""
    objects = samples * (2 if layout == "pairs" else 1)
    bucket, reader = make_client(access, 600).bucket("imagenet"), HttpReader(access)

    def manifest() -> Manifest:
        return read_manifest(bucket, "ais://imagenet", "train/", reader)

    print(f"{layout}: {samples:,} samples, {objects:,} objects")
    timed("SDK list_all_objects", lambda: bucket.list_all_objects(prefix="train/"), len)
    first = timed("manifest: listed, labels read, built, kept", manifest, lambda _: objects)
    again = timed("manifest: listed, the kept one loaded", manifest, lambda _: objects)
    assert len(first) == samples and again.sha256() == first.sha256()
    content = first.to_bytes()
    timed(f"of which loading it, {len(content) / 1e6:.0f} MB", lambda: Manifest.from_bytes(content), len)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1281167)
    parser.add_argument("--layouts", nargs="+", choices=("folders", "pairs"), default=["folders", "pairs"])
    args = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"  # a served folder is read-only: its manifests are kept here
        root = Path(folder) / "data"
        make_folder(root, args.samples)
        for layout in args.layouts:
            with EmbeddedAIS(Path(folder) / layout, imagefolder=root, layout=layout) as server:
                measure(Access(server.endpoint, server.token), layout, args.samples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
