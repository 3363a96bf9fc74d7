"""Optimisers by name: torch's classes, and timm's for what torch has not. Another one is a line of ``OPTIMIZERS``."""

import difflib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, NAdam, Optimizer, RMSprop

from sources.errors import ConfigError
from training.config.train_options import OPTIMIZER_DEFAULTS, TIMM, OptimConfig
from training.optim.groups import parameter_groups

Groups = list[dict[str, Any]]


def _timms(groups: Groups, **settings: Any) -> Optimizer:
    """One of timm's, which alone handles every shape: torch's Muon takes matrices and no kernels."""
    from timm.optim import create_optimizer_v2  # here, since its import takes a second

    if not any("lr_scale" in group for group in groups):
        groups = groups[::-1]  # timm's order, in which lamb adds up the norm of the gradients
    return create_optimizer_v2(groups, **settings)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "adamw": AdamW,
    "nadamw": lambda groups, **settings: NAdam(groups, decoupled_weight_decay=True, **settings),
    "rmsprop": RMSprop,
    "muon": lambda groups, **settings: _timms(groups, opt="muon", **settings),
    "lamb": lambda groups, **settings: _timms(groups, opt="lamb", **settings),
}
"""Name → what makes the optimiser of parameter groups, which have their own rate and weight decay."""

_NESTEROV = ("sgd", "muon")

_NOT_RESUMED = ("adafactorbv", "kron")
"""Families of timm's optimisers whose state a checkpoint does not bring back: torch turns bfloat16 into float32, and
Kron keeps a random generator of its own."""


def build_optimizer(model: nn.Module, options: OptimConfig, batch_size: int = 0) -> torch.optim.Optimizer:
    """The optimiser ``options.name`` of all parameters of the model that are trained, for a global batch.

    Raises ConfigError for one that timm lacks, and for a model that ``optim.layer_decay`` cannot grade.
    """
    require_optimizer(options.name)
    rate = options.peak(batch_size)
    groups = parameter_groups(model, options, rate)
    if options.name.startswith(TIMM):
        given = {name: getattr(options, name) for name in ("momentum", "betas", "eps")}
        given = {name: value for name, value in given.items() if value is not None}
        return _timms(groups, opt=options.name.removeprefix(TIMM), lr=rate, **given)
    settings = {name: getattr(options, name) for name in OPTIMIZER_DEFAULTS[options.name]}
    if options.name in _NESTEROV:
        settings["nesterov"] = options.nesterov
    return OPTIMIZERS[options.name](groups, lr=rate, **settings)


def require_optimizer(name: str) -> None:
    """Raise ConfigError for an optimiser ``timm/NAME`` that timm lacks, or that this trainer cannot drive or resume."""
    if not name.startswith(TIMM):
        return
    import timm
    from timm.optim import list_optimizers

    plain, known = name.removeprefix(TIMM), list_optimizers()
    if plain in known and (why := _why_not(plain)):
        raise ConfigError(f"optim.name={name} is not taken: {why}.")
    if plain not in known:
        usable = [one for one in known if not _why_not(one)]
        near = difflib.get_close_matches(plain, usable, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(TIMM + one for one in near)}?" if near else f"it has {', '.join(usable)}."
        raise ConfigError(f"optim.name={name}: timm {timm.__version__} has no optimiser {plain}: {hint}")


def _why_not(name: str) -> str:
    """The end of a sentence on an optimiser of timm's that is not taken; else empty."""
    from timm.optim import get_optimizer_info

    info = get_optimizer_info(name)
    if isinstance(info.opt_class, str):
        return "it is of APEX or bitsandbytes, which this trainer does not use"
    if info.second_order:
        return "it needs second derivatives, which this trainer does not compute"
    if any(part in name for part in _NOT_RESUMED):
        return "a run that is killed and goes on would not end with the same weights"
    return ""
