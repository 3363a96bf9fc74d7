"""torchvision's classification models: by name, with the right number of classes, with or without weights."""

import difflib
import functools
import hashlib
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from sources.errors import ConfigError, UserError
from training.config.train_options import ModelConfig
from training.model.bundle import (
    MEAN,
    STD,
    Bundle,
    Inputs,
    OwnPreprocessing,
    Preprocessing,
    of_side,
    preprocessing_note,
    recorded_classes,
    validated_on,
)
from training.model.head import Head, choose_head
from training.model.image_sizes import (
    AUXILIARY_LOSS_WEIGHT,
    builder_options,
    check_batch_of_one,
    check_sizes,
    on_meta,
)
from training.model.positions import fit_positions
from training.model.regularisation import dropout_options, set_drop_path
from training.model.weights import Weights, load_weights, read_weights, under_own_names

_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
"""What the names of auxiliary classifiers begin with."""


def build(config: ModelConfig, num_classes: int, inputs: Inputs) -> Bundle:
    """The model on the CPU, with random weights or those of ``model.weights``; all have the same mean and std.

    Raises ConfigError or UserError for a model that is unknown or cannot take the images, and for weights that do not
    fit.
    """
    require_model(config.name)
    if config.kwargs:
        raise ConfigError(f"model.kwargs={config.kwargs[0]} is for models of timm, timm/NAME, and not {config.name}.")
    size, training = inputs.val.image_size, inputs.train_size is not None
    dropout = dropout_options(config)
    options = builder_options(config.name, size) | dropout
    check_sizes(config.name, num_classes, options, inputs.train_size, size)
    if inputs.train_size and inputs.passes_of_one:
        skeleton = on_meta(config.name, num_classes, options)
        check_batch_of_one(config.name, skeleton, inputs.train_size, inputs.passes_of_one)
    given = open_weights(config)
    head = head_of(config, given, num_classes, training, size)
    fitted = ""
    if config.weights in names_of_weights(config.name):
        model, fitted = _with_torchvision_weights(config, head, training, options, dropout)
    elif given:
        model, fitted = _with_weights_of_file(config.name, given, head, options, training)
    else:
        model = torchvision.models.get_model(config.name, weights=None, num_classes=num_classes, **options)
    set_drop_path(model, config)
    who, images = evaluated(config, given)
    notes = weights_notes(config.name, given, model, head.theirs) if given else []
    notes += [head.note, fitted]
    if inputs.train_size:  # an evaluation has said already how its images are made
        notes.append(preprocessing_note(who, images, inputs.val) or "")
    return Bundle(
        module=model,
        mean=MEAN,
        std=STD,
        auxiliary_weight=AUXILIARY_LOSS_WEIGHT.get(config.name, 0.0),
        weights=given,
        evaluated=images,
        new_head=bool(head.new),
        outputs=head.classes,
        notes=tuple(filter(None, notes)),
        facts={"transform_input": model.transform_input} if hasattr(model, "transform_input") else {},
    )


def open_weights(config: ModelConfig) -> Weights | None:
    """What the file ``model.weights`` holds; None for torchvision's weights and for none. Raises ConfigError."""
    require_model(config.name)
    choices = names_of_weights(config.name)
    if not config.weights or config.weights in choices:
        return None
    path = Path(config.weights)
    if path.is_dir():
        raise ConfigError(
            f"model.weights={path} is a folder: give the file of weights in it, such as {path / 'checkpoints/best.pt'} "
            "of a run of this trainer."
        )
    if not path.is_file():
        raise ConfigError(
            f"model.weights={config.weights} is neither a file nor a name of torchvision's weights for {config.name} "
            f"({', '.join(choices)})."
        )
    return read_weights(path)


def head_of(config: ModelConfig, given: Weights | None, num_classes: int, training: bool, val_size: int) -> Head:
    """What becomes of the classifier; raises as ``choose_head``. ``given``: what ``open_weights`` answers."""
    if not config.weights:
        return Head(num_classes, num_classes)
    options = builder_options(config.name, val_size)

    @functools.cache
    def make(classes: int) -> nn.Module:
        return on_meta(config.name, classes, options)

    if given:
        tensors, _ = under_own_names(given.tensors, make(num_classes))
    else:
        weights = torchvision.models.get_model_weights(config.name)[config.weights]
        tensors = make(len(weights.meta["categories"])).state_dict()
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return choose_head(config, shapes, make, num_classes, training)


def require_model(name: str) -> None:
    """Raise ConfigError if torchvision has no classification model of this name."""
    names = torchvision.models.list_models(module=torchvision.models)
    if name in names:
        return
    if name in torchvision.models.list_models():
        kind = torchvision.models.get_model_builder(name).__module__.split(".")[2]
        raise ConfigError(
            f"model.name={name} is torchvision's, but a model of {kind}: this trainer takes classification models, "
            f"such as {(difflib.get_close_matches(name, names, n=1, cutoff=0) or names)[0]}."
        )
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    several = " Several values are a sweep: add --multirun." if "," in name else ""
    raise ConfigError(
        f"model.name={name} is not a classification model of torchvision {torchvision.__version__}: "
        + (f"did you mean {', '.join(near)}?" if near else f"choose among {', '.join(names)}.")
        + several
    )


@functools.cache
def published(name: str, path: Path) -> Any:
    """The weights of torchvision that the file ``path`` is, told by its name or its SHA-256; None if it is another."""
    for weights in torchvision.models.get_model_weights(name):
        url_name = str(weights.url).rpartition("/")[2]
        hashed = url_name.rpartition("-")[2].partition(".")[0]
        if path.name == url_name:
            return weights
        expected = float(weights.meta.get("_file_size", 0)) * 2**20
        if expected and abs(path.stat().st_size / expected - 1) < 0.01:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest().startswith(hashed):
                    return weights
    return None


def evaluated(config: ModelConfig, given: Weights | None) -> tuple[str, Preprocessing | None]:
    """Who has evaluated ``model.weights`` on which images, in words; ("", None) where that is not known.

    ``given``: what their file holds, if they are a file's.
    """
    path, theirs = Path(config.weights), torchvision.models.get_model_weights(config.name)
    named = next((weights for weights in theirs if weights.name == config.weights), None)
    weights = named or (published(config.name, path) if path.is_file() else None)
    if weights is not None:
        preset = weights.transforms()
        images = Preprocessing(preset.crop_size[0], preset.resize_size[0], preset.interpolation.value)
        return f"torchvision evaluated {config.name} {weights.name}", images
    return validated_on(given) if given else ("", None)


def classes_of_weights(config: ModelConfig) -> tuple[int, tuple[str, ...]]:
    """Implement ``Builder.classes_of_weights``."""
    given = open_weights(config)
    if given is not None:
        return recorded_classes(given)
    return len(torchvision.models.get_model_weights(config.name)[config.weights].meta["categories"]), ()


def own_preprocessing(config: ModelConfig, side: int | None) -> OwnPreprocessing:
    """As ``Builder`` has it: by ``weights.transforms()`` of torchvision, or what a checkpoint of ours recorded."""
    given = open_weights(config)
    who, images = evaluated(config, given)
    return OwnPreprocessing(who or f"nothing says how {config.weights} was evaluated", of_side(images, side))


def transforms_input(name: str, weights: Weights, num_classes: int) -> bool:
    """Whether inception_v3 or googlenet is to change its normalised inputs to the range from -1 to 1.

    torchvision does so for its published weights alone, which came from TensorFlow, and state dicts do not tell. A
    checkpoint of this trainer records it. Of other files, torchvision's own are taken for such, and so is a plain state
    dict of 1,000 classes, since torchvision publishes it so and training scripts save theirs among other things.
    """
    if weights.ours:
        begun_from = weights.config.get("model", {}).get("weights", "")
        return bool(weights.model_facts.get("transform_input", begun_from in names_of_weights(name)))
    return (weights.plain and num_classes == 1000) or published(name, weights.path) is not None


def _with_weights_of_file(
    name: str, given: Weights, head: Head, options: dict[str, Any], training: bool
) -> tuple[nn.Module, str]:
    """The model, and a sentence where its position embeddings were resampled."""
    auxiliary = name in AUXILIARY_LOSS_WEIGHT
    if auxiliary:
        options = options | {
            "init_weights": bool(head.new),
            "transform_input": transforms_input(name, given, head.theirs),
        }
        options["aux_logits"] = training or given.ours or name == "inception_v3"  # as torchvision has it by name
    model = torchvision.models.get_model(name, weights=None, num_classes=head.classes, **options)
    tensors, _ = under_own_names(given.tensors, model)
    if auxiliary and not options["aux_logits"]:
        tensors = {key: value for key, value in tensors.items() if not key.startswith(_AUXILIARY)}
    elif auxiliary and not any(key.startswith(_AUXILIARY) for key in tensors):
        tensors |= {key: value for key, value in model.state_dict().items() if key.startswith(_AUXILIARY)}
    source = f"model.weights={given.path}"
    tensors, fitted = fit_positions(tensors, model, head.new, source)
    load_weights(model, head.fill(tensors, model), source, name)
    return model, fitted


def weights_notes(name: str, given: Weights, model: nn.Module, num_classes: int) -> list[str]:
    """Sentences on what was chosen in a file of weights, and how the model reads its inputs."""
    notes = list(given.notes)
    _, beside = under_own_names(given.tensors, model)
    beside = [key for key in beside if key != "n_averaged"]
    if beside:
        notes.append(f"model.weights={given.path}: {len(beside)} tensors beside the model were left: {beside[0]}, …")
    if name in AUXILIARY_LOSS_WEIGHT:
        notes.append(_note_on_inputs(name, given, num_classes))
        own = any(key.startswith(_AUXILIARY) for key in model.state_dict())
        if own and not any(part in key for key in given.tensors for part in _AUXILIARY):
            notes.append(f"model.weights={given.path} has no auxiliary classifiers: those of {name} begin at random.")
    return notes


def _note_on_inputs(name: str, given: Weights, num_classes: int) -> str:
    where = f"model.weights={given.path}"
    if transforms_input(name, given, num_classes):
        return (
            f"{where}: {name} changes its inputs to the range from -1 to 1, for which torchvision's published weights "
            "were made (transform_input=True)."
        )
    if given.ours:
        return f"{where}: {name} takes its inputs as they are normalised, as in the run that made them."
    return (
        f"{where}: {name} takes its inputs as they are normalised (transform_input=False), as a model does that was "
        "trained from scratch. If these weights began as torchvision's published ones, save them as a plain state dict "
        "of 1,000 classes, which is read with transform_input=True."
    )


def names_of_weights(name: str) -> list[str]:
    """Return the names of torchvision's weights for a model, which ``model.weights`` may give instead of a file."""
    return [weights.name for weights in torchvision.models.get_model_weights(name)]


def _with_torchvision_weights(
    config: ModelConfig, head: Head, training: bool, options: dict[str, Any], dropout: dict[str, Any]
) -> tuple[nn.Module, str]:
    """The model, and a sentence where its position embeddings were resampled."""
    auxiliary = config.name in AUXILIARY_LOSS_WEIGHT
    weights = torchvision.models.get_model_weights(config.name)[config.weights]
    theirs = {"aux_logits": True} if training and auxiliary else {}
    try:
        model = torchvision.models.get_model(config.name, weights=weights, **theirs, **dropout)
    except OSError as error:
        raise UserError(
            f"{weights.url} could not be downloaded: {error}. On a machine without internet, put the file into "
            f"{torch.hub.get_dir()}/checkpoints/ or give its path as model.weights."
        ) from None
    except (RuntimeError, EOFError, ValueError) as error:
        raise UserError(
            f"torchvision's file of {config.name} {config.weights} in {torch.hub.get_dir()}/checkpoints cannot be "
            f"loaded: {str(error).strip().splitlines()[0]}. Remove it, and it is downloaded again."
        ) from None
    same_size = options.get("image_size") in (None, getattr(model, "image_size", None))
    if not head.new and same_size:
        return model, ""
    options = options | ({"transform_input": True} if auxiliary else {})
    anew = torchvision.models.get_model(config.name, weights=None, num_classes=head.classes, **options)
    tensors, fitted = fit_positions(model.state_dict(), anew, head.new, f"model.weights={config.weights}")
    anew.load_state_dict(head.fill(tensors, anew))
    return anew, fitted
