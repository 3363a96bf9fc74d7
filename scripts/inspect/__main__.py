"""Whether a data set is fit for weeks of training: what lies in it, what is odd, and what the trainer does with each.

    python -m scripts.inspect /data/imagenet --out health
    python -m scripts.inspect ais://imagenet --endpoint http://ais:51080 --deep
    python -m scripts.inspect /data/mine --labels labels.csv --val-split 0.1

DATA is a folder with train/ and val/, a folder for each class alone, tar shards, which are a folder with train/*.tar
and val/*.tar, a folder of tars or a pattern, or a bucket of photos or of shards. A folder whose photos have their
classes in a file, or that is divided in two, is read with the options that a run of it has. Photos are looked at by
their headers and ends, and read whole where these are suspicious; --deep reads and decodes them all. --out gets
report.html, a page with plots and pictures that opens offline, and files.csv with a line for each finding. Nothing in
DATA is changed. The exit code is 1 where training would stop.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.inspect.data_set import open_data_set
from scripts.inspect.findings import STOP
from scripts.inspect.page import lines, page
from scripts.inspect.summary import Counts, Sizes, told
from scripts.inspect.survey import survey
from sources.command_line import add_workers, answer, command
from sources.disk import cause
from sources.errors import ConfigError, UserError
from sources.folds import HeldOut
from sources.splits import SplitOptions
from sources.text import visible

INTERRUPTED = 130
"""The exit code of a command that ctrl-C has ended, as a shell has it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = command("scripts.inspect", __doc__)
    parser.add_argument("data", metavar="DATA", help="a folder, tar shards, or ais://BUCKET")
    parser.add_argument("--endpoint", default="", help="of a bucket's cluster; default: AIS_ENDPOINT")
    parser.add_argument("--out", type=Path, help="a folder for report.html and files.csv; made if it does not exist")
    parser.add_argument("--labels", default="", help="of a folder: a run's data.labels")
    parser.add_argument("--classes", default="", help="of a folder or shards: a run's data.classes")
    parser.add_argument("--val-split", type=float, default=0.0, help="of a folder or shards: a run's data.val_split")
    parser.add_argument("--label-field", default="", help="of tar shards: a run's data.label_field")
    add_workers(parser)
    parser.add_argument("--deep", action="store_true", help="decode every photo, and compare pixels")
    options = parser.parse_args(arguments)
    stopped = "stopped. Nothing was written; the same command begins anew."
    return answer(lambda: _run(options), stopped, INTERRUPTED)


def _run(options: argparse.Namespace) -> int:
    """Inspect and report, and return the exit code. Raises UserError."""
    if not 0 <= options.val_split < 1:
        raise ConfigError(f"--val-split={options.val_split} is not a share of the photos: choose one between 0 and 1.")
    if options.out:
        _make(options.out)
    splits = SplitOptions(HeldOut(options.val_split), options.classes, options.labels)
    found = survey(
        open_data_set(options.data, options.endpoint, splits, options.label_field), options.deep, options.workers
    )
    counts, sizes = Counts.of(found), Sizes.of(found)
    for paragraph in told(found, counts, sizes):
        print(visible(paragraph))
    if options.out:
        contents = {"report.html": page(found, counts, sizes), "files.csv": lines(found.findings)}
        for name, text in contents.items():
            _write(options.out / name, text)
        print(f"{options.out / 'report.html'} and {options.out / 'files.csv'} tell more.")
    return 1 if any(finding.level == STOP for finding in found.findings) else 0


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out={folder} cannot be made: {cause(error)}. Choose another folder.") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {cause(error)}.") from None


if __name__ == "__main__":
    sys.exit(main())
