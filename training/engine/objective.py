"""What training minimises: a batch becomes the model's inputs and targets here, and the outputs become a loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from etl.crop import Box
from sources.errors import ConfigError
from training.config.train_options import TrainConfig
from training.engine import erasing, mixing
from training.engine.mixing import Mix, Mixture
from training.model.bundle import Bundle, denormalise, normalise

Targets = torch.Tensor | Mixture
"""Labels int64 [n], or those of samples that are mixed."""


@dataclass(frozen=True)
class Labelling:
    """What labels mean beside the number of a class, for as many classes as the data have; on the batch's device."""

    weights: torch.Tensor | None = None
    """float32 [classes]: what a sample's loss counts, by its class."""
    sets: torch.Tensor | None = None
    """bool [sets, classes]: a label is a row of it, and a sample has several classes or none."""

    @classmethod
    def of(
        cls, labels: NDArray[np.int64] | None, classes: int, sets: NDArray[np.bool_] | None, device: torch.device
    ) -> "Labelling":
        """With weights that make up for the sizes of the classes in ``labels``, int64 [n] of training, if any.

        A weight is n / (k * n_class), with k classes that have samples; of the others it is 0.
        """
        weights = None
        if labels is not None:
            counts = torch.from_numpy(np.bincount(labels, minlength=classes)).double()
            there = counts > 0
            weights = (len(labels) * there / (there.sum() * counts.clamp(min=1))).float().to(device)
        return cls(weights, torch.from_numpy(sets).to(device) if sets is not None else None)

    def weights_for(self, logits: torch.Tensor) -> torch.Tensor | None:
        """float32 [n] for logits [.., n], which may be of more classes than the data have."""
        return None if self.weights is None else F.pad(self.weights, (0, logits.shape[-1] - len(self.weights)))

    def sets_of(self, labels: torch.Tensor, classes: int) -> torch.Tensor | None:
        """bool [n, classes] of labels [n], where samples have sets."""
        return None if self.sets is None else F.pad(self.sets[labels], (0, classes - self.sets.shape[1]))


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
    """Mixing and erasing, and the loss. All that it does is on the batch's device, and waits for nothing."""

    def __init__(self, config: TrainConfig, bundle: Bundle, labelling: Labelling | None = None) -> None:
        self._config = config
        self._labelling = labelling or Labelling()
        self._mean, self._std, self._auxiliary_weight = bundle.mean, bundle.std, bundle.auxiliary_weight

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """What the model sees: uint8 [n, H, W, 3], which stay as they are, normalised to float32 [n, 3, H, W]."""
        return normalise(images, self._mean, self._std, self._config.channels_last)

    def pictures(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return such inputs as pictures for a person, in [0, 1]."""
        return denormalise(inputs, self._mean, self._std)

    def prepare(self, images: torch.Tensor, labels: torch.Tensor, key: StepKey) -> tuple[torch.Tensor, Targets]:
        """(inputs, targets) of a batch of training: images uint8 [n, H, W, 3] and labels int64 [n].

        CutMix comes first, as it is cheapest on bytes, then normalisation, erasing, and mixup.
        """
        mixes, boxes = self._drawn(images, key)
        inputs = self.inputs(mixing.paste(images, mixes))
        erasing.erase(inputs, boxes)
        mixing.blend(inputs, mixes)
        return inputs, mixing.mixture(labels, mixes) if mixes else labels

    def _drawn(self, images: torch.Tensor, key: StepKey) -> tuple[tuple[Mix, ...], list[tuple[int, Box]]]:
        """What is mixed, and which boxes of which rows are erased."""
        config = self._config
        if not (config.mixes or config.random_erasing):
            return (), []
        assert len(key.positions) == len(images)
        begin = key.positions[0] - key.step * config.batch_size
        places = range(begin, begin + len(images))
        of_step = key.seed, key.epoch, key.step, places, *images.shape[1:3]
        return (
            mixing.plan(config, *of_step) if config.mixes else (),
            erasing.plan(config.random_erasing, *of_step) if config.random_erasing else [],
        )

    def loss(self, outputs: Any, targets: Targets) -> torch.Tensor:
        """Mean loss, a scalar; auxiliary classifiers of inception and googlenet count with their weight."""
        logits, *auxiliary = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        loss = self._loss(logits, targets)
        for other in auxiliary:
            loss = loss + self._auxiliary_weight * self._loss(other, targets)
        return loss

    def _loss(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        config, smoothing, weights = self._config, self._config.label_smoothing, self._labelling.weights_for(logits)
        if config.loss == "bce":
            return self._binary_cross_entropy(logits, targets)
        if isinstance(targets, torch.Tensor) and weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)

        def of(labels: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=smoothing)

        # Divided by the samples, and not by their weights as torch does, so that the parts of a batch add up to it.
        if isinstance(targets, torch.Tensor):
            return of(targets).mean()
        # Cross entropy is linear in the targets, so that of a mixture needs no target for each class.
        own, other = of(targets.labels), of(targets.partners)
        return (targets.shares * own + (1 - targets.shares) * other).mean()

    def validation_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy, without smoothing and weights, whatever is trained with; of several classes, binary."""
        truth = self.truth(labels, logits)
        if truth is labels:
            return F.cross_entropy(logits, labels)
        return F.binary_cross_entropy_with_logits(logits.float(), truth.float())

    def truth(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """What metrics compare with: labels int64 [n], or bool [n, classes] where a sample may have several."""
        sets = self._labelling.sets_of(labels, logits.shape[1])
        return labels if sets is None else sets

    def _binary_cross_entropy(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        """The mean over samples and classes, as timm's ``BinaryCrossEntropy`` has it: targets [n, classes] are dense.

        A sample's row counts with the weight of its class.
        """
        classes, threshold, weights = logits.shape[1], self._config.bce_threshold, self._labelling.weights_for(logits)
        rows = None
        if isinstance(targets, torch.Tensor):
            dense = self._dense(targets, classes)
            rows = weights[targets, None] if weights is not None else None
        else:
            own, other = (self._dense(labels, classes) for labels in (targets.labels, targets.partners))
            shares = targets.shares[:, None]
            dense = own * shares + other * (1 - shares)
            if weights is not None:
                rows = weights[targets.labels, None] * shares + weights[targets.partners, None] * (1 - shares)
        if threshold:
            dense = (dense > threshold).to(dense.dtype)
        logits = logits.to(torch.promote_types(logits.dtype, dense.dtype))
        return F.binary_cross_entropy_with_logits(logits, dense, rows)

    def _dense(self, labels: torch.Tensor, classes: int) -> torch.Tensor:
        """Smoothed targets float32 [n, classes]."""
        smoothing, sets = self._config.label_smoothing, self._labelling.sets_of(labels, classes)
        others = smoothing / classes
        rows = torch.full((len(labels), classes), others, device=labels.device)
        if sets is not None:
            return rows.masked_fill_(sets, 1 - smoothing + others)
        return rows.scatter_(1, labels[:, None], 1 - smoothing + others)


def check_targets(config: TrainConfig, num_classes: int) -> None:
    """Raise ConfigError for mixtures and losses that so few classes give no meaning."""
    if config.mixes and num_classes == 1:
        raise ConfigError(
            "train.mixup and train.cutmix mix samples of several classes, and there is one class alone: leave them out."
        )
    if config.loss == "bce" and num_classes == 1:
        raise ConfigError(
            "train.loss=bce asks of each class whether a sample belongs to it, and there is one class alone, to which "
            "all belong: give the data a folder for the other class too, or use train.loss=ce."
        )


def main_logits(outputs: Any) -> torch.Tensor:
    """The logits [n, classes] of a model's outputs in training, which may have auxiliary ones behind them."""
    logits: torch.Tensor = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
    return logits
