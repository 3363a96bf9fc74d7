"""The norm of a step's gradients: measured always, clipped where asked. Nothing here waits for the device."""

import torch
from torch import nn

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by the bytes of an element."""


def clip_gradients(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, clip_norm: float
) -> torch.Tensor:
    """The norm of all gradients together, float32 [] on their device, before they are clipped.

    They are scaled down together where it is more than ``clip_norm``; 0: they are left. Where it is not finite they
    become zeros, so that they reach no weight and no average. The gradients of fp16 are unscaled first, once for this
    step, and the scaler leaves the step out.
    """
    scaler.unscale_(optimizer)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if clip_norm:
        norm = nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    else:
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    # As integers, since a NaN times 0 is a NaN; times 1 they keep their bits.
    bits = [gradient.view(_INTEGERS[gradient.itemsize]) for gradient in gradients]
    torch._foreach_mul_(bits, norm.isfinite().int())
    return norm
