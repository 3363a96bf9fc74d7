"""How CPU time per image and memory grow with workers, batch, image size and the size of the data set.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.growth [--repeats 2] [--images 1000]

FOLDER holds imagenet-sample.tar. One of these changes at a time from 2 workers, batches of 128, 224 pixels and 1,000
names; larger data sets are longer lists of the same 1,000 files. ``benchmarks.loader`` measures each, in a process of
its own: CPU time is that of all processes, memory what they have together without counting shared pages twice (PSS),
after ``--images`` images, and what a worker has grown by meanwhile, the batches on their way left out. ImageFolder +
DataLoader is the peer for the size of the data set: its list of paths is copied page by page into every worker that
reads it.
"""

import statistics
import sys
from collections import defaultdict

from benchmarks.loader import BASELINE, OURS
from benchmarks.measure import in_own_session, photo_folder
from benchmarks.results import Row, Table, begin, parser

USUAL = {"workers": 2, "batch": 128, "size": 224, "names": 1000}
AXES: dict[str, tuple[str, tuple[int, ...], tuple[str, ...]]] = {
    "workers": ("loader workers", (0, 2, 4), (OURS,)),
    "batch": ("images in a batch", (32, 128, 512), (OURS,)),
    "size": ("pixels of a side", (128, 224, 320), (OURS,)),
    "names": ("images in the data set", (1000, 32000, 1281167), (OURS, BASELINE)),
}
"""Of each axis: what it is, its values, and who is measured along it."""


def words(who: str, axis: str, value: int, images: int) -> tuple[str, ...]:
    """Arguments of ``benchmarks.loader`` for a point of an axis: over four batches at least."""
    point = USUAL | {axis: value}
    images = max(images, 4 * point["batch"])
    given = [f"--{name}={number}" for name, number in {**point, "images": images, "repeats": 1}.items()]
    return (*given, "--one", who)


def main() -> int:
    """The command line."""
    options = parser(__doc__, repeats=2, images=1000).parse_args()
    result = begin(options)
    points = [(axis, who, value) for axis, (_, values, whos) in AXES.items() for value in values for who in whos]
    figures: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with photo_folder() as root:
        for _ in range(options.repeats):
            for arguments in dict.fromkeys(words(who, axis, value, options.images) for axis, who, value in points):
                for name, figure in in_own_session("benchmarks.loader", *arguments, str(root)).items():
                    figures[arguments][name].append(figure)
    for axis, (label, values, whos) in AXES.items():
        for name, unit in (("cpu_ms", "CPU ms per image"), ("pss_mb", "MB of all processes")):
            made = []
            for value, who in [(value, who) for value in values for who in whos]:
                found = figures[words(who, axis, value, options.images)]
                grown = f"a worker grew by {statistics.median(found['grown_mb']):+.1f} MB"
                note = grown if name == "pss_mb" and (axis, value) != ("workers", 0) else ""
                title = f"{value:,} {label}" + (f", {who}" if len(whos) > 1 else "")
                made.append(Row(title, found[name], note, series=who, x=value))
            result.add(Table(f"{axis}, {name}", f"By {label}", unit, made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
