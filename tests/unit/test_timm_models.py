"""timm's models by name: what they bring, what they take, and a sentence for what they do not."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from etl import Key, Spec, transform
from sources.errors import ConfigError, UserError
from tests.conftest import PROJECT
from training.config.data_options import DataConfig
from training.config.schema import Config
from training.config.train_options import ModelConfig, OptimConfig
from training.engine.build import settle
from training.model import timm_models
from training.model.bundle import Bundle, Inputs, Preprocessing, builder, normalise


def bundle(
    name: str, train: int | None = 64, val: int = 64, classes: int = 7, passes_of_one: int = 0, **options: Any
) -> Bundle:
    inputs = Inputs(train, Preprocessing(val, val, "bicubic"), passes_of_one)
    return builder(name).build(ModelConfig(name, **options), classes, inputs)


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/vit_tiny_patch16_224", "timm/test_convnext.r160_in1k"])
def test_a_model_has_its_classes_and_size(name: str) -> None:
    made = bundle(name)
    assert made.module.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


FAMILIES = ("efficientvit_m0", "xcit_nano_12_p8_224", pytest.param("vitamin_small_224", marks=pytest.mark.long))
"""Models that tell their patches in another way, or run a part of themselves when they are made."""


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_takes_images_of_its_own_size(name: str) -> None:
    made = bundle(f"timm/{name}", 224, 224)
    assert made.mean and made.std


@pytest.mark.long
def test_a_model_of_every_module_of_timm_can_be_made() -> None:
    from timm.models import get_pretrained_cfg, list_models, list_modules

    made = []
    for module in list_modules():
        names = [name for name in list_models(module=module) if not name.startswith("test_")]
        small = [name for name in names if any(part in name for part in ("tiny", "small", "nano", "18", "_b0", "_0"))]
        for name in (small or names)[:1]:
            size = get_pretrained_cfg(name).input_size[-1]
            inputs = Inputs(size, Preprocessing(size, size, "bicubic"))
            config = ModelConfig(f"timm/{name}")
            timm_models.check(config, 7, inputs)
            made.append(name)
    assert len(made) > 80


def test_timm_is_imported_when_it_is_named() -> None:
    code = (
        "import sys, training.run; from training.engine.build import settle; from training.config.schema import Config"
    )
    code += "; settle(Config()); sys.exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


def test_mean_and_std_are_timms() -> None:
    made = bundle("timm/vit_tiny_patch16_224")
    assert (made.mean, made.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert "mean (0.5, 0.5, 0.5) and std (0.5, 0.5, 0.5)" in made.notes[0]


@pytest.mark.parametrize(
    ("name", "given", "making", "said"),
    [
        ("timm/resnet18", {}, (235, "bicubic"), "data.val_resize=235, data.interpolation=bicubic"),
        ("timm/resnet18.tv_in1k", {}, (256, "bilinear"), "data.val_resize=256, data.interpolation=bilinear"),
        ("timm/tf_efficientnet_lite0", {}, (256, "bicubic"), "data.val_resize=256, data.interpolation=bicubic"),
        ("timm/vit_tiny_patch16_224", {"val_resize": 230}, (230, "bicubic"), "data.interpolation=bicubic"),
        ("timm/resnet18", {"val_resize": 230, "interpolation": "bilinear"}, (230, "bilinear"), None),
        ("resnet18", {}, (256, "bilinear"), None),
        ("resnet18", {"interpolation": "bicubic"}, (256, "bicubic"), None),
    ],
)
def test_crop_and_interpolation_are_timms_where_nothing_is_said(
    name: str, given: dict[str, Any], making: tuple[int, str], said: str | None
) -> None:
    config = Config(data=DataConfig(**given), model=ModelConfig(name))
    expected = [] if said is None else [f"taken over from {name}: {said}"]
    assert settle(config) == expected and config.data.making == making


def test_what_was_taken_over_is_what_the_next_start_of_the_run_has() -> None:
    config = Config(model=ModelConfig("timm/resnet18"))
    settle(config)
    assert settle(config) == [] and config.data.making == (235, "bicubic")


@pytest.mark.parametrize("name", ["timm/lamp", "timm/kron"])
def test_an_optimizer_is_looked_up_before_data_are_read(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        settle(Config(optim=OptimConfig(name)))


def test_blur_pool_drop_path_and_dropout_are_timms() -> None:
    from timm.layers import BlurPool2d, DropPath

    made = bundle("timm/resnet18", kwargs=["aa_layer=blurpool"], drop_path=0.2, dropout=0.3)
    modules = list(made.module.modules())
    assert any(isinstance(module, BlurPool2d) for module in modules)
    assert max(module.drop_prob for module in modules if isinstance(module, DropPath)) == pytest.approx(0.2)
    assert made.module.drop_rate == 0.3
    plain = bundle("timm/resnet18").module
    assert not any(isinstance(module, BlurPool2d | DropPath) for module in plain.modules())


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("timm/resnet_18", {}, r"is not a model of timm 1\..*: did you mean timm/resnet18"),
        ("timm/hf-hub:somebody/resnet18", {}, "is not a model of timm"),
        ("timm/resnet18.x1", {}, "timm .* has no such tag; it has timm/resnet18.a1_in1k"),
        ("timm/mobilenetv5_300m_enc", {}, "timm/mobilenetv5_300m_enc (is not a classifier|cannot be made)"),
        ("timm/vit_tiny_patch16_224", {"train": 70, "val": 70}, "data.image_size=70: it takes multiples of 16"),
        ("timm/vit_tiny_patch16_224", {"train": 64, "val": 96}, "data.image_size=64: it is built for one size alone"),
        ("timm/resnet18", {"kwargs": ["aa_layer"]}, "model.kwargs takes NAME=VALUE, such as aa_layer=blurpool, not"),
        ("timm/resnet18", {"kwargs": ["checkpoint_path=x.pt"]}, "checkpoint_path is not taken there"),
        ("timm/resnet18", {"kwargs": ["blur=1"]}, "timm/resnet18 cannot be made with model.kwargs=blur"),
        ("timm/vgg11", {"drop_path": 0.1}, "timm/vgg11 cannot be made with model.drop_path"),
        ("timm/resnet18", {"weights": "nowhere.pt"}, r"neither a file nor weights of timm's.*timm, a1_in1k"),
        ("timm/resnet18", {"passes_of_one": 2, "train": 32}, "leaves one image for each pass"),
        ("timm/resnet18", {"weights": "timm", "train": None}, "for 1,000 classes, and the model is to have 7"),
        ("resnet18", {"kwargs": ["aa_layer=blurpool"]}, "model.kwargs=aa_layer=blurpool is for models of timm"),
        ("resnet18", {"drop_path": 0.1}, "resnet18 of torchvision has no stochastic depth; ConvNeXt,"),
        ("resnet18", {"dropout": 0.1}, "resnet18 of torchvision has no dropout to set"),
    ],
)  # fmt: skip
def test_what_a_model_cannot_be_or_take_is_a_sentence(name: str, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        bundle(name, **options)


@pytest.mark.parametrize(
    ("name", "field", "rate"),
    [("convnext_tiny", "stochastic_depth_prob", 0.3), ("efficientnet_b0", "stochastic_depth_prob", 0.3)],
)
def test_drop_path_is_torchvisions_own(name: str, field: str, rate: float) -> None:
    import torchvision
    from torchvision.ops import StochasticDepth

    from training.model.regularisation import set_drop_path

    with torch.device("meta"):
        expected = torchvision.models.get_model(name, **{field: rate})
        ours = torchvision.models.get_model(name)
    set_drop_path(ours, ModelConfig(name, drop_path=rate))
    probabilities = [
        [module.p for module in model.modules() if isinstance(module, StochasticDepth)] for model in (ours, expected)
    ]
    assert probabilities[0] == pytest.approx(probabilities[1], rel=1e-12) and max(probabilities[0]) > 0.25


@pytest.mark.parametrize(("name", "layers"), [("mobilenet_v3_small", 1), ("vit_b_32", 1), ("swin_t", 1)])
def test_dropout_is_torchvisions_own(name: str, layers: int) -> None:
    made = bundle(name, dropout=0.35).module
    found = [module.p for module in made.modules() if isinstance(module, torch.nn.Dropout)]
    found += [module.drop_rate for module in made.modules() if hasattr(module, "drop_rate")]
    assert 0.35 in found and len(found) >= layers


def test_weights_that_cannot_be_downloaded_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"timm's weights of test_vit.r160_in1k could not be downloaded: .*model.weights"
    ):
        bundle("timm/test_vit", weights="r160_in1k", classes=1000, train=160, val=160)


def accuracy(model: Bundle, photos: list[Path], labels: list[int]) -> float:
    spec, hits = Spec.val(224, 256, "bicubic"), 0
    for begin in range(0, len(photos), 25):
        part = photos[begin : begin + 25]
        images = torch.stack([torch.from_numpy(transform(path.read_bytes(), spec, Key(0, 0, 0))) for path in part])
        with torch.inference_mode():
            logits = model.module.eval()(normalise(images, model.mean, model.std, True))
        hits += int((logits.argmax(1) == torch.tensor(labels[begin : begin + 25])).sum())
    return hits / len(photos)


@pytest.mark.parametrize("every", [50, pytest.param(1, marks=pytest.mark.long)])
def test_published_weights_classify_photos(lite0: Path, photos: list[Path], every: int) -> None:
    made = bundle("timm/tf_efficientnet_lite0", 224, 224, 1000, weights=str(lite0))
    chosen, labels = photos[::every], list(range(1000))[::every]
    assert accuracy(made, chosen, labels) > 0.7
