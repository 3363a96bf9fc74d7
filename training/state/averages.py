"""Averaged weights (EMA): an exponential moving average of parameters and buffers, as torchvision's references keep it.

An average is taken after the first step of an epoch and after every ``train.ema_every`` steps from there. In the epochs
of the warm-up, and at the first one after them, it begins anew as a copy of the weights. All of this is a function of
the position, so a checkpoint needs the averages alone.
"""

import copy
import itertools
import math
from collections import defaultdict

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sources.errors import ConfigError
from training.config.schema import Config

_NOTICED = 0.05
"""A share of the weights that the averaging began with, which a run should be told of if it ends with more."""


class Averages:
    """``model`` has the averages of another model on the same device, of which every parameter changes in place.

    The arithmetic is torch's. Its ``AveragedModel`` copies a count to the device for each update and waits for it.
    """

    def __init__(self, model: nn.Module, decay: float, every: int, warmup_epochs: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._every, self._begin = every, math.ceil(warmup_epochs)
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._groups: dict[torch.dtype, tuple[list[torch.Tensor], list[torch.Tensor]]] = defaultdict(lambda: ([], []))
        for ours, theirs in zip(_tensors(self.model), _tensors(model), strict=True):
            averages, values = self._groups[ours.dtype]
            averages.append(ours)
            values.append(theirs)

    @torch.no_grad()
    def update(self, epoch: int, step: int) -> None:
        """Average after step ``step`` of an epoch, counted from 0. Does not wait for the device."""
        if step % self._every:
            return
        anew = epoch < self._begin or (epoch, step) == (self._begin, 0)
        for averages, values in self._groups.values():
            if anew:
                torch._foreach_copy_(averages, values)
            else:
                self._average(averages, values, None)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in itertools.chain(model.parameters(), model.buffers())]


def note_on_averages(config: Config, steps_per_epoch: int) -> str | None:
    """A sentence for a run that is short for its decay. Raises ConfigError for one that averages nothing."""
    decay, every, warmup = config.train.ema_decay, config.train.ema_every, config.optim.warmup_epochs
    if not decay:
        return None
    updates = (config.train.epochs - math.ceil(warmup)) * math.ceil(steps_per_epoch / every) - 1
    if updates < 1:
        raise ConfigError(
            f"train.ema_decay={decay:g} averages nothing: {config.train.epochs} epochs of {steps_per_epoch} steps "
            f"with optim.warmup_epochs={warmup:g} and train.ema_every={every} take no average after the one that the "
            "averages begin with. Lower train.ema_every, train longer, or leave out train.ema_decay."
        )
    left = decay**updates
    if left <= _NOTICED:
        return None
    return (
        f"warning: train.ema_decay={decay:g} is slow for a run that averages {updates:,} times: {100 * left:.0f} % of "
        f"the result will be the weights that the averages begin with. With {0.01 ** (1 / updates):.3g} it is 1 %."
    )
