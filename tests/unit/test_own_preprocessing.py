"""An evaluation makes its images as those of the weights were made, unless options say otherwise."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from sources.errors import ConfigError
from training.config.data_options import DataConfig
from training.config.schema import Config
from training.config.train_options import ModelConfig
from training.engine.build import settle


def settled(name: str, weights: str, **data: Any) -> tuple[tuple[int, int, str], list[str]]:
    """((side, shorter side before, interpolation), what is said) of an evaluation."""
    config = Config(mode="evaluate", data=DataConfig(**data), model=ModelConfig(name, weights))
    said = settle(config)
    return (config.data.val_side, *config.data.making), said


def test_all_weights_of_torchvision_have_its_transforms() -> None:
    found, expected = {}, {}
    for name in torchvision.models.list_models(module=torchvision.models):
        for weights in torchvision.models.get_model_weights(name):
            preset = weights.transforms()
            assert preset.antialias
            expected[name, weights.name] = preset.crop_size[0], preset.resize_size[0], preset.interpolation.value
            found[name, weights.name], (said,) = settled(name, weights.name)
            assert said.endswith(f"as torchvision evaluated {name} {weights.name}")
    assert found == expected and len(found) > 100


def test_all_weights_of_timm_have_its_configuration() -> None:
    timm = pytest.importorskip("timm")
    from timm.data import resolve_data_config

    found, expected, warned = {}, {}, set()
    for name in timm.list_pretrained():
        theirs = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict(), use_test_size=True)
        size = theirs["input_size"][-1]
        making = (size, int(size / theirs["crop_pct"]), theirs["interpolation"])
        found[name], said = settled(f"timm/{name}", "timm")
        expected[name] = making
        if theirs["crop_mode"] != "center":
            assert f"crop_mode={theirs['crop_mode']}" in said[1]
            warned.add(name)
        elif making[2] in ("bilinear", "bicubic") and theirs["input_size"][-2] == size:
            assert len(said) == 1 and said[0].endswith(f"as timm evaluates {name} by its configuration")
        else:
            del found[name], expected[name]
    assert found == expected and len(found) > 1000 and warned


@pytest.mark.parametrize(
    ("data", "making", "said"),
    [
        ({}, (224, 232, "bilinear"), "are taken, as torchvision evaluated resnet50 IMAGENET1K_V2"),
        (
            {"val_resize": 256},
            (224, 256, "bilinear"),
            "by the options data.val_resize; torchvision evaluated resnet50 IMAGENET1K_V2 with data.val_resize=232",
        ),
        (
            {"val_image_size": 448},
            (448, 464, "bilinear"),
            "by the options data.val_image_size, and the rest as torchvision evaluated resnet50 IMAGENET1K_V2",
        ),
        ({"val_image_size": 64, "val_resize": 64, "interpolation": "bicubic"}, (64, 64, "bicubic"), "by the options"),
    ],
)
def test_options_win_and_are_told(data: dict[str, Any], making: tuple[int, int, str], said: str) -> None:
    found, (sentence,) = settled("resnet50", "IMAGENET1K_V2", **data)
    assert found == making and said in sentence
    assert f"the short side becomes {making[1]} pixels ({making[2]}, antialiased)" in sentence
    assert f"of which the central {making[0]} x {making[0]}" in sentence


def test_a_side_keeps_the_share_of_timms_crop() -> None:
    assert settled("timm/vit_tiny_patch16_224", "timm", val_image_size=256)[0] == (256, 284, "bicubic")


def checkpoint(path: Path, **data: Any) -> str:
    state: dict[str, Any] = {key: {} for key in ("optimizer", "schedule", "epoch", "batches_done", "best_acc1")}
    model = torch.nn.Linear(2, 2).state_dict()
    torch.save(state | {"model": model, "config": {"model": {"weights": ""}, "data": data}, "environment": {}}, path)
    return str(path)


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_a_checkpoint_of_ours_has_what_it_recorded(name: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "last.pt", val_image_size=64, val_resize=70, interpolation="bicubic")
    found, (said,) = settled(name, path)
    assert found == (64, 70, "bicubic") and said.endswith(f"as {path} was validated")
    assert settled(name, path, val_image_size=128)[0] == (128, 140, "bicubic")


def test_what_nothing_is_known_of_has_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    torch.save({"weight": torch.ones(2, 2)}, path)
    found, (said,) = settled("resnet18", str(path))
    assert found == (224, 256, "bilinear")
    assert said.endswith(f"by default, since nothing says how {path} was evaluated")
    found, (said,) = settled("resnet18", str(path), val_image_size=96)
    assert found == (96, 256, "bilinear") and "by the options data.val_image_size, since nothing says" in said


def test_training_is_as_it_was() -> None:
    config = Config(model=ModelConfig("resnet50", "IMAGENET1K_V2"))
    assert settle(config) == [] and (config.data.val_side, *config.data.making) == (224, 256, "bilinear")


@pytest.mark.parametrize("name", ["resnet18", "timm/resnet18"])
def test_weights_that_are_not_there_are_a_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match="model.weights=none.pth is neither a file nor"):
        settled(name, "none.pth")
