"""The objective normalises by the model's own mean and std; a library of models is a builder and a line of a table."""

import importlib
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
from training.engine.mixing import Mixture
from training.engine.objective import Objective, StepKey, check_targets
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


def targets_of(n: int, classes: int) -> Mixture:
    generator = torch.Generator().manual_seed(2)
    labels, partners = torch.randint(0, classes, (2, n), generator=generator)
    return Mixture(labels, partners, torch.randint(0, 1 << 24, (n,), generator=generator) / (1 << 24))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_a_mixture_is_that_of_dense_targets(smoothing: float) -> None:
    objective = Objective(TrainConfig(label_smoothing=smoothing), Bundle(torch.nn.Identity(), HALVES, HALVES))
    logits, mixture = torch.randn(64, 10, dtype=torch.float64), targets_of(64, 10)
    shares = mixture.shares[:, None].double()
    dense = F.one_hot(mixture.labels, 10) * shares + F.one_hot(mixture.partners, 10) * (1 - shares)
    expected = F.cross_entropy(logits, dense, label_smoothing=smoothing)
    torch.testing.assert_close(objective.loss(logits, mixture), expected, rtol=1e-14, atol=0)
    whole = mixture._replace(shares=torch.ones(64))
    plain = objective.loss(logits, mixture.labels)
    torch.testing.assert_close(objective.loss(logits, whole), plain, rtol=1e-15, atol=0)
    both = objective.loss((logits, 2 * logits), mixture)
    assert torch.equal(both, objective.loss(logits, mixture))  # an auxiliary weight of 0


@pytest.mark.parametrize("threshold", [0.0, 0.2])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_timms_bit_for_bit(smoothing: float, threshold: float) -> None:
    mixup, losses = importlib.import_module("timm.data.mixup"), importlib.import_module("timm.loss")
    config = TrainConfig(loss="bce", label_smoothing=smoothing, bce_threshold=threshold)
    objective = Objective(config, Bundle(torch.nn.Identity(), HALVES, HALVES))
    logits, labels = torch.randn(64, 10), targets_of(64, 10).labels
    theirs = losses.BinaryCrossEntropy(smoothing, target_threshold=threshold or None)
    assert torch.equal(objective.loss(logits, labels), theirs(logits, labels))
    share = 5033165 / (1 << 24)
    mixture = Mixture(labels, labels.flip(0), torch.full((64,), share))
    dense = mixup.mixup_target(labels, 10, share, smoothing)
    assert torch.equal(objective.loss(logits, mixture), theirs(logits, dense))
    assert objective.loss(logits.bfloat16(), mixture).dtype == torch.float32


def test_one_class_gives_mixtures_and_binary_cross_entropy_no_meaning() -> None:
    with pytest.raises(ConfigError, match="mix samples of several classes, and there is one class alone"):
        check_targets(TrainConfig(mixup=0.2), 1)
    with pytest.raises(ConfigError, match="train.loss=bce asks of each class .* one class alone"):
        check_targets(TrainConfig(loss="bce"), 1)
    check_targets(TrainConfig(), 1)
    check_targets(TrainConfig(loss="bce", cutmix=1.0), 2)


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
