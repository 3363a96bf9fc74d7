"""A trained model in a file: a run, a checkpoint of one, or what ``scripts.export`` made of it.

Nothing in such a file is run: checkpoints are read by ``torch.load(weights_only=True)``, exports are tensors and JSON.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from etl import Spec
from sources.errors import ConfigError, UserError
from training.config.train_options import TIMM, ModelConfig
from training.model.bundle import Bundle, Inputs, Preprocessing, builder
from training.model.provenance import Provenance, figure, from_record, provenance_of
from training.model.weights import load_weights
from training.model.weights_file import is_safetensors, read_metadata, read_safetensors
from training.run_dir import checkpoint, torch_files
from training.run_dir.files import is_run_directory

RECORD = "imagenet_ais"
"""Name of the JSON that an exported file holds besides the weights."""

FORMAT = 1
"""The version of that JSON. A higher number is refused."""

CHOICES = ("best", "last", "ema", "raw")
"""Which weights of a run: of best.pt or last.pt those that validated better, or averaged or raw ones of best.pt."""

_MOST_CLASSES = 1 << 20


@dataclass(frozen=True)
class Trained:
    """A model in evaluation mode on the CPU, and all that is needed to use it and to say what it is."""

    path: Path
    """The file that the weights were read from."""
    bundle: Bundle
    name: str
    """As ``model.name`` has it: torchvision's, or timm/NAME."""
    num_classes: int
    images: Preprocessing
    """How images are made for it, which are those of its validation."""
    classes: tuple[str, ...] = ()
    """Names of its outputs in their order, as far as they are known."""
    provenance: Provenance = Provenance()
    kwargs: tuple[str, ...] = ()
    """``model.kwargs``."""
    licence: str = "unknown"
    """The licence of the weights."""

    @property
    def spec(self) -> Spec:
        """How a sample is made for it."""
        return _spec(self.images)

    @property
    def what(self) -> str:
        """The model, its position and its figures, in one line."""
        averaged = ", averaged weights" if self.provenance.weights == "ema" else ""
        where = f"{self.provenance.position}{averaged}; {self.provenance.figures}"
        return f"{self.name} with {self.num_classes:,} classes, {where}"

    def record(self) -> dict[str, Any]:
        """Everything but the weights, in plain values."""
        return {
            "format": FORMAT,
            "model": {
                "name": self.name,
                "num_classes": self.num_classes,
                "kwargs": list(self.kwargs),
                "facts": self.bundle.facts,
            },
            "preprocessing": {
                **dataclasses.asdict(self.images),
                "mean": list(self.bundle.mean),
                "std": list(self.bundle.std),
            },
            "classes": list(self.classes),
            "licence": self.licence,
            "provenance": dataclasses.asdict(self.provenance),
        }


def open_trained(path: Path, which: str = "best") -> Trained:
    """The model of a run directory, of a checkpoint, or of an exported file of safetensors or its folder.

    ``which`` is one of CHOICES; of a checkpoint's file, best and last both mean the weights in it that validated
    better, and of an export all mean what it holds. Raises UserError with a sentence for anything else.
    """
    if path.is_dir() and not is_run_directory(path) and (path / "model.safetensors").is_file():
        path = path / "model.safetensors"
    if path.is_dir():
        path = _checkpoint_of(path, which)
    elif which == "last" and path.name != "last.pt":
        raise ConfigError(f"--weights last chooses among the files of a run, and {path} is a file: leave it out.")
    try:
        if is_safetensors(path):
            return _open_export(path, which)
        archive = torch_files.is_archive(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    if not archive:
        raise UserError(
            f"{path} is neither a run directory, nor a checkpoint of a run, nor safetensors that scripts.export wrote."
        )
    return _open_checkpoint(path, which)


def _checkpoint_of(run: Path, which: str) -> Path:
    """The file in a run directory; last.pt where there is no best.pt, since the run had no validation."""
    if not is_run_directory(run):
        raise UserError(f"{run} is not the directory of a run: it has no config.yaml of this trainer.")
    folder = run / "checkpoints"
    names = ("last.pt",) if which == "last" else ("best.pt", "last.pt")
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise UserError(
            f"{run} has no checkpoint: the run was stopped before it saved one, or it only evaluated. Start its "
            "command again and let it save, or name a checkpoint's file."
        )
    return found


def _open_checkpoint(path: Path, which: str) -> Trained:
    state = checkpoint.load(path)
    averaged = _takes_averages(path, state, which)
    config, environment = state["config"], state["environment"]
    model, data = config.get("model", {}), config.get("data", {})
    facts = environment.get("model")
    facts = facts if isinstance(facts, dict) else {}
    classes = tuple(filter(None, str(facts.get("classes", "")).split("/")))
    try:
        name = _tagged(_text(model.get("name")), model.get("weights"))
        kwargs = tuple(_text(item) for item in model.get("kwargs", []))
        of_data = environment.get("data", {}).get("classes")  # model.head=keep has more
        num_classes = _count(facts.get("outputs") or model.get("num_classes") or of_data or len(classes))
        images = _images(name, data)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} does not say which model it is of: {error}.") from None
    return _trained(
        Trained(
            path=path,
            bundle=_build(path, name, kwargs, num_classes, images, state["ema" if averaged else "model"], facts),
            name=name,
            num_classes=num_classes,
            images=images,
            classes=classes,
            provenance=provenance_of(path, state, averaged),
            kwargs=kwargs,
        )
    )


def _takes_averages(path: Path, state: dict[str, Any], which: str) -> bool:
    if which == "ema" and "ema" not in state:
        raise ConfigError(f"{path} has no averaged weights: its run had train.ema_decay=0. Leave out --weights ema.")
    averages, own = (figure(state["validation"], name) or 0.0 for name in ("ema_acc1", "acc1"))
    return "ema" in state and (which == "ema" or (which != "raw" and averages > own))


def _tagged(name: str, weights: Any) -> str:
    """The name of timm's model with the tag of the weights that a run began with, which may have a mean of its own."""
    if not name.startswith(TIMM):
        return name
    from training.model.timm_models import tags

    plain = name.removeprefix(TIMM)
    return f"{TIMM}{plain.partition('.')[0]}.{weights}" if weights in tags(plain) else name


def _images(name: str, data: dict[str, Any]) -> Preprocessing:
    """How a run made the images of its validation. Raises ValueError."""
    size, resize, interpolation = data.get("val_image_size", 224), data.get("val_resize"), data.get("interpolation")
    if resize is None or interpolation is None:
        own = (256, "bilinear")
        if name.startswith(TIMM):
            from training.model.timm_models import making

            own = making(name, _count(size))
        resize, interpolation = resize or own[0], interpolation or own[1]
    return _preprocessing(size, resize, interpolation)


def _preprocessing(size: Any, resize: Any, interpolation: Any) -> Preprocessing:
    """Raises ValueError for what no sample is made by."""
    images = Preprocessing(_count(size), _count(resize), _text(interpolation))
    _spec(images)
    return images


def _spec(images: Preprocessing) -> Spec:
    """Return the spec of a validation sample. Raises ValueError for sizes that make no sense."""
    return Spec.of("val", size=images.image_size, resize=images.resize, interpolation=images.interpolation)


def _open_export(path: Path, which: str) -> Trained:
    try:
        text = read_metadata(path).get(RECORD)
        if text is None:
            raise UserError(
                f"{path} is safetensors, but no export of this trainer: it does not say which model it is of, and how "
                f"images are made for it ({RECORD} in its metadata)."
            )
        trained = of_record(path, json.loads(text))
        tensors = read_safetensors(path)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path} is cut off or damaged, or its metadata were changed: {str(error)[:200]}. Compare its "
            "size and hash with those of the original, or export it again."
        ) from None
    if which in ("raw", "ema") and trained.provenance.weights != which:
        raise ConfigError(f"{path} holds the {trained.provenance.weights} weights alone: leave out --weights {which}.")
    facts = trained.bundle.facts
    bundle = _build(path, trained.name, trained.kwargs, trained.num_classes, trained.images, tensors, facts)
    bundle = dataclasses.replace(bundle, mean=trained.bundle.mean, std=trained.bundle.std)
    return _trained(dataclasses.replace(trained, bundle=bundle))


def of_record(path: Path, record: Any) -> Trained:
    """All but the module, which is empty yet. Raises ValueError, TypeError or KeyError for what is no record."""
    if not isinstance(record, dict) or type(record.get("format")) is not int:
        raise ValueError(f"{RECORD} is not the record of an export")
    if record["format"] > FORMAT:
        raise ValueError(f"it has format {record['format']}, and this version reads formats up to {FORMAT}")
    model, images, classes = record["model"], record["preprocessing"], record["classes"]
    if not isinstance(classes, list):
        raise ValueError("its classes are not a list")
    facts = model["facts"]
    if not isinstance(facts, dict):
        raise ValueError("its facts are not an object")
    return Trained(
        path=path,
        bundle=Bundle(torch.nn.Identity(), _rgb(images["mean"]), _rgb(images["std"]), facts=facts),
        name=_text(model["name"]),
        num_classes=_count(model["num_classes"]),
        images=_preprocessing(images["image_size"], images["resize"], images["interpolation"]),
        classes=tuple(_text(name) for name in classes),
        provenance=from_record(record["provenance"]),
        kwargs=tuple(_text(item) for item in model["kwargs"]),
        licence=_text(record["licence"]),
    )


def _build(
    path: Path,
    name: str,
    kwargs: tuple[str, ...],
    num_classes: int,
    images: Preprocessing,
    tensors: dict[str, torch.Tensor],
    facts: dict[str, Any],
) -> Bundle:
    """The model with these weights. Raises ConfigError or UserError where they are not of it."""
    heads = any(tensor.ndim and tensor.shape[0] == num_classes for tensor in tensors.values())
    if not heads:  # said before a last layer of any size is made
        raise UserError(f"{path} says that it has {num_classes:,} classes, and no layer in it has so many outputs.")
    config = ModelConfig(name=name, kwargs=list(kwargs), num_classes=num_classes)
    bundle = builder(name).build(config, num_classes, Inputs(train_size=None, val=images))
    load_weights(bundle.module, tensors, str(path), name)
    kept: dict[str, Any] = {}
    if "transform_input" in bundle.facts:
        module: Any = bundle.module
        module.transform_input = kept["transform_input"] = facts.get("transform_input") is True
    return dataclasses.replace(bundle, facts=kept)


def _trained(trained: Trained) -> Trained:
    trained.bundle.module.eval().requires_grad_(False)
    return trained


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"a {type(value).__name__} where a text belongs")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MOST_CLASSES:
        raise ValueError(f"{str(value)[:40]} where a number from 1 to {_MOST_CLASSES:,} belongs")
    return value


def _rgb(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    if not all(type(value) is float and -1e3 < value < 1e3 for value in (red, green, blue)):
        raise ValueError("mean and std are three numbers each")
    return red, green, blue
