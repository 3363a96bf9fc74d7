"""A checkpoint that is sound as far as it can be told without its model."""

from typing import Any

import torch


def sound_state(epoch: int = 1) -> dict[str, Any]:
    """Of a linear layer without momentum, at the beginning of an epoch."""
    return {
        "model": torch.nn.Linear(2, 2).state_dict(),
        "optimizer": {"state": {}, "param_groups": [{"params": [0, 1], "lr": 0.1}]},
        "schedule": {},
        "epoch": epoch,
        "batches_done": 0,
        "best_acc1": 1.5,
        "config": {"seed": 0},
        "environment": {},
        "validation": {"loss": 1.0, "acc1": 1.5, "acc5": 3.0},
    }
