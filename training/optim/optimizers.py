"""Optimisers by name. Another one is a line of ``OPTIMIZERS``, and a choice of ``optim.name`` with its own options."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from training.config.schema import OptimConfig
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
