"""A folder with ``model.safetensors`` and ``config.json``, for ``timm.create_model("local-dir:PATH")``."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import torch

from scripts.export.format import Format, Logits, first_line, of_module
from scripts.export.tensors import write_safetensors
from sources.errors import UserError
from training.config.train_options import TIMM
from training.model.class_order import imagenet_classes
from training.model.image_sizes import without_memory
from training.model.trained import Trained


def _write(trained: Trained, path: Path, uint8: bool) -> None:
    architecture, arguments = _architecture(trained)
    path.mkdir(exist_ok=True)
    write_safetensors(trained, path / "model.safetensors")
    config = _config(trained, architecture, arguments)
    (path / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _architecture(trained: Trained) -> tuple[str, dict[str, Any]]:
    """timm's name of the model and the arguments that make it. Raises UserError where timm has none like it."""
    import timm
    from timm.models import get_arch_name, get_pretrained_cfg, is_model

    ours = trained.name.startswith(TIMM)
    plain = get_arch_name(trained.name.removeprefix(TIMM)) if ours else trained.name
    arguments: dict[str, Any] = {}
    for text in trained.kwargs:
        name, _, value = text.partition("=")
        if name == "aa_layer":
            raise UserError(
                f"{trained.name} was made with model.kwargs={text}, which timm's config.json cannot say: export it "
                "with --format safetensors, onnx or torchscript."
            )
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[name] = value
    if not is_model(plain):
        raise _no_equal(trained, f"timm {timm.__version__} has no model of this name")
    if get_pretrained_cfg(plain).fixed_input_size:
        arguments["img_size"] = trained.images.image_size
    if ours:
        return plain, arguments
    skeleton = without_memory(lambda: timm.create_model(plain, num_classes=trained.num_classes, **arguments))
    theirs = {name: value.shape for name, value in skeleton.state_dict().items()}
    mine = {name: value.shape for name, value in trained.bundle.module.state_dict().items()}
    if theirs != mine:
        named = sorted(set(mine) ^ set(theirs)) or [name for name in mine if mine[name] != theirs[name]]
        raise _no_equal(trained, f"timm's model of this name has other parameters, such as {named[0]}")
    return plain, arguments


def _no_equal(trained: Trained, why: str) -> UserError:
    return UserError(
        f"{trained.name} cannot be exported for timm: {why}. Take --format torchvision, safetensors, "
        "onnx or torchscript."
    )


def _config(trained: Trained, architecture: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What timm reads. Its own facts of the architecture stay, what describes other weights goes."""
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(architecture).to_dict(remove_source=True)
    for name in ("architecture", "tag", "custom_load", "label_offset", "test_input_size", "test_crop_pct", "notes"):
        cfg.pop(name, None)
    for name in ("origin_url", "paper_name", "paper_ids", "description", "test_pool_size", "min_input_size"):
        cfg.pop(name, None)
    images = trained.images
    cfg |= {
        "input_size": [3, images.image_size, images.image_size],
        "interpolation": images.interpolation,
        "crop_pct": crop_share(images.image_size, images.resize),
        "crop_mode": "center",
        "mean": list(trained.bundle.mean),
        "std": list(trained.bundle.std),
        "num_classes": trained.num_classes,
        "license": trained.licence,
    }
    config: dict[str, Any] = {"architecture": architecture, "num_classes": trained.num_classes}
    if arguments:
        config["model_args"] = arguments
    if len(trained.classes) == trained.num_classes:
        words = dict(imagenet_classes())
        config["label_names"] = list(trained.classes)
        if all(name in words for name in trained.classes):
            config["label_descriptions"] = {name: words[name] for name in trained.classes}
    return config | {"pretrained_cfg": cfg}


def crop_share(size: int, resize: int) -> float:
    """The ``crop_pct`` from which timm computes ``resize`` again, as floor(size / crop_pct)."""
    share = size / resize
    while math.floor(size / share) < resize:
        share = math.nextafter(share, 0.0)
    return share


def _open(trained: Trained, path: Path, uint8: bool) -> Logits:
    import timm

    try:
        model: torch.nn.Module = timm.create_model(f"local-dir:{path}", pretrained=True)
    except Exception as error:  # whatever timm and its readers raise for a folder that is not as it was written
        raise UserError(f"timm cannot load {path}: {first_line(error)}.") from None
    return of_module(trained, model.eval())


TIMM_FOLDER = Format("a folder for timm", "-timm", _write, _open, is_folder=True)
