"""Which parameters have which weight decay."""

from typing import Any

from torch import nn

from training.config.train_options import OptimConfig


def parameter_groups(model: nn.Module, options: OptimConfig) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels, and the vectors (norms and biases), which may go without decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decays = {True: options.weight_decay, False: options.weight_decay if options.decay_norms_and_biases else 0.0}
    groups = [
        {"params": [p for p in trained if (p.ndim > 1) is matrices], "weight_decay": decay}
        for matrices, decay in decays.items()
    ]
    return [group for group in groups if group["params"]]
