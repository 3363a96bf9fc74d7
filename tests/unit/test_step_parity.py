"""Fifty steps of the recipes' optimisers and schedules, beside the libraries' own code that the recipes were run with.

Weights are equal bit for bit. Rates may differ in their last bits, since torch's schedulers multiply the last rate,
step by step, and ours is a function of the step.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR, StepLR

from training.config.schema import Config
from training.config.train_options import OptimConfig, TrainConfig
from training.state.train_state import TrainState

STEPS = 50

pytestmark = pytest.mark.usefixtures("one_thread")


def convnet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.GroupNorm(3, 12)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)),
    )


def transformer() -> nn.Module:
    import timm

    return timm.create_model("test_vit", num_classes=5, img_size=32)


def apart(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """torchvision's groups with its options for norms and biases at 0: by the kind of layer, and by name."""
    kinds = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
    without = {id(p) for module in model.modules() if isinstance(module, kinds) for p in module.parameters()}
    without |= {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) not in without], "weight_decay": decay},
        {"params": [p for p in parameters if id(p) in without], "weight_decay": 0.0},
    ]


def timms(name: str, **options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        from timm.optim import create_optimizer_v2

        return create_optimizer_v2(model, name, **options)

    return make


def warmed(warmup: int, start: float, eta_min: float = 0.0) -> Callable[[torch.optim.Optimizer], LRScheduler]:
    """torchvision's sequence. Ours rises with its first step already, so that the reference is one step ahead."""

    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        rise = LinearLR(optimizer, start_factor=start, total_iters=warmup + 1)
        fall = CosineAnnealingLR(optimizer, T_max=STEPS - warmup, eta_min=eta_min)
        schedule = SequentialLR(optimizer, [rise, fall], milestones=[warmup + 1])
        optimizer.step()  # without gradients, which changes nothing
        schedule.step()
        return schedule

    return make


def cosine(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return CosineAnnealingLR(optimizer, T_max=STEPS)


def steps(size: int, gamma: float) -> Callable[[torch.optim.Optimizer], LRScheduler]:
    return lambda optimizer: StepLR(optimizer, size, gamma)


ADAM = {"lr": 1e-3, "weight_decay": 0.05, "decay_norms_and_biases": False, "schedule": "cosine"}

RECIPES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], Any, Any]] = {
    "torchvision's first": (
        convnet,
        {"lr": 0.1, "step_epochs": 15},
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4),
        steps(15, 0.1),
    ),
    "torchvision's second": (
        convnet,
        {
            **{"lr": 2.0, "reference_batch": 4096, "weight_decay": 2e-5, "decay_norms_and_biases": False},
            **{"schedule": "cosine", "warmup_epochs": 5, "warmup_start": 0.02},
        },
        lambda model: torch.optim.SGD(apart(model, 2e-5), lr=0.5, momentum=0.9),
        warmed(5, 0.01),
    ),
    "torchvision's mobilenet": (
        convnet,
        {
            **{"name": "rmsprop", "lr": 0.064, "momentum": 0.9, "eps": 0.0316, "alpha": 0.9, "weight_decay": 1e-5},
            **{"step_epochs": 2, "step_gamma": 0.973},
        },
        lambda model: torch.optim.RMSprop(
            model.parameters(), lr=0.064, momentum=0.9, weight_decay=1e-5, eps=0.0316, alpha=0.9
        ),
        steps(2, 0.973),
    ),
    "torchvision's swin": (
        convnet,
        {"name": "adamw", **ADAM, "clip_norm": 0.5, "warmup_epochs": 7, "warmup_start": 1e-5, "min_lr": 1e-5},
        lambda model: torch.optim.AdamW(apart(model, 0.05), lr=1e-3),
        warmed(7, 0.01, 1e-5),
    ),
    "timm's a3": (
        convnet,
        {"name": "lamb", **ADAM, "lr": 8e-3, "weight_decay": 0.02},
        timms("lamb", lr=8e-3, weight_decay=0.02),
        cosine,
    ),
    "deit": (transformer, {"name": "adamw", **ADAM}, timms("adamw", lr=1e-3, weight_decay=0.05), cosine),
    "muon": (
        transformer,
        {"name": "muon", **ADAM},
        timms("muon", lr=1e-3, weight_decay=0.05, momentum=0.95),
        cosine,
    ),
    "layer decay": (
        transformer,
        {"name": "adamw", **ADAM, "layer_decay": 0.7},
        timms("adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7),
        cosine,
    ),
    "algoperf": (
        convnet,
        {"name": "nadamw", **ADAM, "betas": [0.9, 0.98]},
        lambda model: torch.optim.NAdam(
            apart(model, 0.05), lr=1e-3, betas=(0.9, 0.98), decoupled_weight_decay=True
        ),
        cosine,
    ),
}  # fmt: skip


def gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    F.cross_entropy(model(images), torch.randint(0, 5, (4,), generator=generator), label_smoothing=0.1).backward()


@pytest.mark.parametrize("recipe", RECIPES)
def test_weights_and_rates_are_the_references(recipe: str) -> None:
    make, options, reference, schedule_of = RECIPES[recipe]
    torch.manual_seed(0)
    theirs = make()
    config = Config(train=TrainConfig(epochs=STEPS, batch_size=1024), optim=OptimConfig(**options))
    config.optim.check()
    state = TrainState.begin(config, copy.deepcopy(theirs), torch.device("cpu"), 1)
    optimizer = reference(theirs)
    for group in optimizer.param_groups:  # as timm's own schedulers do
        group["lr"] *= group.get("lr_scale", 1.0)
    schedule = schedule_of(optimizer)
    for step in range(STEPS):
        rates = sorted({group["lr"] for group in optimizer.param_groups})
        ours = sorted({group["lr"] for group in state.optimizer.param_groups})
        assert ours == pytest.approx(rates, rel=1e-13, abs=1e-17)
        for model in (state.model, theirs):
            gradients(model, step)
        state.update()
        state.step_is_done()
        if config.optim.clip_norm:
            nn.utils.clip_grad_norm_(theirs.parameters(), config.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        for (name, one), other in zip(state.model.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert torch.equal(one, other), f"step {step}: {name} differs by {(one - other).abs().max():g}"
