"""A model by its name, with all that belongs to it: the name's prefix tells the library of models that builds it."""

import importlib
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from torch import nn

from training.config.schema import ModelConfig
from training.model.normalisation import RGB
from training.model.weights import Weights

BUILDERS = {"": "training.model.torchvision_models"}
"""Prefix of ``model.name`` (``PREFIX/NAME``; none: "") → the module that is its ``Builder``, imported when needed."""


@dataclass(frozen=True)
class Preprocessing:
    """How images of a validation are made: side of the crop and shorter side before it in pixels, and how resized."""

    image_size: int
    resize: int
    interpolation: str


@dataclass(frozen=True)
class Inputs:
    """The images that a run has for its model."""

    train_size: int | None
    """Side in pixels of those of training; None: evaluation alone."""
    val: Preprocessing
    passes_of_one: int = 0
    """Into how many passes a global batch is split, if each has one image alone."""


@dataclass(frozen=True)
class Bundle:
    """A model on the CPU, and what training and validating it must know."""

    module: nn.Module
    mean: RGB
    std: RGB
    """Of the pixels in [0, 1], by which its inputs are normalised."""
    auxiliary_weight: float = 0.0
    """Of the loss of each auxiliary classifier, for a model that answers (logits, auxiliary logits, …)."""
    weights: Weights | None = None
    """The file that its weights came from."""
    evaluated: Preprocessing | None = None
    """How the images were made on which those weights were evaluated, where that is known."""
    notes: tuple[str, ...] = ()
    """What somebody who trains it should be told."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What a checkpoint must tell of it besides its weights."""


class Builder(Protocol):
    """What a module of ``BUILDERS`` has."""

    def require_model(self, name: str) -> None:
        """Raise ConfigError, and say what there is, if there is no model of this name."""
        ...

    def build(self, config: ModelConfig, num_classes: int, inputs: Inputs) -> Bundle:
        """Raises ConfigError for a model that cannot take the inputs, UserError for weights that do not fit."""
        ...


def builder(name: str) -> Builder:
    """Of the model ``name``; where no builder has its prefix, torchvision's, which will say so."""
    prefix = name.partition("/")[0] if "/" in name else ""
    return cast(Builder, importlib.import_module(BUILDERS.get(prefix, BUILDERS[""])))


def preprocessing_note(who: str, theirs: Preprocessing | None, ours: Preprocessing) -> str | None:
    """A sentence if weights were evaluated on images made in another way than this run's."""
    if theirs is None or theirs == ours:
        return None
    return (
        f"note: {who} with data.val_image_size={theirs.image_size} data.val_resize={theirs.resize} "
        f"data.interpolation={theirs.interpolation}; this run uses {ours.image_size}, {ours.resize} and "
        f"{ours.interpolation}."
    )
