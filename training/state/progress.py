"""How far a run has come: what of its state is neither in the model nor in the optimiser."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from sources.batch import Counts
from training.report.metrics import Tally


@dataclass
class Progress:
    """How far a run has come: all of its state that is not in the model or the optimiser."""

    epoch: int = 0
    batches_done: int = 0
    best_acc1: float = 0.0
    best_weights: str = "model"
    """Which ones had it: those of the "model", or the averaged ones, "ema"."""
    train_s: float = 0.0
    counts: list[int] = field(default_factory=lambda: list(Counts()))
    counts_before: list[int] = field(default_factory=lambda: list(Counts()))
    """``counts`` at the beginning of the epoch."""
    replaced: list[int] = field(default_factory=list)
    """The samples, by index, in whose place others were taken at any time."""
    stream_total: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    validation: dict[str, Any] = field(default_factory=dict)
    epoch_tally: Tally = field(default_factory=Tally)
    interval_tally: Tally = field(default_factory=Tally)

    @classmethod
    def of(cls, state: dict[str, Any]) -> "Progress":
        """From the entries of a checkpoint."""
        fields = {item.name: state[item.name] for item in dataclasses.fields(cls)}
        for name in ("epoch_tally", "interval_tally"):
            fields[name] = Tally(**{item.name: fields[name][item.name] for item in dataclasses.fields(Tally)})
        return cls(**fields)

    def at_epoch(self, epoch: int) -> "Progress":
        """At the beginning of an epoch, with what outlives one."""
        kept = ("best_acc1", "best_weights", "train_s", "counts", "replaced", "changes", "validation")
        return Progress(epoch, counts_before=self.counts, **{name: getattr(self, name) for name in kept})
