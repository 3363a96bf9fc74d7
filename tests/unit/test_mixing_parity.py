"""Fifty steps of training equal those of torchvision's and timm's own code on the same batches and draws."""

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2

from tests.unit.test_train_state import equal
from training.config.schema import Config
from training.config.train_options import OptimConfig, TrainConfig
from training.engine import erasing, mixing
from training.engine.objective import Objective, StepKey
from training.model.bundle import MEAN, STD, Bundle
from training.state.train_state import TrainState

BATCH, CLASSES, SIDE, STEPS, EPOCHS, SEED = 192, 5, 12, 10, 5, 3
"""Two blocks in a batch, of which the second is cut short."""


def network(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(24, CLASSES)).to(dtype)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, CLASSES, (BATCH,), generator=generator)


def in_pairs(transform: Any, rows: torch.Tensor, **params: Any) -> torch.Tensor:
    """What a transform of torchvision's makes of a batch whose neighbours are partners: one of two, side by side."""
    both = rows.unflatten(0, (-1, 2)).transpose(0, 1)
    given = {"labels": torch.zeros(2, dtype=torch.int64), "batch_size": 2} | params
    return transform.transform(both.flatten(1, 2), given).unflatten(1, both.shape[1:3]).transpose(0, 1).flatten(0, 1)


def by_torchvision(config: TrainConfig, images: torch.Tensor, epoch: int, step: int) -> torch.Tensor:
    """Normalised inputs, erased and mixed with torchvision's transforms; CutMix comes first, as ours."""
    drawn = SEED, epoch, step, range(BATCH), SIDE, SIDE
    mixes = mixing.plan(config, *drawn) if config.mixes else []
    images = images.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    for mix in mixes:
        if mix.box:
            top, left, height, width = mix.box
            box = (left, top, left + width, top + height)
            rows = slice(mix.first, mix.last)
            images[rows] = in_pairs(v2.CutMix(num_classes=CLASSES), images[rows], box=box)
    means, stds = (255 * torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    inputs = images.float().sub_(means).div_(stds)
    for row, box in erasing.plan(config.random_erasing, *drawn):
        inputs[row] = v2.functional.erase(inputs[row], *box, v=torch.zeros(3, 1, 1))
    for mix in mixes:
        if not mix.box:
            rows, share = slice(mix.first, mix.last), mix.share / (1 << mixing.SHARE_BITS)
            inputs[rows] = in_pairs(v2.MixUp(num_classes=CLASSES), inputs[rows], lam=share)
    return inputs


def dense_targets(config: TrainConfig, labels: torch.Tensor, epoch: int, step: int, smoothing: float) -> torch.Tensor:
    """timm's, pair by pair: the partner of each is the other."""
    mixup = importlib.import_module("timm.data.mixup")
    targets = mixup.mixup_target(labels, CLASSES, 1.0, smoothing)
    for mix in mixing.plan(config, SEED, epoch, step, range(BATCH), SIDE, SIDE) if config.mixes else []:
        for row in range(mix.first, mix.last, 2):
            share = mix.share / (1 << mixing.SHARE_BITS)
            targets[row : row + 2] = mixup.mixup_target(labels[row : row + 2], CLASSES, share, smoothing)
    return targets


def steps_of_the_others(
    config: Config, dtype: torch.dtype, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], smoothing: float
) -> tuple[nn.Module, AveragedModel, Any]:
    """The model, torchvision's averages of it and timm's after all steps."""
    model_ema = importlib.import_module("timm.utils").ModelEmaV3
    model, train = network(dtype), config.train
    optimizer = torch.optim.SGD(model.parameters(), config.optim.lr, 0.9, weight_decay=config.optim.weight_decay)
    averages = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(train.ema_decay), use_buffers=True)
    timms = model_ema(model, decay=train.ema_decay)
    for number in range(STEPS * EPOCHS):
        epoch, step = divmod(number, STEPS)
        images, labels = batch(number)
        logits = model.train()(by_torchvision(train, images, epoch, step).to(dtype))
        loss(logits, dense_targets(train, labels, epoch, step, smoothing).to(dtype)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % train.ema_every == 0:
            averages.update_parameters(model)
            if epoch < config.optim.warmup_epochs:
                averages.n_averaged.fill_(0)
            timms.set(model) if epoch <= config.optim.warmup_epochs and step == 0 else timms.update(model)
    return model, averages, timms


def steps_of_ours(config: Config, dtype: torch.dtype) -> TrainState:
    model = network(dtype)
    state = TrainState.begin(config, model, torch.device("cpu"), STEPS)
    objective = Objective(config.train, Bundle(model, MEAN, STD))
    for number in range(STEPS * EPOCHS):
        epoch, step = divmod(number, STEPS)
        images, labels = batch(number)
        key = StepKey(SEED, epoch, step, range(step * BATCH, (step + 1) * BATCH))
        inputs, targets = objective.prepare(images, labels, key)
        objective.loss(model.train()(inputs.to(dtype)), targets).backward()
        state.update()
        state.step_is_done()
        if step == STEPS - 1:
            state.progress = state.progress.at_epoch(epoch + 1)
    return state


def config_of(**options: Any) -> Config:
    given = {"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.3, "ema_decay": 0.9, "ema_every": 4}
    train = TrainConfig(batch_size=BATCH, epochs=EPOCHS, channels_last=False, **given | options)  # type: ignore[arg-type]
    return Config(seed=SEED, train=train, optim=OptimConfig(lr=0.1, schedule="constant"))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_steps_with_binary_cross_entropy_are_those_of_torchvision_and_timm_bit_for_bit(smoothing: float) -> None:
    losses = importlib.import_module("timm.loss")
    config = config_of(loss="bce", label_smoothing=smoothing)
    ours = steps_of_ours(config, torch.float32)
    model, averages, timms = steps_of_the_others(config, torch.float32, losses.BinaryCrossEntropy(smoothing), smoothing)
    assert ours.averages and equal(ours.model.state_dict(), model.state_dict())
    assert equal(ours.averages.model.state_dict(), averages.module.state_dict())
    of_timm = {name: value for name, value in timms.module.state_dict().items() if value.is_floating_point()}
    assert equal({name: ours.averages.model.state_dict()[name] for name in of_timm}, of_timm)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_steps_with_cross_entropy_differ_by_the_sum_of_two_instead_of_a_dense_target(smoothing: float) -> None:
    """In float64, in which fifty steps of other roundings stay small; inputs are the same bits."""
    config = config_of(label_smoothing=smoothing)
    ours = steps_of_ours(config, torch.float64)

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    model, averages, _ = steps_of_the_others(config, torch.float64, loss, 0.0)
    assert ours.averages
    for mine, theirs in ((ours.model, model), (ours.averages.model, averages.module)):
        for name, value in mine.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[name], rtol=0, atol=1e-13)
