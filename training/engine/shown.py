"""A few photos of each validation, always the same ones, with what the model answers: for loggers, which show them."""

import random
from collections.abc import Sequence

import torch

from training.model.class_order import imagenet_classes
from training.report.answered import Answered
from training.report.loggers import wanted
from training.state.run_state import Run

SHOWN = 8


class Shown:
    """The photos of one validation. Nothing of it waits for the device before ``take``.

    The seed alone decides which photos they are, among ``share`` samples of this rank. Only rank 0 has any, and only
    where a logger is there to show them.
    """

    def __init__(self, run: Run, share: int, names: Sequence[str]) -> None:
        """``names``: of the classes of logits and labels, as far as they are known."""
        log, self._objective, self._names = run.config.log, run.objective, names
        asked = run.world.is_main and (log.tensorboard or wanted(log))
        generator = random.Random(run.config.seed)  # noqa: S311  # chooses, and keeps no secret
        self._chosen = sorted(generator.sample(range(share), min(SHOWN, share))) if asked else []
        self._seen = 0
        self._kept: list[tuple[torch.Tensor, ...]] = []

    def add(self, inputs: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor) -> None:
        """Keep what was chosen of a batch: inputs float32 [n, 3, H, W], labels int64 [n] and logits [n, classes]."""
        first, self._seen = self._seen, self._seen + len(inputs)
        for place in self._chosen:
            if first <= place < self._seen:
                row = slice(place - first, place - first + 1)
                truth = self._objective.truth(labels[row], logits[row])
                kept = self._objective.pictures(inputs[row])[0], truth[0].clone(), logits[row][0].float().clone()
                self._kept.append(kept)  # copies, since a batch's memory is used again

    def take(self) -> list[Answered]:
        """Return what was kept, in the order of the validation."""
        return [self._answered(*(part.cpu() for part in one)) for one in self._kept]

    def _answered(self, photo: torch.Tensor, truth: torch.Tensor, logits: torch.Tensor) -> Answered:
        several = truth.dim() == 1
        probabilities = logits.sigmoid() if several else logits.softmax(0)
        answer = int(logits.argmax())
        right = truth.nonzero()[:, 0].tolist() if several else [int(truth)]
        return Answered(
            (photo.permute(1, 2, 0) * 255).round().byte().numpy(),
            ", ".join(map(self._name, right)) or "none",
            self._name(answer),
            float(probabilities[answer]),
            answer in right,
        )

    def _name(self, number: int) -> str:
        """The name of a class, for which a word stands where it is an id of WordNet; else its number."""
        name = self._names[number] if number < len(self._names) else ""
        return dict(imagenet_classes()).get(name.partition(" ")[0], name) or f"class {number}"
