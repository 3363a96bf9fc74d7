"""SGD's groups, and the learning rate against torch's own schedulers."""

import pytest
import torch
import torchvision
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

from training.config.schema import TrainConfig
from training.optim.optimizers import build_optimizer, build_schedule, learning_rate_factor


def test_step_is_torchs_step_lr() -> None:
    config = TrainConfig(epochs=7, lr=0.4, step_epochs=2, step_gamma=0.1)
    reference = StepLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4), step_size=2, gamma=0.1)
    for epoch in range(7):
        for step in range(5):
            assert 0.4 * learning_rate_factor(5 * epoch + step, config, 5) == pytest.approx(reference.get_last_lr()[0])
        reference.optimizer.step()
        reference.step()


def test_cosine_is_torchs_cosine_annealing_by_step() -> None:
    config = TrainConfig(epochs=4, schedule="cosine")
    reference = CosineAnnealingLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), T_max=20)
    for step in range(20):
        assert learning_rate_factor(step, config, 5) == pytest.approx(reference.get_last_lr()[0], abs=1e-12)
        reference.optimizer.step()
        reference.step()


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_warmup_rises_linearly_to_the_peak(schedule: str) -> None:
    config = TrainConfig(epochs=90, schedule=schedule, warmup_epochs=2)
    factors = [learning_rate_factor(step, config, 10) for step in range(21)]
    assert factors == pytest.approx([(step + 1) / 21 for step in range(21)])


def test_norms_and_biases_can_go_without_decay() -> None:
    model = torchvision.models.resnet18(num_classes=3)
    for decay, expected in ((True, {1e-4}), (False, {0.0})):
        optimizer = build_optimizer(model, TrainConfig(decay_norms_and_biases=decay))
        kernels, vectors = optimizer.param_groups
        assert kernels["weight_decay"] == 1e-4 and {vectors["weight_decay"]} == expected
        assert all(p.ndim > 1 for p in kernels["params"]) and all(p.ndim == 1 for p in vectors["params"])
        assert len(kernels["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_the_schedule_sets_the_optimizers_rate() -> None:
    optimizer = build_optimizer(torch.nn.Linear(2, 2), TrainConfig(lr=0.5, step_epochs=1, nesterov=True))
    schedule = build_schedule(optimizer, TrainConfig(lr=0.5, step_epochs=1), 2)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05])
    assert optimizer.param_groups[1]["nesterov"] is True
