"""Which images a model can take: found by running it on shapes alone, before any data are read."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

from sources.errors import ConfigError

AUXILIARY_LOSS_WEIGHT = {"inception_v3": 0.4, "googlenet": 0.3}
"""Weight of each auxiliary classifier's loss: 0.3 in Szegedy et al. 2014 (GoogLeNet); 0.4 is the field's for v3."""

_LARGEST_TRIED = 512
"""Pixels up to which a size is looked for that a model can take."""


def builder_options(name: str, size: int) -> dict[str, Any]:
    """What torchvision's builder needs besides the classes, for images of ``size`` pixels."""
    if name in AUXILIARY_LOSS_WEIGHT:
        return {"init_weights": True}
    return {"image_size": size} if name.startswith("vit_") else {}


def check_sizes(name: str, classes: int, options: dict[str, Any], train_size: int | None, val_size: int) -> None:
    """Raise ConfigError, before any data are read, for a size that the model cannot take.

    ``options`` are those of ``builder_options``; ``train_size`` is None for an evaluation.
    """
    model = on_meta(name, classes, options)
    for training, size, field in ((True, train_size, "image_size"), (False, val_size, "val_image_size")):
        if size is not None and (found := problem(model, training, size)):
            raise ConfigError(
                f"{name} cannot take images of data.{field}={size}: {_remedy(name, model, training, size, field)} "
                f"({found})"
            )


def check_batch_of_one(name: str, model: nn.Module, image_size: int, parts: int) -> None:
    """Raise ConfigError for a model that cannot be trained on one image at a time: BatchNorm needs two values.

    ``model`` is without memory; ``parts``: into how many passes a global batch is split.
    """
    found = problem(model, True, image_size, images=1)
    if "more than 1 value" in found:
        raise ConfigError(
            f"train.batch_size={parts} leaves one image for each pass ({parts} = processes x train.accumulate), and "
            f"{name} has BatchNorm, which needs more values than one for a channel at data.image_size={image_size}: "
            f"use train.batch_size={2 * parts} or more. ({found})"
        )


def check_sides(name: str, model: nn.Module, sides: Iterable[int]) -> None:
    """Raise ConfigError for one of data.sizes that the model, of whichever library, cannot be trained on."""
    shapes = copy.deepcopy(model).to("meta").float()
    for side in sides:
        if found := problem(shapes, True, side):
            raise ConfigError(
                f"{name} cannot take images of {side} pixels, as data.sizes has them ({found}): choose sides that it "
                "takes, or leave out data.sizes for a model that is built for one size alone."
            )


class _WithoutMemory(TorchFunctionMode):
    """Parameters are made without memory, as ``torch.device("meta")`` does with all tensors.

    RegNet computes its widths with tensors, which must therefore have values.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """``torch.empty``, of which layers make their parameters, answers a tensor on the device meta."""
        return func(*args, **(kwargs or {}) | ({"device": "meta"} if func is torch.empty else {}))


def on_meta(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    """torchvision's model without weights or memory."""
    options = options | {"init_weights": False} if name in AUXILIARY_LOSS_WEIGHT else options
    return without_memory(lambda: torchvision.models.get_model(name, weights=None, num_classes=classes, **options))


def without_memory(make: Callable[[], nn.Module]) -> nn.Module:
    """The model that ``make`` makes, on the device meta."""
    with _WithoutMemory():
        model = make()
    return model.to("meta")


def problem(model: nn.Module, training: bool, size: int, images: int = 2) -> str:
    """What torch says of images of ``size`` pixels, by running the model on shapes alone; empty if nothing is wrong."""
    try:
        with torch.device("meta"), torch.no_grad():
            model.train(training)(torch.empty(images, 3, size, size))
    except (RuntimeError, AssertionError, ValueError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ""


def _remedy(name: str, model: nn.Module, training: bool, size: int, field: str) -> str:
    """What to do about a size: the smallest one above it that the model takes, or the one that it is made for."""
    if name.startswith("vit_"):
        patch = name.rpartition("_")[2]
        return (
            "it is built for one size alone, so data.image_size and data.val_image_size must be equal and a multiple "
            f"of {patch}."
        )
    low, high = size, 2 * size
    while problem(model, training, high):
        low, high = high, 2 * high
        if high > _LARGEST_TRIED:
            preset = next(iter(torchvision.models.get_model_weights(name))).transforms()
            return f"it is made for data.{field}={preset.crop_size[0]}."
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if problem(model, training, middle) else (low, middle)
    return f"it needs data.{field}={high} or more."
