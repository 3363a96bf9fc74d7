"""Show how runs are doing, by their directories alone.

    python -m scripts.status RUN_DIR [RUN_DIR …]
    python -m scripts.status runs --watch            again every 5 s, until ctrl-C

Each argument is a run directory, or a folder of them, such as runs. Nothing is asked of the machines that run them. A
row for each run:

    state      running   there was a sign of life in the last 60 s
               waiting   its first step, or the first one since it was stopped, is still to come
               done      trained to its last epoch
               stopped   on request, with its state saved: the same command goes on
               died      neither finished nor a sign of life for 60 s
    epoch      epochs trained, of those to train
    acc@1      of the last validation, in percent
    img/s      training's images a second (an evaluation's own) in the last lines of metrics.jsonl
    data wait  share of that time in which the steps waited for data
    restarts   how often the run went on after it had ended
    seen       time since the last sign of life
    ETA        time left, at the pace of the last epoch, validations included

A holder renews its lock every 10 s, so clocks may differ by 50 s. The exit code is 0, or 2 for a folder without runs.
"""

import math
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from sources.command_line import answer, command
from sources.text import format_duration, visible
from training.report.output import put
from training.run_dir.run_record import RunRecord, find

WATCH_S = 5.0
"""Seconds between two tables of --watch."""
_CLEARED = "\x1b[H\x1b[2J"
"""Empties a terminal."""
_TITLES = ("run", "state", "epoch", "acc@1", "img/s", "data wait", "restarts", "seen", "ETA")
_LEFT = ("run", "state")
_GAP = "  "
_NARROWEST = 7
"""The width to which the first column shrinks on a narrow terminal."""


def row(run: RunRecord) -> list[str]:
    """Return the cells of a run's row, in the order of ``_TITLES``."""
    acc1 = run.summary.get("acc1", run.of_last("acc1", "val_epoch"))
    img_per_s = run.of_last("img_per_s", *run.kinds) or run.summary.get("img_per_s")
    data_wait = run.of_last("data_wait", *run.kinds)
    return [
        str(run.path),
        run.state,
        _epoch(run),
        "-" if acc1 is None else f"{acc1:.2f}",
        "-" if img_per_s is None else f"{img_per_s:,.0f}",
        "-" if data_wait is None else f"{100 * data_wait:.0f} %",
        str(run.attempt - 1),
        "-" if math.isinf(run.age_s) else format_duration(run.age_s),
        "-" if run.eta_s is None else format_duration(run.eta_s),
    ]


def _epoch(run: RunRecord) -> str:
    if not run.epochs:
        return "-"
    tenths = 10 * run.last.get("step", 0) // run.steps_per_epoch if run.steps_per_epoch else 0
    return f"{tenths / 10:g}/{run.epochs}"


def table(rows: Iterable[list[str]], width: int | None = None) -> str:
    """Aligned columns; the first one is shortened from the left where they are wider than ``width``."""
    cells = [list(_TITLES), *rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_TITLES))]
    if width is not None:
        widths[0] = max(_NARROWEST, min(widths[0], width - sum(widths[1:]) - len(_GAP) * (len(widths) - 1)))
    lines = []
    for name, *others in cells:
        shown = name if len(name) <= widths[0] else f"…{name[1 - widths[0] :]}"
        parts = [
            text.ljust(size) if title in _LEFT else text.rjust(size)
            for title, text, size in zip(_TITLES, [shown, *others], widths, strict=True)
        ]
        lines.append(_GAP.join(parts).rstrip())
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = command("scripts.status", __doc__)
    parser.add_argument("run", nargs="+", type=Path, help="the directory of a run, or a folder of them")
    parser.add_argument("--watch", action="store_true", help=f"show them again every {WATCH_S:.0f} s, until ctrl-C")
    options = parser.parse_args(arguments)

    def work() -> int:
        _show(options.run)
        while options.watch:
            time.sleep(WATCH_S)
            put(_CLEARED if sys.stdout.isatty() else "", end="" if sys.stdout.isatty() else "\n")
            _show(options.run)
        return 0

    return answer(work, "", 0)


def _show(arguments: Iterable[Path]) -> None:
    """The table of the runs that there are now. Raises ConfigError."""
    paths = [path for argument in arguments for path in find(argument)]
    now = time.time()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    put(visible(table((row(RunRecord(path, now)) for path in paths), width)))


if __name__ == "__main__":
    sys.exit(main())
