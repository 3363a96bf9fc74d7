"""Dropout and stochastic depth of torchvision's models, by ``model.dropout`` and ``model.drop_path``."""

from typing import Any

import torchvision
from torch import nn
from torchvision.ops import StochasticDepth

from sources.errors import ConfigError
from training.config.train_options import ModelConfig
from training.model.image_sizes import AUXILIARY_LOSS_WEIGHT, without_memory


def dropout_options(config: ModelConfig) -> dict[str, Any]:
    """What torchvision's builder gets for ``model.dropout``. Raises ConfigError for a model that has no dropout."""
    if config.dropout is None:
        return {}
    options: dict[str, Any] = {"drop_rate" if config.name.startswith("densenet") else "dropout": config.dropout}
    extra = {"init_weights": False} if config.name in AUXILIARY_LOSS_WEIGHT else {}
    try:
        without_memory(lambda: torchvision.models.get_model(config.name, weights=None, **options, **extra))
    except TypeError:
        raise ConfigError(
            f"model.dropout={config.dropout:g}: {config.name} of torchvision has no dropout to set. Leave it out, or "
            f"take timm/{config.name}, if timm has it."
        ) from None
    return options


def set_drop_path(model: nn.Module, config: ModelConfig) -> None:
    """Have the last block dropped with the probability ``model.drop_path``, and earlier ones less, as they are graded.

    Raises ConfigError for a model without stochastic depth.
    """
    if config.drop_path is None:
        return
    layers = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if not layers:
        raise ConfigError(
            f"model.drop_path={config.drop_path:g}: {config.name} of torchvision has no stochastic depth; ConvNeXt, "
            f"Swin, EfficientNet and MaxViT have. Leave it out, or take timm/{config.name}, if timm has it."
        )
    rate = _own_rate(model, layers)
    for layer in layers:
        layer.p = config.drop_path * (layer.p / rate)


def _own_rate(model: nn.Module, layers: list[StochasticDepth]) -> float:
    """``stochastic_depth_prob`` of which torchvision's model was made: its last block has it, of EfficientNet less."""
    largest = max(layer.p for layer in layers)
    if not isinstance(model, torchvision.models.EfficientNet):
        return largest
    # Blocks are graded by their number of all, so that the last of n has (n - 1) / n of the rate.
    return largest * len(layers) / (len(layers) - 1)
