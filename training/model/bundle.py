"""A model by its name, with all that belongs to it: the name's prefix tells the library of models that builds it."""

import importlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import nn

from training.config.train_options import ModelConfig
from training.model.class_order import Classes
from training.model.weights import Weights

RGB = tuple[float, float, float]

MEAN: RGB = (0.485, 0.456, 0.406)
STD: RGB = (0.229, 0.224, 0.225)
"""The standard deviation of ImageNet's RGB values in [0, 1]."""

BUILDERS = {"": "training.model.torchvision_models", "timm": "training.model.timm_models"}
"""Prefix of ``model.name`` (``PREFIX/NAME``; none: "") → the module that is its ``Builder``, imported when needed."""


@dataclass(frozen=True)
class Preprocessing:
    """How images of a validation are made: side of the crop and shorter side before it in pixels, and how resized."""

    image_size: int
    resize: int
    interpolation: str


class OwnPreprocessing(NamedTuple):
    """How the images of weights were made when those who made them evaluated them."""

    who: str
    """Has evaluated which weights, as the end of a sentence; where ``images`` is None, why that is not known."""
    images: Preprocessing | None
    warning: str = ""
    """What this trainer cannot do as they did, as a sentence."""


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
    """The standard deviation of the pixels in [0, 1], by which the inputs are normalised."""
    auxiliary_weight: float = 0.0
    """The weight of each auxiliary classifier's loss, for a model that answers (logits, auxiliary logits, …)."""
    weights: Weights | None = None
    """The file that its weights came from."""
    evaluated: Preprocessing | None = None
    """How the images were made on which those weights were evaluated, where that is known."""
    new_head: bool = False
    """Whether the classifier begins at random, beside weights that are taken for all else."""
    outputs: int = 0
    """Classes of the model; 0: as many as were asked for."""
    classes: Classes | None = None
    """In an evaluation: the model's class of each folder, if the names of the folders tell it."""
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

    def classes_of_weights(self, config: ModelConfig) -> tuple[int, tuple[str, ...]]:
        """(how many classes ``model.weights`` have, 0 where nothing tells; their names, if a run recorded them).

        Raises as ``own_preprocessing``.
        """
        ...

    def own_preprocessing(self, config: ModelConfig, side: int | None) -> OwnPreprocessing:
        """That of ``model.weights``, for crops of ``side`` pixels where they are to have another side than theirs.

        Raises ConfigError for a model that is unknown and for weights that cannot be read.
        """
        ...


def builder(name: str) -> Builder:
    """Return the builder of the model ``name``; a name without a known prefix goes to torchvision's."""
    prefix = name.partition("/")[0] if "/" in name else ""
    return cast(Builder, importlib.import_module(BUILDERS.get(prefix, BUILDERS[""])))


def recorded_classes(given: Weights) -> tuple[int, tuple[str, ...]]:
    """(how many classes the weights of a file have, 0 where nothing tells; their names, if a run recorded them)."""
    names = given.model_facts.get("classes")
    names = tuple(names.split("/")) if isinstance(names, str) and names else ()
    outputs = given.model_facts.get("outputs")
    if isinstance(outputs, int):
        return outputs, names
    of_imagenet = any(value.ndim == 1 and len(value) == 1000 for value in given.tensors.values())  # a bias
    return 1000 if of_imagenet else len(names), names


def of_side(images: Preprocessing | None, side: int | None) -> Preprocessing | None:
    """The same share of the image in a crop of ``side`` pixels; None for side: as it is."""
    if images is None or side in (None, images.image_size):
        return images
    assert side is not None
    return Preprocessing(side, side * images.resize // images.image_size, images.interpolation)


def validated_on(given: Weights) -> tuple[str, Preprocessing | None]:
    """Who has evaluated the weights of a file on which images, in words; ("", None) for one that is not a run's."""
    data = given.config.get("data", {})
    names = ("val_image_size", "val_resize", "interpolation")
    if not isinstance(data, dict) or not all(name in data for name in names):
        return "", None
    return f"{given.path} was validated", Preprocessing(*(data[name] for name in names))


def preprocessing_note(who: str, theirs: Preprocessing | None, ours: Preprocessing) -> str | None:
    """A sentence if weights were evaluated on images made in another way than this run's."""
    if theirs is None or theirs == ours:
        return None
    return (
        f"note: {who} with data.val_image_size={theirs.image_size} data.val_resize={theirs.resize} "
        f"data.interpolation={theirs.interpolation}; this run uses {ours.image_size}, {ours.resize} and "
        f"{ours.interpolation}."
    )


def normalise(images: torch.Tensor, mean: RGB, std: RGB, channels_last: bool) -> torch.Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W], (x / 255 - mean) / std, on the images' device."""
    means, stds = _of_a_row(mean, std, images.device, images.shape[2])
    # By whole rows: over an axis of three channels a CPU takes four times as long.
    scaled = images.float().flatten(2).sub_(means).div_(stds).reshape(images.shape)
    nchw = scaled.permute(0, 3, 1, 2)  # NHWC memory seen as NCHW is exactly torch.channels_last
    return nchw if channels_last else nchw.contiguous()


@lru_cache
def _of_a_row(mean: RGB, std: RGB, device: torch.device, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """255 times ``mean`` and ``std`` for each value of a row of ``width`` pixels, float32 [3 * width]."""
    means, stds = (torch.tensor(values, device=device).mul(255).repeat(width) for values in (mean, std))
    return means, stds


def denormalise(images: torch.Tensor, mean: RGB, std: RGB) -> torch.Tensor:
    """float [n, 3, H, W] as the model sees it, to [0, 1] for a person."""
    means, stds = (torch.tensor(values, device=images.device)[:, None, None] for values in (mean, std))
    return (images * stds + means).clamp(0, 1)
