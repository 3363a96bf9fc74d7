"""Which parameters are not trained, and normalisation that stays as it is with them."""

import difflib
import fnmatch
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sources.errors import ConfigError


def freeze(model: nn.Module, what: str) -> str:
    """Leave out of training what ``train.freeze`` says, and answer a sentence about it; empty if all is trained.

    ``nothing``; ``head``: all but the last layer; or patterns of parameters' names, with commas between them. Raises
    ConfigError for a pattern that no name matches, and where nothing would be trained.
    """
    if what == "nothing":
        return ""
    named = dict(model.named_parameters())
    if what == "head":
        head = {id(parameter) for parameter in _head(model).parameters()}
        frozen = [name for name, parameter in named.items() if id(parameter) not in head]
    else:
        patterns = [pattern.strip() for pattern in what.split(",")]
        frozen = [name for name in named if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
        for pattern in patterns:
            if not any(fnmatch.fnmatch(name, pattern) for name in named):
                near = difflib.get_close_matches(pattern, named, n=3, cutoff=0)
                raise ConfigError(
                    f"train.freeze={what}: no parameter of the model is called {pattern!r}; there are {', '.join(near)}"
                    " and others. A * stands for any part of a name, as in layer1.*."
                )
    if len(frozen) == len(named):
        raise ConfigError(f"train.freeze={what} leaves nothing to train.")
    for name in frozen:
        named[name].requires_grad = False
    return f"train.freeze={what}: {len(frozen)} of {len(named)} parameter tensors are not trained."


def _head(model: nn.Module) -> nn.Module:
    """The classifier: timm's models name it, and of torchvision's it is the last layer with weights."""
    own: Any = getattr(model, "get_classifier", None)
    if own is not None:
        found = own()
        return found if isinstance(found, nn.Module) else nn.ModuleList(found)
    return [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]


def set_training(model: nn.Module) -> None:
    """Put the model into training mode, but for frozen BatchNorm, whose running statistics stay as they are."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.weight is not None and not module.weight.requires_grad:
            module.eval()
