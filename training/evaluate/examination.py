"""What an evaluation asks of the model for each batch, and remembers of its answers."""

from dataclasses import dataclass

import numpy as np
import torch

from sources.batch import Batch
from training.engine.numerics import autocast
from training.evaluate.statistics import Outcomes
from training.processes.collectives import gather_objects, gather_on_main
from training.state.run_state import Run

TOP = 5


class Examination:
    """Answers batches of an evaluation as its options say. It waits for the device only when it is over."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._classes = run.classes
        self._options = run.config.eval
        self._rows: list[torch.Tensor] = []
        self._largest = torch.zeros((), dtype=torch.float64, device=run.device)
        self._maps = None
        if self._classes is not None and not self._classes.is_plain:
            self._maps = _Maps.of(self._classes.of_label, self._classes.possible, run.device)

    def answer(self, inputs: torch.Tensor, labels: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits [n, possible classes], labels int64 [n] among these) of inputs float32 [n, 3, H, W] on the device."""
        logits = self._logits(inputs)
        others = None
        if self._options.compare_precision != "none":
            torch.clear_autocast_cache()  # of this precision's weights
            with autocast(self._options.compare_precision, self._run.device):
                others = self._logits(inputs)
            torch.clear_autocast_cache()
        if self._maps is not None:
            labels = self._maps.places[labels]
        self._remember(logits, others, labels, batch.indices)
        return logits, labels

    def _logits(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits of the possible classes in their order, with eval.flip the mean over both mirror images."""
        logits: torch.Tensor = self._run.eval_model(inputs)
        if self._options.flip:
            logits = (logits.float() + self._run.eval_model(inputs.flip(-1)).float()) / 2
        return logits if self._maps is None else logits[:, self._maps.possible]

    def _remember(
        self, logits: torch.Tensor, others: torch.Tensor | None, labels: torch.Tensor, indices: torch.Tensor
    ) -> None:
        top = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
        columns = [
            indices[:, None].to(logits.device, non_blocking=True),
            self._class(labels)[:, None],
            self._class(top),
        ]
        columns.append(logits.float().softmax(1).gather(1, top))
        if others is not None:
            columns.append(self._class(others.topk(1, dim=1).indices))
            self._largest = self._largest.maximum((others.double() - logits.double()).abs().max())
        self._rows.append(torch.cat([column.double() for column in columns], 1))

    def _class(self, places: torch.Tensor) -> torch.Tensor:
        """The model's classes of places among the possible ones."""
        return places if self._maps is None else self._maps.possible[places]

    def outcomes(self, samples: int) -> Outcomes | None:
        """On rank 0 the answers of all processes to ``samples`` photos; None elsewhere. All ranks call it."""
        rows = torch.cat(self._rows).cpu() if self._rows else torch.zeros(0, 0, dtype=torch.float64)
        width = max(gather_objects(rows.shape[1]))
        padded = torch.full((-(-samples // self._run.world.size), width), -1.0, dtype=torch.float64)
        padded[: len(rows), : rows.shape[1]] = rows
        largest = max(gather_objects(self._largest.item()))
        parts = gather_on_main(padded)
        if parts is None:
            return None
        table = torch.cat(parts).numpy()
        table = table[table[:, 0] >= 0]
        table = table[np.argsort(table[:, 0])]
        assert np.array_equal(table[:, 0], np.arange(samples)), "an evaluation has each photo once"
        has_others = self._options.compare_precision != "none"
        k = (width - 2 - has_others) // 2
        whole = table[:, : 2 + k].astype(np.int64)
        return Outcomes(
            indices=whole[:, 0],
            labels=whole[:, 1],
            classes=whole[:, 2:],
            probabilities=table[:, 2 + k : 2 + 2 * k],
            others=table[:, -1].astype(np.int64) if has_others else None,
            largest_difference=largest,
        )


@dataclass(frozen=True)
class _Maps:
    """int64 on the device: the possible classes, ascending, and the place among them of each label of the data."""

    possible: torch.Tensor
    places: torch.Tensor

    @classmethod
    def of(cls, of_label: tuple[int, ...], possible: tuple[int, ...], device: torch.device) -> "_Maps":
        places = {number: place for place, number in enumerate(possible)}
        labels = torch.tensor([places[number] for number in of_label], device=device)
        return cls(torch.tensor(possible, device=device), labels)
