"""What training minimises: a batch becomes the model's inputs and targets here, and the outputs become a loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from training.config.train_options import TrainConfig
from training.model.bundle import Bundle, denormalise, normalise


@dataclass(frozen=True)
class StepKey:
    """Which batch it is: whatever is random in ``prepare`` depends on this alone, and on no generator's state."""

    seed: int
    epoch: int
    step: int
    """Optimiser steps done in the epoch."""
    positions: Sequence[int]
    """The places of the samples in the epoch, which are the same however many processes share a global batch."""


class Objective:
    """Cross entropy with label smoothing. All that it does is on the batch's device, and waits for nothing."""

    def __init__(self, config: TrainConfig, bundle: Bundle) -> None:
        self._config = config
        self._mean, self._std, self._auxiliary_weight = bundle.mean, bundle.std, bundle.auxiliary_weight

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """What the model sees: uint8 [n, H, W, 3], which stay as they are, normalised to float32 [n, 3, H, W]."""
        return normalise(images, self._mean, self._std, self._config.channels_last)

    def pictures(self, inputs: torch.Tensor) -> torch.Tensor:
        """Such inputs for a person, in [0, 1]."""
        return denormalise(inputs, self._mean, self._std)

    def prepare(self, images: torch.Tensor, labels: torch.Tensor, key: StepKey) -> tuple[torch.Tensor, torch.Tensor]:
        """(inputs, targets) of a batch of training: images uint8 [n, H, W, 3] and labels int64 [n]."""
        return self.inputs(images), labels

    def loss(self, outputs: Any, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss, a scalar; auxiliary classifiers of inception and googlenet count with their weight."""
        logits, *auxiliary = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        smoothing = self._config.label_smoothing
        loss = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        for other in auxiliary:
            loss = loss + self._auxiliary_weight * F.cross_entropy(other, targets, label_smoothing=smoothing)
        return loss

    def validation_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy, without smoothing, whatever is trained with."""
        return F.cross_entropy(logits, labels)


def main_logits(outputs: Any) -> torch.Tensor:
    """The logits [n, classes] of a model's outputs in training, which may have auxiliary ones behind them."""
    logits: torch.Tensor = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    return logits
