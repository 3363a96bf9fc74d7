"""Optimisers by name, and clipping. Another one is a line of ``OPTIMIZERS``, and a choice of ``optim.name``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from training.config.train_options import OptimConfig
from training.optim.groups import parameter_groups

OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], OptimConfig], Optimizer]] = {
    "sgd": lambda groups, options: SGD(groups, options.lr, momentum=options.momentum, nesterov=options.nesterov),
    "adamw": lambda groups, options: AdamW(
        groups, options.lr, betas=(options.betas[0], options.betas[1]), eps=options.eps
    ),
}
"""Name → what makes the optimiser of parameter groups, which have their own weight decay."""


def build_optimizer(model: nn.Module, options: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser ``options.name`` of all parameters of the model that are trained."""
    return OPTIMIZERS[options.name](parameter_groups(model, options), options)


def clip_gradients(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip_norm: float
) -> None:
    """Scale all gradients down together where their norm is more than ``clip_norm``; 0: leave them. Waits for nothing.

    The gradients of fp16 are unscaled first, once for this step.
    """
    if clip_norm:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
