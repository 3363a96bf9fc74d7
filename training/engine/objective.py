"""What training minimises: a batch becomes the model's inputs and targets here, and the outputs become a loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
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

    def __init__(self, config: TrainConfig, bundle: Bundle) -> None:
        self._config = config
        self._mean, self._std, self._auxiliary_weight = bundle.mean, bundle.std, bundle.auxiliary_weight

    def inputs(self, images: torch.Tensor) -> torch.Tensor:
        """What the model sees: uint8 [n, H, W, 3], which stay as they are, normalised to float32 [n, 3, H, W]."""
        return normalise(images, self._mean, self._std, self._config.channels_last)

    def pictures(self, inputs: torch.Tensor) -> torch.Tensor:
        """Such inputs for a person, in [0, 1]."""
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
        config, smoothing = self._config, self._config.label_smoothing
        if config.loss == "bce":
            return _binary_cross_entropy(logits, targets, smoothing, config.bce_threshold)
        if isinstance(targets, torch.Tensor):
            return F.cross_entropy(logits, targets, label_smoothing=smoothing)
        # Cross entropy is linear in the targets, so that of a mixture needs no target for each class.
        own, other = (
            F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
            for labels in (targets.labels, targets.partners)
        )
        return (targets.shares * own + (1 - targets.shares) * other).mean()

    def validation_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy, without smoothing, whatever is trained with."""
        return F.cross_entropy(logits, labels)


def _binary_cross_entropy(logits: torch.Tensor, targets: Targets, smoothing: float, threshold: float) -> torch.Tensor:
    """The mean over samples and classes, as timm's ``BinaryCrossEntropy`` has it: targets [n, classes] are dense."""
    if isinstance(targets, torch.Tensor):
        dense = _dense(targets, logits.shape[1], smoothing)
    else:
        own, other = (_dense(labels, logits.shape[1], smoothing) for labels in (targets.labels, targets.partners))
        shares = targets.shares[:, None]
        dense = own * shares + other * (1 - shares)
    if threshold:
        dense = (dense > threshold).to(dense.dtype)
    return F.binary_cross_entropy_with_logits(logits.to(torch.promote_types(logits.dtype, dense.dtype)), dense)


def _dense(labels: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    others = smoothing / classes
    rows = torch.full((len(labels), classes), others, device=labels.device)
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
