"""Seconds to a bucket's manifest at ImageNet's size: when it is loaded, made, or kept; beside the SDK's listing.

    python -m benchmarks.manifest [--load] [--samples 1281167] [--layouts folders pairs] [--repeats 5]

Loading is timed in a fresh process each time, of a manifest with ImageNet's names; --load leaves it at that. For the
rest, a folder of so many hard links to one small photo a class is served by an embedded server, in both layouts.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.store import AisStore
from aistore_data.client.http_reader import Access
from aistore_data.embedded import EmbeddedAIS
from benchmarks.measure import in_own_session, reply, rollup_mb
from benchmarks.results import Row, Table, begin, parser, rows
from benchmarks.resume import make_folder
from sources.manifest import Manifest

CLASSES = 1000


def imagenet_like(samples: int) -> Manifest:
    """A manifest with names such as train/n01440000/n01440000_1234.JPEG, and sizes around ImageNet's 110 KB."""
    sizes = np.random.default_rng(0).integers(20_000, 200_000, samples).tolist()
    entries = (
        (b"train/n%08d/n%08d_%d.JPEG" % (1440000 + i % CLASSES, 1440000 + i % CLASSES, i), i % CLASSES, size)
        for i, size in enumerate(sizes)
    )
    return Manifest.build(entries, [f"n{1440000 + label:08d}" for label in range(CLASSES)])


def load(file: Path) -> dict[str, float]:
    """Seconds to load the manifest in ``file`` and share it with workers, and the MB that it then takes."""
    from sources.shared_memory import share

    before_mb = rollup_mb(os.getpid(), "Pss:")
    start_s = time.perf_counter()
    manifest = share(Manifest.from_bytes(file.read_bytes()))
    took_s = time.perf_counter() - start_s
    assert manifest.name(len(manifest) - 1)
    return {"s": took_s, "mb": rollup_mb(os.getpid(), "Pss:") - before_mb}


def loading(samples: int, repeats: int) -> list[Table]:
    """The tables of a manifest that is there already."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "manifest"
        file.write_bytes(imagenet_like(samples).to_bytes())
        found = [in_own_session("benchmarks.manifest", "--one", str(file)) for _ in range(repeats)]
        name = f"{samples:,} samples, {file.stat().st_size / 1e6:.0f} MB as an object"
    seconds, memory = ([Row(name, [answer[key] for answer in found])] for key in ("s", "mb"))
    title = "Loading a manifest, in shared memory for all loader workers"
    return [Table("load", title, "s", seconds), Table("memory", title, "MB in all processes", memory)]


def making(access: Access, layout: str, samples: int) -> Table:
    """Seconds of what a first run does, and a later one."""
    objects = samples * (2 if layout == "pairs" else 1)
    store = AisStore("ais://imagenet", access, 600)
    took: dict[str, list[float]] = {}

    def timed(what: str, call: Callable[[], Any]) -> Any:
        start_s = time.perf_counter()
        answer = call()
        took[what] = [time.perf_counter() - start_s]
        return answer

    def manifest() -> Manifest:
        return read_manifest(store, "train/")

    timed("SDK list_all_objects", lambda: store.bucket.list_all_objects(prefix="train/"))
    first = timed("manifest: listed, labels read, built, kept", manifest)
    again = timed("manifest: listed, the kept one loaded", manifest)
    assert len(first) == samples and again.sha256() == first.sha256()
    return Table(
        layout, f"layout {layout}: {samples:,} samples, {objects:,} objects", "s", rows(took), next(iter(took))
    )


def main() -> int:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--samples", type=int, default=1281167)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--load", action="store_true", help="loading alone")
    arguments.add_argument("--layouts", nargs="+", choices=("folders", "pairs"), default=["folders", "pairs"])
    arguments.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.one:
        reply(iter([load(args.one)]))
        return 0
    result = begin(args)
    for table in loading(args.samples, args.repeats):
        result.add(table)
    if args.load:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"  # a served folder is read-only: its manifests are kept here
        root = Path(folder) / "data"
        make_folder(root, args.samples)
        for layout in args.layouts:
            with EmbeddedAIS(Path(folder) / layout, imagefolder=root, layout=layout) as server:
                result.add(making(Access(server.endpoint, server.token), layout, args.samples))
    return 0


if __name__ == "__main__":
    sys.exit(main())
