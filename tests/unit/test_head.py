"""The classifier when weights are taken over: kept, refused, or begun anew, and what a person is told of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from sources.errors import ConfigError, UserError
from training.config.train_options import ModelConfig
from training.model.bundle import Bundle, Inputs, Preprocessing, builder
from training.model.head import class_axes
from training.model.image_sizes import builder_options, on_meta

THEIRS = 7


def bundle(
    name: str, weights: Path | str, classes: int, side: int = 64, training: bool = True, **options: Any
) -> Bundle:
    config = ModelConfig(name, str(weights), **options)
    inputs = Inputs(side if training else None, Preprocessing(side, side, "bilinear"))
    return builder(name).build(config, classes, inputs)


def torchvisions(name: str, side: int = 64) -> dict[str, int]:
    return class_axes(lambda classes: on_meta(name, classes, builder_options(name, side)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", {"fc.weight", "fc.bias"}),
        ("squeezenet1_1", {"classifier.1.weight", "classifier.1.bias"}),
        ("vit_b_16", {"heads.head.weight", "heads.head.bias"}),
        ("googlenet", {f"{part}.{kind}" for part in ("fc", "aux1.fc2", "aux2.fc2") for kind in ("weight", "bias")}),
    ],
)
def test_the_classifier_is_what_depends_on_the_classes(name: str, expected: set[str]) -> None:
    axes = torchvisions(name)
    assert set(axes) == expected and set(axes.values()) == {0}


@pytest.mark.long
def test_each_model_of_torchvision_has_a_classifier() -> None:
    for name in torchvision.models.list_models(module=torchvision.models):
        assert torchvisions(name, 224), name


def states(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def saved(model: nn.Module, folder: Path) -> Path:
    path = folder / "weights.pt"
    torch.save(model.state_dict(), path)
    return path


def assert_taken(made: dict[str, torch.Tensor], source: dict[str, torch.Tensor], new: set[str]) -> None:
    for name, value in made.items():
        if name in new:
            assert value.shape != source[name].shape or not torch.equal(value, source[name]), name
        else:
            assert torch.equal(value, source[name]), name


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("resnet18", {"fc.weight", "fc.bias"}),
        ("timm/deit_tiny_distilled_patch16_224", {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}),
    ],
)
def test_weights_for_other_classes_get_a_new_classifier(name: str, new: set[str], tmp_path: Path) -> None:
    plain = name.removeprefix("timm/")
    if plain == name:
        source = torchvision.models.get_model(name, num_classes=THEIRS)
    else:
        import timm

        source = timm.create_model(plain, num_classes=THEIRS, img_size=64)
    made = bundle(name, saved(source, tmp_path), 3)
    assert made.new_head and made.module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert_taken(states(made.module), states(source), new)
    note = next(note for note in made.notes if "classifier" in note)
    assert "begins at random for 3 classes, since the weights are for 7 classes" in note and sorted(new)[0] in note


@pytest.mark.parametrize("name", ["timm/test_efficientnet", "mobilenet_v3_small"])
def test_a_new_classifier_is_small_for_few_classes_too(name: str, tmp_path: Path) -> None:
    source = builder(name).build(ModelConfig(name), THEIRS, Inputs(64, Preprocessing(64, 64, "bilinear"))).module
    made = bundle(name, saved(source, tmp_path), 2)
    linear = [module for module in made.module.modules() if isinstance(module, nn.Linear)][-1]
    assert linear.out_features == 2 and 0 < float(linear.weight.abs().max()) <= linear.in_features**-0.5


def test_auxiliary_classifiers_begin_anew_too(tmp_path: Path) -> None:
    source = torchvision.models.googlenet(num_classes=THEIRS, init_weights=False)
    made = bundle("googlenet", saved(source, tmp_path), 3, side=96)
    assert_taken(states(made.module), states(source), set(torchvisions("googlenet")))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return saved(torchvision.models.resnet18(num_classes=THEIRS), tmp_path)


def test_a_classifier_that_fits_is_kept_unless_a_new_one_is_asked_for(weights: Path) -> None:
    source, new = torch.load(weights), {"fc.weight", "fc.bias"}
    made = bundle("resnet18", weights, THEIRS)
    assert not made.new_head and made.notes == ()
    assert_taken(states(made.module), source, set())
    made = bundle("resnet18", weights, THEIRS, head="new")
    assert made.new_head and any("since model.head=new" in note for note in made.notes)
    assert_taken(states(made.module), source, new)


def test_outputs_can_be_kept_for_fewer_classes(weights: Path) -> None:
    for training in (True, False):
        made = bundle("resnet18", weights, 3, training=training, head="keep")
        assert made.module.fc.out_features == THEIRS and not made.new_head
        assert "the model keeps the 7 outputs of model.weights=" in made.notes[0]


@pytest.mark.parametrize(
    ("classes", "options", "expected"),
    [
        (9, {"head": "keep"}, r"model.head=keep: model.weights=.* is for 7 classes, and the model is to have 9"),
        (
            3,
            {"training": False},
            "is for 7 classes, and the model is to have 3: .* or model.head=keep where the folders are",
        ),
        (9, {"training": False}, "is for 7 classes, and the model is to have 9: .* Take data with these.$"),
        (7, {"training": False, "head": "new"}, "model.head=new: an evaluation needs"),
    ],
)
def test_what_cannot_be_is_a_sentence(weights: Path, classes: int, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        bundle("resnet18", weights, classes, **options)


def test_a_file_without_a_classifier_gets_one(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(num_classes=THEIRS).state_dict()
    del state["fc.weight"], state["fc.bias"]
    path = tmp_path / "features.pt"
    torch.save(state, path)
    made = bundle("resnet18", path, 3)
    assert any("for 3 classes, since the weights have none" in note for note in made.notes)
    with pytest.raises(ConfigError, match="has no classifier, and an evaluation needs"):
        bundle("resnet18", path, 3, training=False)
    with pytest.raises(ConfigError, match="model.head=keep: .* has no classifier"):
        bundle("resnet18", path, 3, head="keep")


def test_weights_of_another_model_are_still_refused(weights: Path) -> None:
    with pytest.raises(UserError, match="does not fit resnet34: layer1.2.conv1.weight is missing"):
        bundle("resnet34", weights, 3)


def test_torchvisions_own_weights_get_a_new_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if they had been downloaded before: torch.hub does not read a file again that is in its folder.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    source = torchvision.models.resnet18()
    torch.save(source.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    made = bundle("resnet18", "IMAGENET1K_V1", 3)
    assert made.new_head and made.module.fc.out_features == 3
    assert_taken(states(made.module), states(source), {"fc.weight", "fc.bias"})
    kept = bundle("resnet18", "IMAGENET1K_V1", 3, head="keep")
    assert_taken(states(kept.module), states(source), set())
    with pytest.raises(
        ConfigError, match="model.weights=IMAGENET1K_V1 is for 1,000 classes, and the model is to have 3"
    ):
        bundle("resnet18", "IMAGENET1K_V1", 3, training=False)
