"""What a run directory tells of its run, whoever asks and wherever the run goes on; importing this imports no torch."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from sources.errors import ConfigError
from sources.lease import LOCK_PREFIX
from training.run_dir.files import is_run_directory, read_lines, read_object

ALIVE_S = 60.0
"""Seconds since its last sign of life within which a run counts as alive."""
TAIL_BYTES = 8 << 20
"""The bytes at the end of metrics.jsonl that are read: more than a run of ImageNet's length writes by default."""
_SIGNS = ("metrics.jsonl", "environment.json", "summary.json", "PREEMPTED")


class RunRecord:
    """What a run directory tells of a run at the time ``now``; everything but the path may be missing."""

    def __init__(self, path: Path, now: float) -> None:
        locks = list(path.glob(f"{LOCK_PREFIX}*"))
        changes = [-math.inf]
        for sign in (*locks, *(path / name for name in _SIGNS)):
            with suppress(FileNotFoundError):
                changes.append(sign.stat().st_mtime)
        needed = {"kind", "epoch", "step", "attempt", "time"}
        lines = read_lines(path / "metrics.jsonl", TAIL_BYTES)  # at least the last epoch's
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
        """running|waiting|done|stopped|died, as the documentation of scripts.status explains them."""
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
