"""Clipping of gradients."""

import torch
from torch import nn


def clip_gradients(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip_norm: float
) -> None:
    """Scale all gradients down together where their norm is more than ``clip_norm``; 0: leave them. Waits for nothing.

    The gradients of fp16 are unscaled first, once for this step.
    """
    if clip_norm:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
