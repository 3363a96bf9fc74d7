"""timm's classification models, by ``timm/NAME``: with what their preprocessing is, and weights of a file or a tag."""

import ast
import difflib
import functools
import inspect
import math
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import BlurPool2d
from timm.models import get_arch_name, get_arch_pretrained_cfgs, get_pretrained_cfg, is_model, list_models
from torch import nn

from sources.errors import ConfigError, UserError
from training.config.train_options import TIMM, ModelConfig
from training.model.bundle import (
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
from training.model.image_sizes import check_batch_of_one, problem, without_memory
from training.model.positions import fit_positions
from training.model.weights import Weights, load_weights, read_weights, under_own_names

PRETRAINED = "timm"
"""``model.weights`` for the weights that timm takes by default; their tags name others."""

_OURS = {
    *inspect.signature(timm.create_model).parameters,
    *("num_classes", "img_size", "in_chans", "drop_rate", "drop_path_rate", "features_only", "out_indices"),
}
"""What ``model.kwargs`` may not hold: it is decided by other options, or would make no classifier."""


_LAYERS = {"blurpool": BlurPool2d, "blur": BlurPool2d, "avgpool": nn.AvgPool2d, "avg": nn.AvgPool2d}
"""Classes of ``aa_layer`` by timm's words for them, which its ResNets do not take."""


def build(config: ModelConfig, num_classes: int, inputs: Inputs) -> Bundle:
    """The model, with random weights or those of ``model.weights``, and the mean and std that timm has for it."""
    name, arguments = check(config, num_classes, inputs)
    given = _open(config)
    head = _head_of(config, given, name, num_classes, arguments, inputs.train_size is not None)
    notes = [head.note]
    if given is None and config.weights:
        model, who = _downloaded(config, name, head, arguments), f"timm evaluated {name} {config.weights}"
    else:
        model, who = _create(config, name, head.classes, arguments), ""
    if given is not None:
        tensors, beside = under_own_names(given.tensors, model)
        source = f"model.weights={given.path}"
        tensors, fitted = fit_positions(tensors, model, head.new, source)
        load_weights(model, head.fill(tensors, model), source, config.name)
        notes += [*given.notes, fitted]
        if beside:
            notes.append(
                f"model.weights={given.path}: {len(beside)} tensors beside the model were left: {beside[0]}, …"
            )
    cfg = get_pretrained_cfg(name)
    mean, std = tuple(cfg.mean), tuple(cfg.std)
    notes.append(f"{config.name}: pixels are normalised by timm's mean {mean} and std {std}.")
    size = cfg.input_size[-1]
    images = Preprocessing(size, math.floor(size / cfg.crop_pct), interpolation(cfg.interpolation)) if who else None
    if given is not None:
        who, images = validated_on(given)
    if inputs.train_size:  # an evaluation has said already how its images are made
        notes.append(preprocessing_note(who, images, inputs.val) or "")
    return Bundle(
        model,
        mean,
        std,
        weights=given,
        evaluated=images,
        new_head=bool(head.new),
        outputs=head.classes,
        notes=tuple(filter(None, notes)),
    )


def _head_of(
    config: ModelConfig, given: Weights | None, name: str, num_classes: int, arguments: dict[str, Any], training: bool
) -> Head:
    """What becomes of the classifier; raises as ``choose_head``."""
    if not config.weights:
        return Head(num_classes, num_classes)

    @functools.cache
    def make(classes: int) -> nn.Module:
        return _skeleton(config, name, classes, arguments)

    tensors = make(get_pretrained_cfg(name).num_classes).state_dict()
    if given:
        tensors, _ = under_own_names(given.tensors, make(num_classes))
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return choose_head(config, shapes, make, num_classes, training)


def check(config: ModelConfig, num_classes: int, inputs: Inputs) -> tuple[str, dict[str, Any]]:
    """timm's name of the model and the arguments that it is made with.

    Raises ConfigError for a model that is unknown or no classifier, or cannot take the arguments or the images.
    """
    require_model(config.name)
    name, arguments = _plain(config), _arguments(config, inputs)
    _check(config.name, _skeleton(config, name, num_classes, arguments), num_classes, inputs)
    return name, arguments


def require_model(name: str) -> None:
    """Raise ConfigError if timm has no model of this name, or none with this tag."""
    plain = name.removeprefix(TIMM)
    if is_model(plain) and ":" not in plain:
        try:
            get_pretrained_cfg(plain)
        except RuntimeError:
            tags = ", ".join(f"{TIMM}{one}" for one in get_arch_pretrained_cfgs(plain))
            raise ConfigError(f"model.name={name}: timm {timm.__version__} has no such tag; it has {tags}.") from None
        return
    near = difflib.get_close_matches(plain, list_models(), n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(TIMM + one for one in near)}?" if near else "timm.list_models() lists them."
    raise ConfigError(f"model.name={name} is not a model of timm {timm.__version__}: {hint}")


def making(name: str, val_image_size: int) -> tuple[int, str]:
    """(shorter side before the crop in pixels, interpolation) by which timm evaluates a model at this size."""
    require_model(name)
    cfg = get_pretrained_cfg(name.removeprefix(TIMM))
    return math.floor(val_image_size / cfg.crop_pct), interpolation(cfg.interpolation)


def classes_of_weights(config: ModelConfig) -> tuple[int, tuple[str, ...]]:
    """Implement ``Builder.classes_of_weights``."""
    given = _open(config)
    return recorded_classes(given) if given is not None else (get_pretrained_cfg(_plain(config)).num_classes, ())


def own_preprocessing(config: ModelConfig, side: int | None) -> OwnPreprocessing:
    """As ``Builder`` has it: what a checkpoint of ours recorded, or timm's configuration of the model and its tag.

    Side and share of the crop are those of timm's ``validate.py``: for tests, where timm has other ones for these.
    """
    require_model(config.name)
    given = _open(config)
    if given is not None and given.ours:
        who, images = validated_on(given)
        return OwnPreprocessing(who or f"nothing says how {given.path} was evaluated", of_side(images, side))
    name = _plain(config)
    cfg = get_pretrained_cfg(name)
    size = side or (cfg.test_input_size or cfg.input_size)[-1]
    resize = math.floor(size / (cfg.test_crop_pct or cfg.crop_pct))
    images = Preprocessing(size, resize, interpolation(cfg.interpolation))
    return OwnPreprocessing(f"timm evaluates {name} by its configuration", images, _unlike(name, cfg))


def _unlike(name: str, cfg: Any) -> str:
    """A warning of what timm does with photos in an evaluation and this trainer does not."""
    size = cfg.test_input_size or cfg.input_size
    differing = [] if cfg.crop_mode == "center" else [f"crop_mode={cfg.crop_mode}"]
    differing += [] if size[-1] == size[-2] else [f"images of {size[-1]} x {size[-2]} pixels"]
    differing += [] if interpolation(cfg.interpolation) == cfg.interpolation else [f"interpolation={cfg.interpolation}"]
    if not differing:
        return ""
    return (
        f"warning: timm evaluates {name} with {' and '.join(differing)}, which this trainer has not: accuracies may "
        "differ from timm's."
    )


def interpolation(theirs: str) -> str:
    """Ours for timm's word; those that we have not are bicubic."""
    return theirs if theirs == "bilinear" else "bicubic"


def tags(name: str) -> list[str]:
    """Return the tags of a model's pretrained weights, which ``model.weights`` may name."""
    return [one.partition(".")[2] for one in get_arch_pretrained_cfgs(name) if "." in one]


def _plain(config: ModelConfig) -> str:
    """The name for timm, with the tag that ``model.weights`` names."""
    plain = config.name.removeprefix(TIMM)
    return f"{get_arch_name(plain)}.{config.weights}" if config.weights in tags(plain) else plain


def _arguments(config: ModelConfig, inputs: Inputs) -> dict[str, Any]:
    """What timm's ``create_model`` gets besides name, classes and weights."""
    arguments: dict[str, Any] = {}
    for text in config.kwargs:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"model.kwargs takes NAME=VALUE, such as aa_layer=blurpool, not {text!r}.")
        if name in _OURS:
            raise ConfigError(f"model.kwargs={text}: {name} is not taken there; an option of its own decides it.")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):  # text, as timm's own scripts take it
            arguments[name] = _LAYERS.get(value, value) if name == "aa_layer" else value
    arguments |= {"drop_rate": config.dropout, "drop_path_rate": config.drop_path}
    if get_pretrained_cfg(config.name.removeprefix(TIMM)).fixed_input_size:
        arguments["img_size"] = inputs.val.image_size
    return {name: value for name, value in arguments.items() if value is not None}


_OPTIONS = {"drop_rate": "model.dropout", "drop_path_rate": "model.drop_path", "img_size": "data.val_image_size"}


def _create(config: ModelConfig, name: str, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    """Raises ConfigError for what the model does not take."""
    try:
        return timm.create_model(name, num_classes=num_classes, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, KeyError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        words = [f"{_OPTIONS.get(key, 'model.kwargs=' + key)}" for key in arguments if key in said]
        wrong = words or [f"{_OPTIONS.get(key, 'model.kwargs=' + key)}={value}" for key, value in arguments.items()]
        raise ConfigError(f"{config.name} cannot be made with {', '.join(wrong) or 'these classes'}: {said}") from None


def _skeleton(config: ModelConfig, name: str, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    """The model on the device meta."""
    try:
        return without_memory(lambda: _create(config, name, num_classes, arguments))
    except ConfigError:  # hybrids run a part of themselves when they are made, which takes memory
        return _create(config, name, num_classes, arguments).to("meta")


def _check(name: str, skeleton: nn.Module, num_classes: int, inputs: Inputs) -> None:
    """Raise ConfigError for a model that is no classifier, or cannot take the images."""
    for training, size, field in (
        (True, inputs.train_size, "image_size"),
        (False, inputs.val.image_size, "val_image_size"),
    ):
        if size is None:
            continue
        embedding = getattr(skeleton, "patch_embed", None)
        patch = getattr(embedding, "patch_size", None) or 1
        patch = patch if isinstance(patch, int) else patch[0]
        found = problem(skeleton, training, size)
        if not found and size % patch and not getattr(embedding, "dynamic_img_pad", True):
            found = f"{size % patch} pixels at two sides would be left out"
        if found:
            one_size = embedding is not None and inputs.train_size not in (None, inputs.val.image_size)
            hint = "it is built for one size alone, so data.image_size and data.val_image_size must be equal."
            hint = hint if one_size else f"it takes multiples of {patch}." if patch > 1 else "take a larger one."
            raise ConfigError(f"{name} cannot take images of data.{field}={size}: {hint} ({found})")
    with torch.device("meta"), torch.no_grad():
        outputs = skeleton.eval()(torch.empty(2, 3, inputs.val.image_size, inputs.val.image_size))
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (2, num_classes):
        kind = f"of shape {list(outputs.shape)}" if isinstance(outputs, torch.Tensor) else f"a {type(outputs).__name__}"
        raise ConfigError(
            f"model.name={name} is not a classifier: for 2 images and {num_classes} classes it answers {kind}, not "
            f"[2, {num_classes}]. Take another model of timm's."
        )
    if inputs.train_size and inputs.passes_of_one:
        check_batch_of_one(name, skeleton, inputs.train_size, inputs.passes_of_one)


def _open(config: ModelConfig) -> Weights | None:
    """What the file ``model.weights`` holds; None for timm's own weights and for none. Raises ConfigError."""
    known = tags(config.name.removeprefix(TIMM))
    if not config.weights or config.weights in (PRETRAINED, *known):
        return None
    path = Path(config.weights)
    if not path.is_file():
        raise ConfigError(
            f"model.weights={config.weights} is neither a file nor weights of timm's for {config.name} "
            f"({', '.join([PRETRAINED, *known])})."
        )
    return read_weights(path)


def _downloaded(config: ModelConfig, name: str, head: Head, arguments: dict[str, Any]) -> nn.Module:
    try:
        model = timm.create_model(name, pretrained=True, num_classes=head.theirs, **arguments)
    except Exception as error:  # whatever the hub's client and its transport raise: the model itself has been made
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"timm's weights of {name} could not be downloaded: {said[:200]}. On a machine without internet, give the "
            "path of a file with them as model.weights."
        ) from None
    if not head.new:
        return model
    anew = _create(config, name, head.classes, arguments)
    anew.load_state_dict(head.fill(model.state_dict(), anew))
    return anew
