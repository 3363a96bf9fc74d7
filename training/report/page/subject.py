"""A run as a page tells of it: its state, its figures and its speed, in words."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sources.text import format_duration
from training.report.limits import LIMITS, limited_by
from training.report.page.answers import Answers
from training.report.page.curves import counts_of
from training.report.page.history import History
from training.report.page.recipe import Recipe, named_in, read_recipe
from training.run_dir.run_record import RunRecord

LIVES = ("running", "waiting")
"""States in which a run goes on, or is about to."""

_TOLD = 6
"""Parts of a run whose limits a sentence names."""


@dataclass(frozen=True)
class Subject:
    """A run with everything that was read of it; ``name`` is what the page calls it."""

    name: str
    record: RunRecord
    history: History
    answers: Answers

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe that its command names, or the defaults where it names none; None for one that is not here."""
        return read_recipe(named_in(self.record.environment))

    @property
    def is_evaluation(self) -> bool:
        """Whether it evaluates weights and trains nothing."""
        return self.record.config.get("mode") == "evaluate"

    @property
    def verdict(self) -> str:
        """How the run stands, in a sentence."""
        record, at = self.record, self._at
        if self.is_evaluation:
            what = {"done": "The evaluation is done", "died": "The evaluation died"}.get(record.state)
            return f"{what or 'The evaluation goes on'}{self._reached}."
        if record.state == "done":
            return f"Done after {at}{self._reached}."
        eta = f"; about {format_duration(record.eta_s)} to go" if record.eta_s is not None else ""
        return {
            "running": f"The run goes on: {at}{eta}{self._reached}.",
            "waiting": f"The run waits for its next step: {at}{self._reached}.",
            "stopped": f"Stopped on request with its state saved, after {at}{self._reached}. The same command goes on.",
            "died": f"The run died after {at}{self._reached}: neither an end nor a sign of life. The same command goes "
            "on from the last checkpoint.",
        }[record.state]

    @property
    def _at(self) -> str:
        record = self.record
        done = record.last.get("step", 0) / record.steps_per_epoch if record.steps_per_epoch else self._epochs_done
        return f"{done:.4g} of {record.epochs} epochs" if record.epochs else f"{done:.4g} epochs"

    @property
    def _epochs_done(self) -> float:
        return max((line["epoch"] for line in (*self.history.epochs, *self.history.validations)), default=0.0)

    @property
    def _reached(self) -> str:
        acc1 = self.final("acc1")
        return "" if acc1 is None else f", with acc@1 {acc1:.2f} %"

    def final(self, figure: str) -> float | None:
        """Return a figure at the end of the run, or at its last validation so far."""
        value = self.record.summary.get(figure)
        if value is None:
            value = next((line[figure] for line in reversed(self.history.validations) if figure in line), None)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

    @property
    def cards(self) -> dict[str, str]:
        """The figures that count, by their names; "-" for what is not known."""
        record, best = self.record, self.final("best_acc1")
        if best is None:
            best = max((line["acc1"] for line in self.history.validations if "acc1" in line), default=None)
        seconds = 3600 * self.history.hours
        speed = self.record.summary.get("img_per_s") or record.of_last("img_per_s", *record.kinds)
        waits = [line["data_wait"] for line in self.history.epochs if "data_wait" in line]
        shown = {
            "state": record.state,
            "acc@1": _percent(self.final("acc1")),
            "acc@5": _percent(self.final("acc5")),
            "best acc@1": _percent(best),
            "loss": _number(self.final("loss"), 4),
            "epochs": f"{self._epochs_done:g} of {record.epochs}" if record.epochs else "-",
            "images a second": _number(speed, 0),
            "data wait": _percent(100 * sum(waits) / len(waits), 1) if waits else "-",
            "from first to last line": format_duration(seconds) if seconds else "-",
            "attempts": str(record.attempt),
        }
        if "mean_ap" in record.summary:
            shown["mAP"] = _percent(self.final("mean_ap"))
        return shown

    def speed(self) -> Iterator[str]:
        """What limited the run, by parts of it that have the same limit; nothing where no epoch is done."""
        found = [
            (limited_by(counts_of(line), line["data_wait"]), int(line["epoch"]))
            for line in self.history.epochs
            if "data_wait" in line
        ]
        parts = [
            (limit, [epoch for _, epoch in group]) for limit, group in itertools.groupby(found, lambda pair: pair[0])
        ]
        for limit, epochs in parts[:_TOLD]:
            when = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
            yield (
                f"{self.name}, {when}: limited by {LIMITS[limit]}."
                if limit == "model"
                else (f"{self.name}, {when}: {LIMITS[limit]}.")
            )
        if len(parts) > _TOLD:
            yield f"{self.name}: the limit changes {len(parts) - 1} times; the chart has the rest."

    def faults(self) -> Iterator[str]:
        """What went wrong, and how often the run began again."""
        counts = [counts_of(line) for line in self.history.epochs]
        named = {
            "requests sent again": _sum(counts, "retries"),
            "samples made here since the ETL did not answer": _sum(counts, "fallbacks"),
            "samples replaced by others": _sum(counts, "replaced"),
            "times that a storage node counted as broken": _sum(counts, "opened"),
        }
        happened = ", ".join(f"{count:,.0f} {words}" for words, count in named.items() if count)
        yield f"{self.name}: {happened or 'no sample met a fault'} in {len(counts):,} whole epochs."
        starts = self.history.starts
        if starts:
            places = ", ".join(f"{start.epoch:.4g}" for start in starts[:20])
            yield (
                f"{self.name} began {len(starts) + 1} times: it went on behind epoch {places}. Dashed lines in the "
                "charts stand there."
            )
        elif self.record.attempt > 1:
            yield f"{self.name}: this is attempt {self.record.attempt}."
        else:
            yield f"{self.name} ran in one attempt."
        changes: Any = self.record.environment.get("changes")
        if changes:
            yield f"{self.name}: {len(changes)} changes were allowed on the way; environment.json lists them."


def _sum(counts: list[dict[str, float]], name: str) -> float:
    return sum(count.get(name, 0) for count in counts)


def _percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f} %"


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if digits == 0 and abs(value) < 10 else f"{value:,.{digits}f}"
