"""SGD and its learning rate."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from training.config.schema import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD over two groups: matrices and kernels, and the vectors (norms and biases), which may go without decay."""
    kernels = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": config.weight_decay if config.decay_norms_and_biases else 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
    )


def build_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> LambdaLR:
    """The learning rate by step, as torch's LambdaLR."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, config, steps_per_epoch))


def learning_rate_factor(step: int, config: TrainConfig, steps_per_epoch: int) -> float:
    """Share of the peak learning rate at step ``step`` of the run, in [0, 1].

    Warm-up rises linearly and reaches the peak with the first step after it (Goyal et al. 2017, section 2.2). ``step``
    multiplies by step_gamma every step_epochs epochs; ``cosine`` falls from the end of the warm-up to 0 after the last
    step (Loshchilov and Hutter 2016, equation 5, without restarts).
    """
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if config.schedule == "step":
        return config.step_gamma ** (step // steps_per_epoch // config.step_epochs)
    total = config.epochs * steps_per_epoch
    progress = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * progress))
