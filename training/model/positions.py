"""Position embeddings of a vision transformer: its library resamples them for images of another size."""

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings

Tensors = dict[str, torch.Tensor]


def fit_positions(tensors: Tensors, model: nn.Module, new: frozenset[str], source: str) -> tuple[Tensors, str]:
    """The weights with the shapes of ``model``'s position embeddings, and a sentence where they were resampled.

    Both libraries interpolate bicubically: torchvision by ``interpolate_embeddings``, timm by the
    ``checkpoint_filter_fn`` that it has for the model. Tensors in ``new``, and what no library can resample, stay.
    """
    before = _differing(tensors, model, new)
    if not before:
        return tensors, ""
    try:
        fitted = _resampled(dict(tensors), model)
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError, AssertionError):
        return tensors, ""  # weights of another model: who loads them names what does not fit
    if _differing(fitted, model, new):
        return tensors, ""
    name, (theirs, ours) = next(iter(before.items()))
    more = f" and {len(before) - 1:,} more" if len(before) > 1 else ""
    return fitted, (
        f"{source}: position embeddings are interpolated for images of another size than the weights': {name} from "
        f"{list(theirs)} to {list(ours)}{more}."
    )


def _differing(
    tensors: Mapping[str, torch.Tensor], model: nn.Module, new: frozenset[str]
) -> dict[str, tuple[torch.Size, torch.Size]]:
    return {
        name: (tensors[name].shape, value.shape)
        for name, value in model.state_dict().items()
        if name in tensors and name not in new and tensors[name].shape != value.shape
    }


def _resampled(tensors: Tensors, model: nn.Module) -> Tensors:
    if isinstance(model, VisionTransformer):
        return dict(interpolate_embeddings(model.image_size, model.patch_size, tensors))  # type: ignore[arg-type]
    resample: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if resample is None or len(inspect.signature(resample).parameters) < 2:
        return tensors
    return dict(resample(tensors, model))
