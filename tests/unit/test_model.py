"""Models by name, weights from anywhere, and a sentence for what does not fit."""

from pathlib import Path

import pytest
import torch
import torchvision

from sources.errors import ConfigError, UserError
from tests.support.models import build_model
from training.config.train_options import ModelConfig, TrainConfig
from training.engine.objective import Objective, main_logits
from training.model.bundle import Inputs, Preprocessing, preprocessing_note
from training.model.image_sizes import builder_options, check_sizes
from training.model.torchvision_models import build, evaluated


def test_an_unknown_model_gets_the_nearest_names() -> None:
    with pytest.raises(ConfigError, match="did you mean resnet18"):
        build_model(ModelConfig("resnet_18"), 10, 32, 32)
    with pytest.raises(ConfigError, match="choose among alexnet, convnext_base"):
        build_model(ModelConfig("qqq"), 10, 32, 32)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "vit_b_32"])
def test_the_last_layer_has_the_right_number_of_classes(name: str) -> None:
    model = build_model(ModelConfig(name), 7, 64, 64).eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


SOON = ("regnet_y_400mf", "swin_t", "shufflenet_v2_x0_5")
"""Models that are tried always; the others are a long matrix."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in SOON else pytest.mark.long)
        for name in torchvision.models.list_models(module=torchvision.models)
    ],
)
def test_every_model_takes_images_of_its_own_size(name: str) -> None:
    size = next(iter(torchvision.models.get_model_weights(name))).transforms().crop_size[0]
    check_sizes(name, 10, builder_options(name, size), size, size)


@pytest.mark.parametrize(
    ("name", "train", "val", "words"),
    [
        ("vit_b_32", 224, 256, "image_size=224: it is built for one size alone"),
        ("alexnet", 32, 224, "image_size=32: it needs data.image_size=63 or more"),
        ("squeezenet1_1", 64, 16, "val_image_size=16: it needs data.val_image_size=17 or more"),
        pytest.param("inception_v3", 32, 299, "image_size=32: it needs data.image_size=299", marks=pytest.mark.long),
    ],
)
def test_a_size_that_a_model_cannot_take_is_said_at_once(name: str, train: int, val: int, words: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} cannot take images of data.{words}"):
        build_model(ModelConfig(name), 10, train, val)


@pytest.mark.parametrize(("name", "size", "weights"), [("inception_v3", 299, [0.4]), ("googlenet", 64, [0.3, 0.3])])
def test_auxiliary_classifiers_count_with_their_weight(name: str, size: int, weights: list[float]) -> None:
    bundle = build(ModelConfig(name), 5, Inputs(size, Preprocessing(size, size, "bilinear")))
    outputs = bundle.module.train()(torch.randn(2, 3, size, size))
    labels = torch.tensor([1, 4])
    loss, logits = Objective(TrainConfig(), bundle).loss(outputs, labels), main_logits(outputs)
    main, *auxiliary = outputs
    cross_entropy = torch.nn.functional.cross_entropy
    expected = cross_entropy(main, labels) + sum(
        weight * cross_entropy(other, labels) for weight, other in zip(weights, auxiliary, strict=True)
    )
    torch.testing.assert_close(loss, expected)
    assert logits is main


def test_weights_from_files_of_several_shapes(tmp_path: Path) -> None:
    source = torchvision.models.resnet18(num_classes=4)
    plain = source.state_dict()
    contents = {
        "plain.pt": plain,
        "ours.pt": {"model": plain, "epoch": 3},
        "examples.pt": {"state_dict": {f"module.{k}": v for k, v in plain.items()}, "arch": "resnet18"},
        "compiled.pt": {f"_orig_mod.{k}": v for k, v in plain.items()},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
        model = build_model(ModelConfig("resnet18", str(tmp_path / name)), 4, 32, 32)
        assert all(torch.equal(value, plain[key]) for key, value in model.state_dict().items()), name


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(torchvision.models.resnet18(num_classes=4).state_dict(), path)
    with pytest.raises(UserError, match=r"does not fit resnet34: layer1.2.conv1.weight is missing"):
        build_model(ModelConfig("resnet34", str(path)), 4, 32, 32)
    path.write_text("no weights")
    with pytest.raises(ConfigError, match="is a text file, not weights"):
        build_model(ModelConfig("resnet18", str(path)), 4, 32, 32)
    torch.save([1, 2], path)
    with pytest.raises(ConfigError, match="holds a list and no state dict"):
        build_model(ModelConfig("resnet18", str(path)), 4, 32, 32)
    with pytest.raises(ConfigError, match=r"neither a file nor a name.*IMAGENET1K_V1"):
        build_model(ModelConfig("resnet18", "IMAGENET1K_V9"), 1000, 32, 32)


def test_torchvisions_weights_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if they had been downloaded before: torch.hub does not read a file again that is in its folder.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    source = torchvision.models.resnet18()
    torch.save(source.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    model = build_model(ModelConfig("resnet18", "IMAGENET1K_V1"), 1000, 224, 224)
    assert torch.equal(model.fc.weight, source.fc.weight)


def test_a_failed_download_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"resnet18-f37072fd.pth could not be downloaded"):
        build_model(ModelConfig("resnet18", "IMAGENET1K_V1"), 1000, 224, 224)


def test_another_preprocessing_than_the_weights_is_noted() -> None:
    ours = Preprocessing(224, 256, "bilinear")
    assert preprocessing_note(*evaluated(ModelConfig("resnet50", "IMAGENET1K_V1"), None), ours) is None
    note = preprocessing_note(*evaluated(ModelConfig("resnet50", "IMAGENET1K_V2"), None), ours)
    assert note is not None and "data.val_resize=232" in note
    assert preprocessing_note(*evaluated(ModelConfig("resnet50", ""), None), ours) is None
