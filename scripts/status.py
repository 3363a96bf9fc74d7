"""How runs are doing, from their directories alone.

    python -m scripts.status RUN_DIR [RUN_DIR …]

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
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from sources.command_line import command
from sources.errors import ConfigError
from sources.lease import LOCK_PREFIX
from sources.text import format_duration, visible
from training.report.output import put
from training.run_dir.files import is_run_directory, read_lines, read_object

ALIVE_S = 60.0
"""So recent is a sign of life of a run that lives."""
_TAIL_BYTES = 8 << 20
"""Of metrics.jsonl: more than a run of ImageNet's length writes with the default train.log_every."""
_SIGNS = ("metrics.jsonl", "environment.json", "summary.json", "PREEMPTED")
_TITLES = ("run", "state", "epoch", "acc@1", "img/s", "data wait", "restarts", "seen", "ETA")
_LEFT = ("run", "state")
_GAP = "  "
_NARROWEST = 7
"""To which the first column shrinks on a narrow terminal."""


class Run:
    """What a run directory tells of a run at the time ``now``; everything but the path may be missing."""

    def __init__(self, path: Path, now: float) -> None:
        locks = list(path.glob(f"{LOCK_PREFIX}*"))
        changes = [-math.inf]
        for sign in (*locks, *(path / name for name in _SIGNS)):
            with suppress(FileNotFoundError):
                changes.append(sign.stat().st_mtime)
        needed = {"kind", "epoch", "step", "attempt", "time"}
        lines = read_lines(path / "metrics.jsonl", _TAIL_BYTES)  # at least the last epoch's
        self.path = path
        self.config = _read_config(path / "config.yaml")
        self.environment = read_object(path / "environment.json")
        self.lines = [line for line in lines if needed <= line.keys()]
        self.last = self.lines[-1] if self.lines else {}
        self.attempt = max(1, *(int(source.get("attempt", 1)) for source in (self.environment, self.last)))
        is_evaluation = self.config.get("mode") == "evaluate"
        self.epochs = 0 if is_evaluation else int(self._config("train", "epochs", 0))  # 0: not known, too
        self.summary = read_object(path / "summary.json")
        train = self.environment.get("data", {}).get("train", {})
        samples = train.get("samples", self._config("data", "train_samples", 0) if self.environment else 0)
        self.steps_per_epoch = int(samples) // int(self._config("train", "batch_size", 1))  # 0 if it is not known yet
        self.kinds = ("train_step", "train_epoch") if self.epochs else ("val_epoch",)  # of the lines about its work
        self.preempted = (path / "PREEMPTED").exists()
        self.locked = bool(locks)  # a killed run leaves its lock behind
        self.age_s = max(0.0, now - max(changes))  # since the last sign of life; infinite if there was none

    @property
    def state(self) -> str:
        """As the module's documentation lists them."""
        lives = self.age_s <= ALIVE_S
        if self.summary:
            return "done"
        if self.preempted:
            return "waiting" if self.locked and lives else "stopped"
        if not self.environment:
            return "waiting" if lives or not self.locked else "died"
        return "running" if lives else "died"

    @property
    def pace_s(self) -> float | None:
        """Seconds of a step in the last epoch, or since the last start, with the validations in between."""
        now = self.last
        attempt = [line for line in reversed(self.lines) if line["attempt"] == now["attempt"]]
        recent = [line for line in attempt if line["step"] >= now["step"] - self.steps_per_epoch]
        begin = min(recent, key=lambda line: line["step"], default=now)
        if begin is not now and now["time"] > begin["time"]:
            return float(now["time"] - begin["time"]) / float(now["step"] - begin["step"])
        img_per_s = self.of_last("img_per_s", *self.kinds)
        return self._config("train", "batch_size", 1) / img_per_s if img_per_s else None

    @property
    def eta_s(self) -> float | None:
        """Seconds to the end of training, counted from the last line."""
        if self.state != "running" or not self.epochs or not self.steps_per_epoch or self.pace_s is None:
            return None
        return (self.epochs * self.steps_per_epoch - self.last.get("step", 0)) * self.pace_s

    def of_last(self, figure: str, *kinds: str) -> Any:
        """A figure of the last line of these kinds that has it; None if no line does."""
        return next((line[figure] for line in reversed(self.lines) if line["kind"] in kinds and figure in line), None)

    def _config(self, group: str, name: str, default: int) -> Any:
        return self.config.get(group, {}).get(name, default)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def find(argument: Path) -> list[Path]:
    """The run directories that an argument of the command line means. Raises ConfigError if there are none."""
    if _is_run(argument):
        return [argument]
    found = sorted(path for path in argument.iterdir() if _is_run(path)) if argument.is_dir() else []
    if not found:
        raise ConfigError(f"{argument} is not the directory of a run and holds none: give a run_dir, or its parent.")
    return found


def _is_run(path: Path) -> bool:
    return is_run_directory(path) or any(path.glob(f"{LOCK_PREFIX}*"))  # a lock alone: it has just begun


def row(run: Run) -> list[str]:
    """A run's cells, by ``_TITLES``."""
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


def _epoch(run: Run) -> str:
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
    """The command line."""
    parser = command("scripts.status", __doc__)
    parser.add_argument("run", nargs="+", type=Path, help="the directory of a run, or a folder of them")
    options = parser.parse_args(arguments)
    try:
        paths = [path for argument in options.run for path in find(argument)]
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    now = time.time()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    put(visible(table((row(Run(path, now)) for path in paths), width)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
