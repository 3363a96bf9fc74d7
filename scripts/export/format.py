"""What a format of export is, and what all of them share."""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sources.errors import UserError
from training.model.bundle import normalise
from training.model.trained import Trained

Logits = Callable[[torch.Tensor], torch.Tensor]
"""Images uint8 [n, H, W, 3] → logits float32 [n, classes]."""


@dataclass(frozen=True)
class Format:
    """How a format is written, and how other programs run it.

    ``write(trained, path, uint8)`` makes the file, or the folder, ``path``, and what belongs beside it; ``load`` with
    the same arguments answers what the file computes, by the program that it is for. ``uint8``: whether the model in
    it takes pixels. Both raise UserError with a sentence.
    """

    title: str
    suffix: str
    """The suffix of the file, or the end of the folder's name."""
    write: Callable[..., None]
    load: Callable[..., Logits]
    is_folder: bool = False
    is_graph: bool = False
    """Whether it holds the computation itself, and may hold the normalisation."""
    beside: str = ""
    """Suffix of a file beside it."""


def text_of(trained: Trained, **more: Any) -> str:
    """The JSON that goes into an exported file."""
    return json.dumps(trained.record() | more, ensure_ascii=False)


def input_of(trained: Trained, uint8: bool) -> dict[str, Any]:
    """What a graph takes, for its record."""
    side = trained.images.image_size
    if uint8:
        return {"dtype": "uint8", "shape": ["n", side, side, 3], "values": "RGB pixels from 0 to 255"}
    return {"dtype": "float32", "shape": ["n", 3, side, side], "values": "RGB, (pixel / 255 - mean) / std"}


class FromPixels(nn.Module):
    """A model with its normalisation before it: uint8 [n, H, W, 3] in, logits out, with the arithmetic of a run."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.model = trained.bundle.module
        self.mean = nn.Buffer(torch.tensor(trained.bundle.mean).mul(255))
        self.std = nn.Buffer(torch.tensor(trained.bundle.std).mul(255))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of uint8 pixels."""
        pixels = (images.float() - self.mean) / self.std
        logits: torch.Tensor = self.model(pixels.permute(0, 3, 1, 2))
        return logits


def graph_of(trained: Trained, uint8: bool) -> tuple[nn.Module, torch.Tensor]:
    """What is traced, and an example of its input for two images."""
    side = trained.images.image_size
    if uint8:
        return FromPixels(trained).eval(), torch.zeros(2, side, side, 3, dtype=torch.uint8)
    return trained.bundle.module, torch.zeros(2, 3, side, side)


def inputs_for(trained: Trained, images: torch.Tensor, uint8: bool) -> torch.Tensor:
    """What a graph is given for pixels uint8 [n, H, W, 3]."""
    return images if uint8 else normalise(images, trained.bundle.mean, trained.bundle.std, channels_last=False)


def of_module(trained: Trained, module: Callable[[torch.Tensor], Any]) -> Logits:
    """A model that takes normalised images, as a function of pixels."""
    return lambda images: module(inputs_for(trained, images, uint8=False))


def needed(module: str, what: str) -> Any:
    """A package of the extra ``export``. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = error.name or module
        raise UserError(
            f"{what} needs the package {name.partition('.')[0]}, which is not installed: pip install onnx onnxruntime "
            "onnxscript (the extra export of pyproject.toml)."
        ) from None


def first_line(error: BaseException) -> str:
    """What an error of a library says, in a line of at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
