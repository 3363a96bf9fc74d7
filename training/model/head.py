"""The classifier of a model: weights for other classes do not fit it, and then a new one begins."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from sources.errors import ConfigError
from training.config.train_options import ModelConfig

_LISTED = 4
"""Tensors that a sentence names."""


@dataclass(frozen=True)
class Head:
    """What becomes of the classifier, and of the auxiliary ones, when a model takes over weights."""

    classes: int
    """Outputs of the model."""
    theirs: int
    """Classes of the weights."""
    new: frozenset[str] = frozenset()
    """Names of the tensors that begin at random; none: the weights have them all."""
    note: str = ""
    """A sentence for who trains it."""

    def fill(self, weights: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
        """The weights, and for what begins anew the tensors that ``model`` gets here, as torch makes such layers.

        Libraries make a classifier for many classes: torchvision's and timm's EfficientNets draw its weights from
        ±1 / sqrt(classes), which for two classes is 25 times as much as torch's ±1 / sqrt(features).
        """
        for prefix, module in model.named_modules():
            if f"{prefix}.weight" in self.new and isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
        return weights | {name: value for name, value in model.state_dict().items() if name in self.new}


def class_axes(make: Callable[[int], nn.Module]) -> dict[str, int]:
    """Names of the tensors whose shape depends on the number of classes → on which axis.

    ``make`` makes the model for a number of classes, on the device meta; two of them are compared.
    """
    few, many = ({name: value.shape for name, value in make(classes).state_dict().items()} for classes in (3, 5))
    return {
        name: next(axis for axis, (a, b) in enumerate(zip(shape, many[name], strict=True)) if a != b)
        for name, shape in few.items()
        if shape != many[name]
    }


def choose_head(
    config: ModelConfig,
    shapes: Mapping[str, torch.Size],
    make: Callable[[int], nn.Module],
    num_classes: int,
    training: bool,
) -> Head:
    """What ``model.head`` makes of weights with tensors of these shapes, for data of ``num_classes`` classes.

    ``make`` is as in ``class_axes``. Raises ConfigError where the weights have fewer classes than are to be kept, and
    where a new classifier would be evaluated.
    """
    source = f"model.weights={config.weights}"
    ours = {name: value.shape for name, value in make(num_classes).state_dict().items()}
    if config.head == "auto" and shapes == ours:  # the ordinary case, in which no further model need be made
        return Head(num_classes, num_classes)
    axes = class_axes(make)
    found = {shapes[name][axis] for name, axis in axes.items() if name in shapes and axis < len(shapes[name])}
    theirs = max(found, default=0)  # auxiliary classifiers have as many
    if config.head == "keep":
        if theirs < num_classes:
            has = f"is for {theirs:,} classes" if theirs else "has no classifier"
            raise ConfigError(
                f"model.head=keep: {source} {has}, and the model is to have {num_classes:,}: leave model.head out, and "
                "training begins with a new classifier."
            )
        kept = f"the model keeps the {theirs:,} outputs of {source}, of which the data have the first {num_classes:,}."
        return Head(theirs, theirs, note=kept if theirs > num_classes else "")
    if config.head == "auto" and theirs == num_classes:
        return Head(num_classes, theirs)
    if not training:
        raise ConfigError(_not_evaluated(config, source, theirs, num_classes))
    why = "model.head=new" if config.head == "new" else f"the weights are for {theirs:,} classes"
    why = why if theirs or config.head == "new" else "the weights have none"
    names = sorted(axes, key=lambda name: (name.count("."), name))
    listed = ", ".join(names[:_LISTED]) + ", …" * (len(names) > _LISTED)
    return Head(
        num_classes,
        theirs,
        frozenset(axes),
        f"{source}: the classifier begins at random for {num_classes:,} classes, since {why} ({listed}); all else is "
        "taken from the weights.",
    )


def _not_evaluated(config: ModelConfig, source: str, theirs: int, num_classes: int) -> str:
    if config.head == "new":
        return "model.head=new: an evaluation needs the classifier that the weights were trained with."
    if not theirs:
        return f"{source} has no classifier, and an evaluation needs the one that it was trained with."
    first = ", or model.head=keep where the folders are the first of them in their order" * (theirs > num_classes)
    return (
        f"{source} is for {theirs:,} classes, and the model is to have {num_classes:,}: an evaluation needs the "
        f"classes that the weights were trained for. Take data with these{first}."
    )
