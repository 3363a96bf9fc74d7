"""Position embeddings of a vision transformer: its library resamples them for images of another size."""

import sys
from typing import Any

import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings

from training.model.weights import differing_shapes

Tensors = dict[str, torch.Tensor]


def fit_positions(tensors: Tensors, model: nn.Module, new: frozenset[str], source: str) -> tuple[Tensors, str]:
    """The weights with the shapes of ``model``'s position embeddings, and a sentence where they were resampled.

    Both libraries interpolate bicubically: torchvision by ``interpolate_embeddings``, timm by the
    ``checkpoint_filter_fn`` that it has for the model. Tensors in ``new``, and what no library can resample, stay.
    """
    before = differing_shapes(tensors, model)
    if not before.keys() - new:
        return tensors, ""
    try:
        fitted = _resampled(dict(tensors), model)
    except (RuntimeError, ValueError, KeyError, AttributeError, TypeError, AssertionError):
        return tensors, ""  # weights of another model: who loads them names what does not fit
    if differing_shapes(fitted, model).keys() - new:
        return tensors, ""
    name, *others = (name for name in before if name not in new)
    ours, theirs = before[name]
    more = f" and {len(others):,} more" if others else ""
    return fitted, (
        f"{source}: position embeddings are interpolated for images of another size than the weights': {name} from "
        f"{list(theirs)} to {list(ours)}{more}."
    )


def _resampled(tensors: Tensors, model: nn.Module) -> Tensors:
    if isinstance(model, VisionTransformer):
        return dict(interpolate_embeddings(model.image_size, model.patch_size, tensors))  # type: ignore[arg-type]
    resample: Any = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return dict(resample(tensors, model)) if resample else tensors
