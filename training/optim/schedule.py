"""The learning rate as a function of the step."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from training.config.train_options import OptimConfig

FALLING: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}
"""Schedules from the peak (1) to ``min_lr`` (0), by the share of the steps after the warm-up that are done."""


def build_schedule(optimizer: Optimizer, options: OptimConfig, epochs: int, steps_per_epoch: int) -> LambdaLR:
    """The learning rate by step, as torch's LambdaLR."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, options, epochs, steps_per_epoch))


def learning_rate_factor(step: int, options: OptimConfig, epochs: int, steps_per_epoch: int) -> float:
    """Share of the peak learning rate at step ``step`` of the run, in [0, 1].

    Warm-up rises linearly and reaches the peak with the first step after it (Goyal et al. 2017, section 2.2). ``step``
    multiplies by step_gamma every step_epochs epochs; ``cosine`` and ``linear`` fall from the end of the warm-up to
    min_lr after the last step (Loshchilov and Hutter 2016, equation 5, without restarts); ``constant`` stays.
    """
    warmup_steps = round(options.warmup_epochs * steps_per_epoch)
    if step < warmup_steps:
        return _above(options.warmup_start, options, (step + 1) / (warmup_steps + 1))
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "step":
        return options.step_gamma ** (step // steps_per_epoch // options.step_epochs)
    total = epochs * steps_per_epoch
    progress = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
    return _above(options.min_lr, options, FALLING[options.schedule](progress))


def _above(least: float, options: OptimConfig, share: float) -> float:
    """Share of the peak that lies ``share`` of the way from the learning rate ``least`` to the peak."""
    low = least / options.lr if least else 0.0
    return low + (1 - low) * share
