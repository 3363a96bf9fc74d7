"""Seconds to load a bucket's manifest at ImageNet's size, and the memory that it takes.

    python -m benchmarks.manifest [--samples 1281167] [--repeats 5]

Each time in a fresh process, of a manifest with ImageNet's names.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import in_own_session, reply, rollup_mb
from benchmarks.results import Row, Table, begin, parser
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


def main() -> int:
    """The command line."""
    options = parser(__doc__, samples=1281167, repeats=5).parse_args()
    if options.one:
        reply(iter([load(Path(options.one[0]))]))
        return 0
    result = begin(options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "manifest"
        file.write_bytes(imagenet_like(options.samples).to_bytes())
        found = [in_own_session("benchmarks.manifest", "--one", str(file)) for _ in range(options.repeats)]
        name = f"{options.samples:,} samples, {file.stat().st_size / 1e6:.0f} MB as an object"
    title = "Loading a manifest, in shared memory for all loader workers"
    for table, figure, unit in (("load", "s", "s"), ("memory", "mb", "MB in all processes")):
        result.add(Table(table, title, unit, [Row(name, [answer[figure] for answer in found])]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
