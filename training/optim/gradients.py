"""The norm of a step's gradients: measured always, clipped where asked. Whoever reads it waits for the device."""

import torch
from torch import nn


def clip_gradients(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip_norm: float
) -> torch.Tensor:
    """The norm of all gradients together, float32 [] on their device, before they are clipped.

    They are scaled down together where it is more than ``clip_norm``; 0: they are left. The gradients of fp16 are
    unscaled first, once for this step.
    """
    scaler.unscale_(optimizer)
    if clip_norm:
        return nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
