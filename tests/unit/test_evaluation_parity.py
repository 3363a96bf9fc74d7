"""The logits of an evaluation are those of torchvision's and timm's own evaluation code, for the same photos.

Three steps are compared. The pixels (uint8) are theirs bit for bit. So are the logits that the model answers to the
same floats. In between stands the normalisation: (x - 255 mean) / (255 std) in float32, which is timm's with its
prefetcher up to the rounding of 255 mean and 255 std, and torchvision's (x / 255 - mean) / std up to a few roundings.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image

from etl import Spec, transform
from training.config.train_options import ModelConfig
from training.model.bundle import Bundle, Inputs, Preprocessing, builder, normalise

LONG = pytest.mark.long

OF_TORCHVISION = [
    ("resnet18", "IMAGENET1K_V1"),
    ("efficientnet_b0", "IMAGENET1K_V1"),
    pytest.param("mobilenet_v3_large", "IMAGENET1K_V2", marks=LONG),
    pytest.param("convnext_tiny", "IMAGENET1K_V1", marks=LONG),
    pytest.param("efficientnet_b1", "IMAGENET1K_V2", marks=LONG),
    pytest.param("efficientnet_b2", "IMAGENET1K_V1", marks=LONG),
    pytest.param("inception_v3", "IMAGENET1K_V1", marks=LONG),
    pytest.param("swin_t", "IMAGENET1K_V1", marks=LONG),
    pytest.param("maxvit_t", "IMAGENET1K_V1", marks=LONG),
    pytest.param("swin_v2_t", "IMAGENET1K_V1", marks=LONG),
]
OF_TIMM = [
    "mobilevit_xxs.cvnets_in1k",
    "tf_efficientnet_lite0.in1k",
    pytest.param("tinynet_e.in1k", marks=LONG),
    pytest.param("resnet18.a1_in1k", marks=LONG),
    pytest.param("test_vit.r160_in1k", marks=LONG),
    pytest.param("vit_tiny_patch16_224.augreg_in21k_ft_in1k", marks=LONG),
    pytest.param("efficientvit_b0.r224_in1k", marks=LONG),
    pytest.param("edgenext_xx_small.in1k", marks=LONG),
    pytest.param("ghostnet_100.in1k", marks=LONG),
    pytest.param("tf_efficientnet_lite1.in1k", marks=LONG),
]


def evaluated(name: str, weights: Path, images: Preprocessing) -> Bundle:
    """Ours, for an evaluation."""
    made = builder(name).build(ModelConfig(name, str(weights)), 1000, Inputs(None, images))
    made.module.eval()
    return made


def pixels(photos: list[Path], images: Preprocessing) -> torch.Tensor:
    """Our samples, uint8 [n, H, W, 3]."""
    spec = Spec.val(images.image_size, images.resize, images.interpolation)  # type: ignore[arg-type]
    return torch.stack([torch.from_numpy(transform(path.read_bytes(), spec)) for path in photos])


def compare(ours: Bundle, theirs: torch.nn.Module, made: torch.Tensor, floats: torch.Tensor) -> None:
    """``made``: our uint8 [n, H, W, 3]; ``floats``: what their code makes of the same, float32 [n, 3, H, W]."""
    inputs = normalise(made, ours.mean, ours.std, channels_last=False)
    torch.testing.assert_close(inputs, floats, rtol=1e-5, atol=2e-6)
    with torch.inference_mode():
        expected = theirs.eval()(floats)
        assert torch.equal(ours.module(floats), expected)
        found = ours.module(inputs)
    spread = expected.std(dim=1).mean()
    assert (found - expected).abs().max() < 2e-4 * spread
    assert torch.equal(found.argmax(1), expected.argmax(1))


@pytest.mark.parametrize(("name", "weights"), OF_TORCHVISION)
def test_logits_are_torchvisions(name: str, weights: str, photos: list[Path], tmp_path: Path) -> None:
    preset = torchvision.models.get_model_weights(name)[weights].transforms()
    torch.manual_seed(1)
    options: dict[str, Any] = {"transform_input": True, "init_weights": False} if name == "inception_v3" else {}
    theirs = torchvision.models.get_model(name, weights=None, **options)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    images = builder(name).own_preprocessing(ModelConfig(name, weights), None).images
    assert images is not None
    chosen = [photos[place] for place in (3, 250, 500)]
    made = pixels(chosen, images)
    opened = [torchvision.datasets.folder.pil_loader(str(path)) for path in chosen]
    floats = torch.stack([preset(photo) for photo in opened])
    preset.mean, preset.std = [0.0] * 3, [1.0] * 3
    theirs_in_levels = torch.stack([preset(photo) for photo in opened]).mul(255).round().byte()
    assert torch.equal(made.permute(0, 3, 1, 2), theirs_in_levels)
    compare(evaluated(name, tmp_path / "weights.pth", images), theirs, made, floats)


@pytest.mark.parametrize("name", OF_TIMM)
def test_logits_are_timms(name: str, photos: list[Path], tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from timm.data import create_transform, resolve_data_config

    torch.manual_seed(1)
    theirs = timm.create_model(name)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    config = resolve_data_config(model=theirs, use_test_size=True)
    images = builder("timm/x").own_preprocessing(ModelConfig(f"timm/{name}", "timm"), None).images
    assert images is not None
    chosen = [photos[place] for place in (3, 250, 500)]
    made = pixels(chosen, images)
    opened = [Image.open(path).convert("RGB") for path in chosen]
    levels: Callable[[Any], torch.Tensor] = create_transform(**config, use_prefetcher=True)
    assert torch.equal(made.permute(0, 3, 1, 2), torch.stack([levels(photo) for photo in opened]))
    floats: Callable[[Any], torch.Tensor] = create_transform(**config)
    ours = evaluated(f"timm/{name}", tmp_path / "weights.pth", images)
    compare(ours, theirs, made, torch.stack([floats(photo) for photo in opened]))
    # timm's prefetcher normalises as we do.
    mean, std = (torch.tensor([value * 255 for value in config[part]]).view(1, 3, 1, 1) for part in ("mean", "std"))
    prefetched = made.permute(0, 3, 1, 2).float().sub_(mean).div_(std)
    inputs = normalise(made, ours.mean, ours.std, channels_last=False)
    torch.testing.assert_close(inputs, prefetched, rtol=3e-7, atol=3e-7)
    if set(ours.mean) | set(ours.std) <= {0.0, 0.5, 1.0}:
        assert torch.equal(inputs, prefetched)
