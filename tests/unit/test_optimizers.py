"""Optimisers, their groups, the learning rate against torch's own schedulers, and the norm of gradients."""

import dataclasses
from typing import Any

import pytest
import torch
import torchvision
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, StepLR

from training.config.options import options_of
from training.config.train_options import OptimConfig
from training.optim.optimizers import OPTIMIZERS, build_optimizer, clip_gradients
from training.optim.schedule import build_schedule, learning_rate_factor

CHOICES = {item.name: item.choices for item in options_of(OptimConfig)}


def sgd(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_every_optimizer_that_is_offered_can_be_built() -> None:
    assert CHOICES["name"] == tuple(OPTIMIZERS)
    for name in OPTIMIZERS:
        assert type(build_optimizer(torch.nn.Linear(2, 2), OptimConfig(name=name))).__name__.lower() == name


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
def test_every_schedule_begins_at_the_peak(schedule: str) -> None:
    assert learning_rate_factor(0, OptimConfig(schedule=schedule), 9, 7) == 1


def test_step_is_torchs_step_lr() -> None:
    options = OptimConfig(lr=0.4, step_epochs=2, step_gamma=0.1)
    reference = StepLR(sgd(0.4), step_size=2, gamma=0.1)
    for epoch in range(7):
        for step in range(5):
            factor = learning_rate_factor(5 * epoch + step, options, 7, 5)
            assert 0.4 * factor == pytest.approx(reference.get_last_lr()[0])
        reference.optimizer.step()
        reference.step()


@pytest.mark.parametrize("min_lr", [0.0, 0.1])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_falling_schedule_is_torchs_own_by_step(schedule: str, min_lr: float) -> None:
    optimizer = sgd(0.4)
    references: dict[str, LRScheduler] = {
        "cosine": CosineAnnealingLR(optimizer, T_max=20, eta_min=min_lr),
        "linear": LinearLR(sgd(0.4), start_factor=1, end_factor=min_lr / 0.4, total_iters=20),
    }
    options, reference = OptimConfig(lr=0.4, schedule=schedule, min_lr=min_lr), references[schedule]
    for step in range(21):
        factor = learning_rate_factor(step, options, 4, 5)
        assert 0.4 * factor == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        reference.optimizer.step()
        reference.step()
    assert 0.4 * learning_rate_factor(99, options, 4, 5) == pytest.approx(min_lr, abs=1e-12)


@pytest.mark.parametrize("schedule", CHOICES["schedule"])
@pytest.mark.parametrize("start", [0.0, 0.2])
def test_warmup_rises_linearly_to_the_peak(schedule: str, start: float) -> None:
    options = OptimConfig(lr=0.8, schedule=schedule, warmup_epochs=2, warmup_start=start)
    rates = [0.8 * learning_rate_factor(step, options, 90, 10) for step in range(21)]
    assert rates == pytest.approx([start + (0.8 - start) * (step + 1) / 21 for step in range(21)])


def test_a_learning_rate_of_zero_is_one() -> None:
    options = OptimConfig(lr=0.0, schedule="cosine", warmup_epochs=1)
    options.check()
    assert all(0 <= learning_rate_factor(step, options, 3, 4) <= 1 for step in range(13))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_can_go_without_decay(name: str) -> None:
    model = torchvision.models.resnet18(num_classes=3)
    for decay, expected in ((True, {1e-4}), (False, {0.0})):
        optimizer = build_optimizer(model, OptimConfig(name=name, decay_norms_and_biases=decay))
        kernels, vectors = optimizer.param_groups
        assert kernels["weight_decay"] == 1e-4 and {vectors["weight_decay"]} == expected
        assert all(p.ndim > 1 for p in kernels["params"]) and all(p.ndim == 1 for p in vectors["params"])
        assert len(kernels["params"]) + len(vectors["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"name": "sgd", "lr": 0.3, "momentum": 0.8, "nesterov": True}, {"lr": 0.3, "momentum": 0.8, "nesterov": True}),
        (
            {"name": "adamw", "lr": 0.3, "betas": [0.5, 0.75], "eps": 1e-3},
            {"lr": 0.3, "betas": (0.5, 0.75), "eps": 1e-3},
        ),
    ],
)
def test_the_optimizer_has_its_options(options: dict[str, Any], settings: dict[str, Any]) -> None:
    for group in build_optimizer(torch.nn.Linear(2, 2), OptimConfig(**options)).param_groups:
        assert {name: group[name] for name in settings} == settings


def test_adamw_is_torchs_own() -> None:
    ours, theirs = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    theirs.load_state_dict(ours.state_dict())
    options = OptimConfig(name="adamw", lr=0.1, betas=[0.8, 0.9], weight_decay=0.3)
    optimizers = (
        build_optimizer(ours, options),
        torch.optim.AdamW(theirs.parameters(), lr=0.1, betas=(0.8, 0.9), weight_decay=0.3),
    )
    for _ in range(3):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def test_the_schedule_sets_the_optimizers_rate() -> None:
    options = OptimConfig(lr=0.5, step_epochs=1, nesterov=True)
    optimizer = build_optimizer(torch.nn.Linear(2, 2), options)
    schedule = build_schedule(optimizer, dataclasses.replace(options), 90, 2)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05])
    assert optimizer.param_groups[1]["nesterov"] is True


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.0, [3.0, 4.0]), (1.0, [0.6, 0.8]), (9.0, [3.0, 4.0])])
def test_gradients_are_scaled_down_together(clip_norm: float, expected: list[float]) -> None:
    model = torch.nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    for parameter, gradient in zip(model.parameters(), (3.0, 4.0), strict=True):
        parameter.grad = torch.tensor([gradient])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    clip_gradients(model, optimizer, torch.amp.GradScaler("cpu", enabled=False), clip_norm)
    assert [p.grad.item() for p in model.parameters() if p.grad is not None] == pytest.approx(expected, abs=1e-5)


def test_scaled_gradients_are_unscaled_before_they_are_clipped() -> None:
    """As fp16 has them; the step that follows does not unscale them again."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    model, optimizer = torch.nn.ParameterList([parameter]), torch.optim.SGD([parameter], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(4 * parameter.sum()).backward()  # type: ignore[no-untyped-call]
    clip_gradients(model, optimizer, scaler, 2.0)
    scaler.step(optimizer)
    assert parameter.item() == pytest.approx(-2.0, abs=1e-5)
