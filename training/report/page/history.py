"""A run's figures over time, from metrics.jsonl: read once, without what a later attempt has replaced."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.run_dir.run_record import RunRecord

Floats = NDArray[np.float64]

FIGURES = ("loss", "acc1", "acc5", "lr", "grad_norm", "img_per_s", "data_wait")
"""The figures of a line about steps; an older run lacks some of them."""

_FIRST = ("epoch", "step", "attempt", "time")
_NAN = math.nan


class _Line(msgspec.Struct):
    """A line about steps, as far as it is drawn."""

    epoch: int
    step: int
    attempt: int = 1
    time: float = _NAN
    loss: float = _NAN
    acc1: float = _NAN
    acc5: float = _NAN
    lr: float = _NAN
    grad_norm: float = _NAN
    img_per_s: float = _NAN
    data_wait: float = _NAN


class Start(NamedTuple):
    """The start of an attempt: ``epoch`` counts epochs done, with a fraction, and ``hours`` begin at the first line."""

    attempt: int
    epoch: float
    hours: float


@dataclass(frozen=True)
class History:
    """All figures of a run.

    ``steps``: a column float64 [n] for each of ``FIGURES``, and ``epoch`` (epochs done, with a fraction) and ``hours``.
    ``epochs`` and ``validations``: the figures of each line, with ``epoch`` (epochs done) and ``hours`` among them.
    """

    steps: dict[str, Floats] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)

    @property
    def hours(self) -> float:
        """Return the hours from the first line to the last, pauses included; 0 if no line has a time."""
        ends = [line["hours"] for line in (*self.epochs, *self.validations)] + self.steps["hours"].tolist()[-1:]
        return max((end for end in ends if math.isfinite(end)), default=0.0)


def read_history(run: RunRecord) -> History:
    """The figures of a run; lines that are damaged, half-written or of another kind are left out. Raises OSError."""
    steps, others = _read(run.path / "metrics.jsonl")
    per_epoch = run.steps_per_epoch or _steps_per_epoch(others)
    known = [line["time"] for line in others["train_epoch"] + others["val_epoch"] if math.isfinite(line["time"])]
    known += [float(time) for time in steps[:1, 3] if math.isfinite(time)]
    begin = min(known, default=0.0)

    def hours(time: Any) -> Any:
        return (time - begin) / 3600

    def place(line: dict[str, float]) -> dict[str, float]:
        return line | {"epoch": line["epoch"] + 1, "hours": hours(line["time"])}

    kept = steps[_standing(steps[:, 1])]
    columns = dict(zip((*_FIRST, *FIGURES), kept.T, strict=True))
    columns["epoch"], columns["hours"] = kept[:, 1] / per_epoch if per_epoch else kept[:, 0] + 1, hours(kept[:, 3])
    lines = {}
    for kind, some in others.items():
        lines[kind] = [place(some[number]) for number in _standing(np.array([line["step"] for line in some]))]
    return History(columns, lines["train_epoch"], lines["val_epoch"], list(_starts(steps, per_epoch, hours)))


def _read(path: Path) -> tuple[Floats, dict[str, list[dict[str, float]]]]:
    """(float64 [n, 11] of the lines about steps, the other lines by their kind), in the order of the file."""
    decode = msgspec.json.Decoder(_Line).decode
    steps: list[tuple[float, ...]] = []
    others: dict[str, list[dict[str, float]]] = {"train_epoch": [], "val_epoch": []}
    for content in _lines(path):
        try:
            if b'"train_step"' in content[:40]:
                steps.append(msgspec.structs.astuple(_decoded(decode, content)))
            elif (line := json.loads(content)).get("kind") in others:
                others[line["kind"]].append(_numbers(line))
        except (ValueError, TypeError, AttributeError, KeyError):
            continue  # half a line of a run that was killed, or no line of ours
    return np.array(steps, np.float64).reshape(-1, len(_FIRST) + len(FIGURES)), others


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with open(path, "rb") as file:
            yield from file


def _decoded(decode: Any, content: bytes) -> Any:
    try:
        return decode(content)
    except msgspec.DecodeError:  # NaN and Infinity are no JSON, and Python writes them all the same
        return msgspec.convert(json.loads(content), _Line)


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line. Raises KeyError without an epoch and a step."""
    found = {name: float(value) for name, value in line.items() if isinstance(value, int | float)}
    return {"time": _NAN} | found | {"epoch": found["epoch"], "step": found["step"]}


def _standing(steps: Floats) -> NDArray[np.int64]:
    """The places of lines behind which no line has the same or an earlier step: a later attempt repeats from there."""
    if not len(steps):
        return np.empty(0, np.int64)
    later = np.minimum.accumulate(steps[::-1])[::-1]
    return np.flatnonzero(np.append(steps[:-1] < later[1:], True))


def _starts(steps: Floats, per_epoch: int, hours: Any) -> Iterator[Start]:
    """Yield where each attempt but the first one begins to write."""
    attempts, first = np.unique(steps[:, 2], return_index=True)
    for attempt, place in zip(attempts.tolist()[1:], first.tolist()[1:], strict=True):
        epoch = steps[place, 1] / per_epoch if per_epoch else steps[place, 0]
        yield Start(int(attempt), float(epoch), float(hours(steps[place, 3])))


def _steps_per_epoch(others: dict[str, list[dict[str, float]]]) -> int:
    """Return the steps of an epoch, by the end of the first recorded one, for a run that does not say them; else 0."""
    first: Iterable[dict[str, float]] = others["train_epoch"][:1]
    return next((round(line["step"] / (line["epoch"] + 1)) for line in first), 0)
