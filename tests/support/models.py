"""Models made as a run makes them."""

from torch import nn

from training.config.train_options import ModelConfig
from training.model.bundle import Inputs, Preprocessing
from training.model.torchvision_models import build


def build_model(config: ModelConfig, num_classes: int, train_size: int | None, val_size: int) -> nn.Module:
    """torchvision's model for images of these sides in pixels; ``train_size`` None: for an evaluation alone."""
    return build(config, num_classes, Inputs(train_size, Preprocessing(val_size, val_size, "bilinear"))).module
