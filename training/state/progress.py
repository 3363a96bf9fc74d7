"""How far a run has come: what of its state is neither in the model nor in the optimiser."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from sources.batch import Counts
from training.report.metrics import IntervalMetrics


@dataclass
class Progress:
    """How far a run has come: all of its state that is not in the model or the optimiser."""

    epoch: int = 0
    batches_done: int = 0
    best_acc1: float = 0.0
    """The best acc@1 of all validations, or the best mean average precision if a sample may have several classes."""
    best_weights: str = "model"
    """Which ones had it: those of the "model", or the averaged ones, "ema"."""
    since_best: int = 0
    """Validations since the best one."""
    train_s: float = 0.0
    counts: list[int] = field(default_factory=lambda: list(Counts()))
    counts_before: list[int] = field(default_factory=lambda: list(Counts()))
    """``counts`` at the beginning of the epoch."""
    replaced: list[int] = field(default_factory=list)
    """The samples, by index, in whose place others were taken at any time."""
    stream_total: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    validation: dict[str, Any] = field(default_factory=dict)
    epoch_tally: IntervalMetrics = field(default_factory=IntervalMetrics)
    interval_tally: IntervalMetrics = field(default_factory=IntervalMetrics)

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Progress":
        """Read the entries of a checkpoint."""
        fields = {item.name: state[item.name] for item in dataclasses.fields(cls)}
        for name in ("epoch_tally", "interval_tally"):
            known = {item.name: fields[name][item.name] for item in dataclasses.fields(IntervalMetrics)}
            fields[name] = IntervalMetrics(**known)
        return cls(**fields)

    def validated(self, epochs: int, every: int) -> bool:
        """Whether the model is validated after this epoch, of ``epochs``: after each ``every``, and after the last."""
        return (self.epoch + 1) % every == 0 or self.epoch + 1 == epochs

    def validations(self, epochs: int, every: int) -> int:
        """How many of them are to come."""
        return sum(
            dataclasses.replace(self, epoch=epoch).validated(epochs, every) for epoch in range(self.epoch, epochs)
        )

    def gave_up(self, stop_after: int) -> bool:
        """Whether so many validations have been without a better acc@1 that training ends."""
        return 0 < stop_after <= self.since_best

    def at_epoch(self, epoch: int) -> "Progress":
        """At the beginning of an epoch, with what outlives one."""
        kept = ("best_acc1", "best_weights", "since_best", "train_s", "counts", "replaced", "changes", "validation")
        return Progress(epoch, counts_before=self.counts, **{name: getattr(self, name) for name in kept})
