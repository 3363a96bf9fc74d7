"""torchvision's classification models: by name, with the right number of classes, with or without weights."""

import difflib
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from aistore_data.errors import ConfigError, UserError
from training.config import ModelConfig

AUXILIARY_LOSS_WEIGHT = {"inception_v3": 0.4, "googlenet": 0.3}
"""Weight of each auxiliary classifier's loss: 0.3 in Szegedy et al. 2014 (GoogLeNet); 0.4 is the field's for v3."""


def build_model(config: ModelConfig, num_classes: int, train_size: int | None, val_size: int) -> nn.Module:
    """The model on the CPU, with random or the given weights.

    ``train_size`` and ``val_size`` are the sides of its images in pixels (``train_size`` None: evaluation alone); a
    model that cannot take them, or is unknown, or weights that do not fit, raise ConfigError.
    """
    require_model(config.name)
    options = _builder_options(config.name, val_size)
    _check_sizes(config.name, num_classes, options, train_size, val_size)
    if not config.weights:
        return torchvision.models.get_model(config.name, weights=None, num_classes=num_classes, **options)
    if config.weights in (choices := [w.name for w in torchvision.models.get_model_weights(config.name)]):
        return _with_torchvision_weights(config, num_classes, train_size is not None)
    path = Path(config.weights)
    if not path.is_file():
        raise ConfigError(
            f"model.weights={config.weights} is neither a file nor a name of torchvision's weights for {config.name} "
            f"({', '.join(choices)})."
        )
    model = torchvision.models.get_model(config.name, weights=None, num_classes=num_classes, **options)
    load_weights(model, read_weights(path), f"model.weights={path}", config.name)
    return model


def require_model(name: str) -> None:
    """Raise ConfigError if torchvision has no classification model of this name."""
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        raise ConfigError(
            f"model.name={name} is not a classification model of torchvision {torchvision.__version__}: "
            + (f"did you mean {', '.join(near)}?" if near else f"choose among {', '.join(names)}.")
        )


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from a file: plain, or under "model" (ours, timm's) or "state_dict" (pytorch/examples).

    Prefixes that DistributedDataParallel and torch.compile leave behind are dropped. Raises ConfigError.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its zip and pickle readers do
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"model.weights={path} is not a file of weights that torch can load safely: {reason}"
        ) from None
    if isinstance(content, dict):
        content = content.get("model", content.get("state_dict", content))
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ConfigError(
            f"model.weights={path} holds no state dict: a dict of tensors, or one under 'model', is needed."
        )
    return {name.removeprefix("module.").removeprefix("_orig_mod."): value for name, value in content.items()}


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: str, model_name: str) -> None:
    """Load all of ``weights`` into ``model``. Raises UserError that names what does not fit."""
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is unknown" for name in weights if name not in own]
    problems += [
        f"{name} has shape {list(weights[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        rest = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"{source} does not fit {model_name}: {'; '.join(problems[:3])}{rest}. "
            "Check model.name, and model.num_classes against the classes of the data."
        )
    model.load_state_dict(weights)


def preprocessing_note(config: ModelConfig, size: int, resize: int, interpolation: str) -> str | None:
    """A sentence if torchvision's weights were evaluated with another preprocessing than the configured one."""
    weights = {w.name: w for w in torchvision.models.get_model_weights(config.name)}.get(config.weights)
    if weights is None:
        return None
    preset = weights.transforms()
    theirs = (preset.crop_size[0], preset.resize_size[0], preset.interpolation.value)
    if theirs == (size, resize, interpolation):
        return None
    return (
        f"note: torchvision evaluated {config.name} {config.weights} with data.val_image_size={theirs[0]} "
        f"data.val_resize={theirs[1]} data.interpolation={theirs[2]}; "
        f"this run uses {size}, {resize} and {interpolation}."
    )


def _builder_options(name: str, size: int) -> dict[str, Any]:
    if name in AUXILIARY_LOSS_WEIGHT:
        return {"init_weights": True}
    return {"image_size": size} if name.startswith("vit_") else {}


def _check_sizes(name: str, classes: int, options: dict[str, Any], train_size: int | None, val_size: int) -> None:
    """Run the model on shapes alone, so that a size that it cannot take is said before any data are read."""
    if "init_weights" in options:
        options = {"init_weights": False}
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
        for training, size, field in ((True, train_size, "image_size"), (False, val_size, "val_image_size")):
            if size is None:
                continue
            try:
                model.train(training)(torch.empty(2, 3, size, size))
            except (RuntimeError, AssertionError, ValueError) as error:
                raise ConfigError(f"{name} cannot take images of data.{field}={size}: {str(error).strip()}") from None


def _with_torchvision_weights(config: ModelConfig, num_classes: int, training: bool) -> nn.Module:
    weights = torchvision.models.get_model_weights(config.name)[config.weights]
    categories = len(weights.meta["categories"])
    if categories != num_classes:
        raise ConfigError(
            f"model.weights={config.weights} are for {categories} classes, but the model is to have {num_classes}: "
            "the data must be a folder with the same classes, or give model.num_classes and weights that match it."
        )
    options = {"aux_logits": True} if training and config.name in AUXILIARY_LOSS_WEIGHT else {}
    try:
        return torchvision.models.get_model(config.name, weights=weights, **options)
    except OSError as error:
        raise UserError(
            f"{weights.url} could not be downloaded: {error}. On a machine without internet, put the file into "
            f"{torch.hub.get_dir()}/checkpoints/ or give its path as model.weights."
        ) from None
