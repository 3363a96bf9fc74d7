"""Fifty steps of each recipe's overlay, beside the code of torch, torchvision and timm with the published numbers.

The numbers of the right-hand side are written out here and not read from the overlays. Both sides get the same weights,
batches and draws. All is in float64, as two things are computed in another order: a rate, which the libraries multiply
step by step, and the cross entropy of a mixture, which is the sum of two here. After fifty steps weights and averages
differ by less than 1e-12, and with mixtures by less than 1e-9: Adam and LAMB blow up what differs where a gradient is 0.
"""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.unit.test_command_line import composed
from tests.unit.test_mixing_parity import BATCH, CLASSES, SEED, batch, by_torchvision, dense_targets, network
from tests.unit.test_overlays import NAMES
from tests.unit.test_step_parity import STEPS, apart, steps, timms, warmed
from training.config.train_options import TrainConfig
from training.engine.objective import Objective, StepKey
from training.model.bundle import MEAN, STD, Bundle
from training.state.train_state import TrainState

Optimizer = torch.optim.Optimizer

pytestmark = pytest.mark.usefixtures("one_thread")


def sgd(lr: float, decay: float) -> Callable[[nn.Module], Optimizer]:
    return lambda model: torch.optim.SGD(apart(model, decay), lr=lr, momentum=0.9)


def adamw(lr: float, decay: float) -> Callable[[nn.Module], Optimizer]:
    return lambda model: torch.optim.AdamW(apart(model, decay), lr=lr)


def triangle(optimizer: Optimizer) -> LRScheduler:
    """Up to the peak at epoch 2, and down to 0."""
    return LambdaLR(optimizer, lambda step: (step + 1) / 3 if step < 2 else 1 - (step - 2) / (STEPS - 2))


def by_cosine(warmup: int, least: float) -> Callable[[Optimizer], LRScheduler]:
    """Up from ``least``, a share of the peak, in ``warmup`` epochs, and down to it by a cosine."""

    def factor(step: int) -> float:
        rise, fall = (step + 1) / (warmup + 1), (1 + math.cos(math.pi * (step - warmup) / (STEPS - warmup))) / 2
        return least + (1 - least) * (rise if step < warmup else fall)

    return lambda optimizer: LambdaLR(optimizer, factor)


@dataclass(frozen=True)
class Reference:
    """A recipe as it was published, on a network of this test."""

    optimizer: Callable[[nn.Module], Optimizer]
    schedule: Callable[[Optimizer], LRScheduler]
    loss: str = "ce"
    smoothing: float = 0.0
    draws: dict[str, float] = field(default_factory=dict)
    ema: float = 0.0
    ema_warmup: int = 0
    clip_norm: float = 0.0


V2 = {"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.1}
RSB = {"mixup": 0.1, "cutmix": 1.0}

REFERENCES = {
    "resnet50_v1": Reference(
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4), steps(30, 0.1)
    ),
    "resnet50_v2": Reference(sgd(0.5, 2e-5), warmed(5, 0.01), "ce", 0.1, V2, 0.99891, 5),
    "resnet50_a2": Reference(
        timms("lamb", lr=5e-3, weight_decay=0.02), by_cosine(5, 1e-6 / 5e-3), "bce", 0.0, RSB
    ),
    "resnet50_a3": Reference(
        timms("lamb", lr=8e-3, weight_decay=0.02), by_cosine(5, 1e-6 / 8e-3), "bce", 0.0, RSB
    ),
    "resnet50_16epochs": Reference(sgd(1.7, 1e-4), triangle, "ce", 0.1),
    "resnet18_16epochs": Reference(sgd(0.5, 5e-5), triangle, "ce", 0.1),
    "vit_s16_90epochs": Reference(adamw(1e-3, 0.1), by_cosine(8, 0.0), draws={"mixup": 0.2}, clip_norm=1.0),
    "deit_small": Reference(
        adamw(1e-3, 0.05), warmed(5, 1e-3, 1e-5), "ce", 0.1, {"mixup": 0.8, "cutmix": 1.0, "random_erasing": 0.25},
        0.99996, 5,
    ),
    "convnext_tiny": Reference(adamw(1e-3, 0.05), warmed(5, 0.01), "ce", 0.1, V2, 0.99891, 5),
    "mobilenet_v3_large": Reference(
        lambda model: torch.optim.RMSprop(
            model.parameters(), lr=0.064, momentum=0.9, weight_decay=1e-5, eps=0.0316, alpha=0.9
        ),
        steps(2, 0.973),
        draws={"random_erasing": 0.2},
    ),
}  # fmt: skip


def by_the_others(reference: Reference) -> tuple[nn.Module, AveragedModel | None, list[float]]:
    """The model and its averages after fifty epochs of one step, and the rate of each step."""
    model = network(torch.float64)
    optimizer = reference.optimizer(model)
    schedule = reference.schedule(optimizer)
    averages = None
    if reference.ema:
        averages = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(reference.ema), use_buffers=True)
    binary, draws, rates = (
        importlib.import_module("timm.loss").BinaryCrossEntropy(0.0),
        TrainConfig(**reference.draws),
        [],
    )  # type: ignore[arg-type]
    for epoch in range(STEPS):
        images, labels = batch(epoch)
        logits = model.train()(by_torchvision(draws, images, epoch, 0).double())
        targets = dense_targets(draws, labels, epoch, 0, 0.0).double() if draws.mixes else labels
        if reference.loss == "bce":
            binary(logits, targets).backward()
        else:
            F.cross_entropy(logits, targets, label_smoothing=reference.smoothing).backward()
        if reference.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), reference.clip_norm)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if averages:
            averages.update_parameters(model)
            if epoch < reference.ema_warmup:
                averages.n_averaged.fill_(0)
    return model, averages, rates


def by_ours(name: str) -> tuple[TrainState, list[float]]:
    shorter = f"train.epochs={STEPS}", f"train.batch_size={BATCH}", f"optim.reference_batch={BATCH}", f"seed={SEED}"
    config = composed(
        f"experiment={name}", "data.root=/data", *shorter, "train.repeated_augmentation=1", "data.sizes=[]"
    )
    model = network(torch.float64)
    state = TrainState.begin(config, model, torch.device("cpu"), 1)
    objective, rates = Objective(config.train, Bundle(model, MEAN, STD)), []
    for epoch in range(STEPS):
        images, labels = batch(epoch)
        inputs, targets = objective.prepare(images, labels, StepKey(SEED, epoch, 0, range(BATCH)))
        objective.loss(model.train()(inputs.double()), targets).backward()
        rates.append(state.optimizer.param_groups[0]["lr"])
        state.update()
        state.step_is_done()
        state.progress = state.progress.at_epoch(epoch + 1)
    return state, rates


def test_every_recipe_has_a_reference() -> None:
    assert sorted(REFERENCES) == NAMES and CLASSES > 1


@pytest.mark.parametrize("name", NAMES)
def test_fifty_steps_are_those_of_the_references(name: str) -> None:
    reference = REFERENCES[name]
    ours, rates = by_ours(name)
    model, averages, expected_rates = by_the_others(reference)
    assert rates == pytest.approx(expected_rates, rel=1e-12, abs=1e-17)
    assert (ours.averages is None) == (averages is None)
    tolerance = 1e-9 if {"mixup", "cutmix"} & reference.draws.keys() else 1e-12
    pairs: list[tuple[Any, Any]] = [(ours.model, model)]
    if ours.averages and averages:
        pairs.append((ours.averages.model, averages.module))
    for mine, theirs in pairs:
        for key, value in mine.state_dict().items():
            difference = (value - theirs.state_dict()[key]).abs().max().item()
            assert difference <= tolerance, f"{key} differs by {difference:g}"
