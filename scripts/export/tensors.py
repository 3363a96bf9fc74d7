"""Formats of tensors alone: torchvision's state dict, and safetensors."""

from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file

from scripts.export.format import Format, Logits, of_module, text_of
from sources.errors import UserError
from training.config.train_options import TIMM
from training.model.image_sizes import builder_options
from training.model.trained import RECORD, Trained, open_trained


def state_of(trained: Trained) -> dict[str, torch.Tensor]:
    """The model's tensors by name, each with memory of its own."""
    state = trained.bundle.module.state_dict()
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def torchvision_arguments(trained: Trained) -> dict[str, Any]:
    """What torchvision's builder of the model takes, besides the weights, to make it as it was trained."""
    options = builder_options(trained.name, trained.images.image_size)
    arguments: dict[str, Any] = {"num_classes": trained.num_classes}
    if "image_size" in options and trained.images.image_size != 224:
        arguments["image_size"] = options["image_size"]
    if "init_weights" in options:
        arguments |= {"init_weights": False, "transform_input": bool(trained.bundle.facts.get("transform_input"))}
    return arguments


def require_torchvision(trained: Trained) -> None:
    """Raise UserError for a model of another library."""
    if trained.name.startswith(TIMM):
        raise UserError(
            f"{trained.name} is a model of timm, which torchvision does not have: export it with --format timm, "
            "safetensors, onnx or torchscript."
        )


def _write_torchvision(trained: Trained, path: Path, uint8: bool) -> None:
    require_torchvision(trained)
    with open(path, "wb") as file:
        torch.save(state_of(trained), file)
    arguments = {"function": f"torchvision.models.{trained.name}", "arguments": torchvision_arguments(trained)}
    beside = path.with_name(f"{path.name}.json")
    beside.write_text(text_of(trained, torchvision=arguments) + "\n", encoding="utf-8")


def _open_torchvision(trained: Trained, path: Path, uint8: bool) -> Logits:
    require_torchvision(trained)
    model = torchvision.models.get_model(trained.name, weights=None, **torchvision_arguments(trained))
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return of_module(trained, model.eval())


def write_safetensors(trained: Trained, path: Path, uint8: bool = False) -> None:
    """Write the file that ``open_trained`` reads."""
    save_file(state_of(trained), path, {"format": "pt", RECORD: text_of(trained)})
    path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets nobody else read it


def _open_safetensors(trained: Trained, path: Path, uint8: bool) -> Logits:
    return of_module(trained, open_trained(path).bundle.module)


TORCHVISION = Format("torchvision's state dict", ".pth", _write_torchvision, _open_torchvision, beside=".json")
SAFETENSORS = Format("safetensors", ".safetensors", write_safetensors, _open_safetensors)
