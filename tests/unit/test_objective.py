"""The objective normalises by the model's own mean and std; a library of models is a builder and a line of a table."""

import sys
import types
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sources.errors import ConfigError
from training.config.data_options import DataConfig
from training.config.schema import Config
from training.config.train_options import ModelConfig, TrainConfig
from training.engine.build import build_bundle
from training.engine.objective import Objective, StepKey
from training.loader.open_data import Data
from training.model import bundle
from training.model.bundle import Bundle, Inputs, builder
from training.processes.world import World
from training.report.console import Console

KEY = StepKey(seed=0, epoch=1, step=2, positions=range(4))
HALVES = (0.5, 0.5, 0.5)


def halves(config: ModelConfig, num_classes: int, inputs: Inputs) -> Bundle:
    """As a builder of another library makes it: its own normalisation, and something to say."""
    return Bundle(torch.nn.Linear(3, num_classes), HALVES, HALVES, notes=(f"{config.name} at {inputs.train_size}",))


def test_a_batch_is_normalised_by_the_models_own_mean_and_keeps_its_bytes() -> None:
    images = torch.arange(4 * 2 * 2 * 3, dtype=torch.uint8).reshape(4, 2, 2, 3)
    before, labels = images.clone(), torch.arange(4)
    objective = Objective(TrainConfig(), halves(ModelConfig(), 4, Inputs(32, bundle.Preprocessing(32, 36, "x"))))
    inputs, targets = objective.prepare(images, labels, KEY)
    torch.testing.assert_close(inputs, images.permute(0, 3, 1, 2) / 127.5 - 1)
    assert torch.equal(targets, labels) and torch.equal(images, before)
    torch.testing.assert_close(objective.pictures(inputs), images.permute(0, 3, 1, 2) / 255)
    assert torch.equal(objective.inputs(images), inputs)


def test_only_the_loss_of_training_is_smoothed() -> None:
    objective = Objective(TrainConfig(label_smoothing=0.1), Bundle(torch.nn.Identity(), HALVES, HALVES))
    logits, labels = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), torch.tensor([0, 2])
    assert torch.equal(objective.loss(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.1))
    assert torch.equal(objective.validation_loss(logits, labels), F.cross_entropy(logits, labels))


def test_another_library_of_models_is_a_module_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("other_models")
    library.build = halves  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "other_models", library)
    monkeypatch.setitem(bundle.BUILDERS, "other", "other_models")
    said: list[str] = []
    console = Console(enabled=True)
    monkeypatch.setattr(console, "say", said.append)
    config = Config(data=DataConfig(image_size=48), model=ModelConfig("other/x"))
    empty: Any = []
    made = build_bundle(config, World(), Data(empty, empty, 7, {}, ()), console)
    assert made.module.out_features == 7 and made.mean == HALVES and said == ["other/x at 48"]


def test_an_unknown_library_is_named() -> None:
    with pytest.raises(ConfigError, match="model.name=nobody/resnet18 is not a classification model of torchvision"):
        builder("nobody/resnet18").require_model("nobody/resnet18")
