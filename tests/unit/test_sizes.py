"""Sides of training samples that change with the epochs: one list of options, checked against model and epochs."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from sources.errors import ConfigError
from tests.unit.test_command_line import composed
from training.config.data_options import DataConfig
from training.config.schema import Config
from training.config.train_options import ModelConfig, TrainConfig
from training.engine import build
from training.loader.open_data import build_specs, open_data
from training.model.bundle import BUILDERS, MEAN, STD, Bundle, Inputs
from training.model.image_sizes import check_sides
from training.processes.preemption import StopFlag
from training.processes.world import World
from training.run_dir.records import config_yaml

SIZES = ["0:64", "2:96", "5:80"]


def synthetic(**options: Any) -> Config:
    data = {"source": "synthetic", "train_samples": 8, "val_samples": 4, "val_image_size": 64, "val_resize": 64}
    return Config(
        data=DataConfig(**data | {"sizes": SIZES} | options.pop("data", {})),  # type: ignore[arg-type]
        model=ModelConfig(options.pop("model", "squeezenet1_1"), num_classes=4),
        train=TrainConfig(batch_size=4, epochs=6, **options),
    )


def assembled(config: Config) -> Any:
    with open_data(config, 4, World(), print) as data:
        return build.assemble(config, World(), torch.device("cpu"), StopFlag(), data), data


def test_an_epochs_spec_has_its_side_and_all_else_in_common() -> None:
    train, val = build_specs(synthetic(data={"scale": [0.25, 1.0], "image_size": 48}))
    assert [train.at(epoch).size for epoch in range(6)] == [64, 64, 96, 96, 96, 80]
    assert {train.at(epoch).scale for epoch in range(6)} == {(0.25, 1.0)} and val.sides == [64]
    assert build_specs(synthetic(data={"sizes": [], "image_size": 48}))[0].sides == [48]
    with pytest.raises(
        ConfigError, match="data.image_size, sizes, val_image_size.* size must be from 1 to 4096 pixels"
    ):
        build_specs(synthetic(data={"sizes": ["0:0"]}))


def test_sizes_that_yaml_would_take_for_numbers_are_recorded_as_they_are(tmp_path: Path) -> None:
    """12:19 is 739 seconds in YAML."""
    config = composed("data=synthetic", "data.sizes=['0:12','12:19']", "run_dir=x")
    assert config.data.sides() == [(0, 12), (12, 19)]
    (tmp_path / "config.yaml").write_text(config_yaml(config))
    assert composed(folder=tmp_path).data.sizes == ["0:12", "12:19"]


def test_a_side_that_the_model_cannot_take_is_refused() -> None:
    message = (
        r"squeezenet1_1 cannot take images of 16 pixels, as data.sizes has them \(.*\): choose sides that it takes"
    )
    config = synthetic(data={"sizes": ["0:64", "2:16"]})
    with pytest.raises(ConfigError, match=message):
        assembled(config)
    config.mode = "evaluate"
    assembled(config)
    vit = VisionTransformer(64, 32, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8)
    with pytest.raises(ConfigError, match=r"vit cannot take images of 96 pixels.*\(Wrong image height! Expected 64"):
        check_sides("vit", vit, [64, 96])


def tiny(config: ModelConfig, num_classes: int, inputs: Inputs) -> Bundle:
    layers = nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes)
    return Bundle(nn.Sequential(*layers), MEAN, STD)


def test_a_side_costs_one_compilation_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    library = types.ModuleType("tiny_models")
    library.build = tiny  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiny_models", library)
    monkeypatch.setitem(BUILDERS, "tiny", "tiny_models")
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_(module, backend=backend))
    torch._dynamo.reset()
    run, data = assembled(synthetic(model="tiny/x", compile=True))
    for epoch in (0, 1, 2, 3, 5):
        batch = data.train.__getitems__([(epoch, index) for index in range(4)])
        run.train_model.train()(run.objective.inputs(batch.images))
        assert len(compiled) <= len({data.train.specs.at(former).size for former in range(epoch + 1)})
    torch._dynamo.reset()
