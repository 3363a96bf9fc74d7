"""Position embeddings of weights for images of another size: resampled by the model's library, and told."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings

from sources.errors import UserError
from tests.unit.test_head import bundle, saved, states
from training.model.positions import fit_positions

pytestmark = pytest.mark.usefixtures("one_thread")


def small(side: int) -> VisionTransformer:
    return VisionTransformer(side, 8, num_layers=1, num_heads=1, hidden_dim=8, mlp_dim=8, num_classes=3)


def test_torchvisions_are_interpolated_by_its_own_function() -> None:
    theirs, ours = small(32), small(48)
    tensors, note = fit_positions(theirs.state_dict(), ours, frozenset(), "model.weights=x")
    assert note.endswith("the weights': encoder.pos_embedding from [1, 17, 8] to [1, 37, 8].")
    ours.load_state_dict(tensors)
    expected = interpolate_embeddings(48, 8, theirs.state_dict())["encoder.pos_embedding"]
    assert torch.equal(ours.encoder.pos_embedding, expected)
    same = theirs.state_dict()
    taken, note = fit_positions(same, small(32), frozenset(), "")
    assert taken is same and not note


def test_timms_are_resampled_as_timm_does(tmp_path: Path) -> None:
    import timm

    source = timm.create_model("test_vit", num_classes=7, img_size=96)
    path = saved(source, tmp_path)
    made = bundle("timm/test_vit", path, 7, side=128)
    assert any("position embeddings are interpolated" in note for note in made.notes)
    overlay: dict[str, Any] = {"file": str(path), "num_classes": 7, "input_size": (3, 96, 96)}
    theirs = timm.create_model("test_vit", pretrained=True, num_classes=7, img_size=128, pretrained_cfg_overlay=overlay)
    for name, value in states(theirs).items():
        assert torch.equal(states(made.module)[name], value), name
    other_classes = bundle("timm/test_vit", path, 3, side=128)
    assert other_classes.new_head and torch.equal(other_classes.module.pos_embed, theirs.pos_embed)


def test_what_no_library_resamples_is_refused(tmp_path: Path) -> None:
    import timm

    path = saved(timm.create_model("mixer_s32_224", num_classes=7, img_size=64), tmp_path)
    with pytest.raises(UserError, match="does not fit timm/mixer_s32_224: blocks.0.mlp_tokens.fc1.weight has shape"):
        bundle("timm/mixer_s32_224", path, 7, side=96)
    other = nn.Linear(3, 2).state_dict() | {"encoder.pos_embedding": torch.zeros(2, 5, 8)}
    taken, note = fit_positions(other, small(48), frozenset(), "")
    assert taken is other and not note


def test_published_weights_of_torchvision_fit_images_of_another_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if they had been downloaded before: torch.hub does not read a file again that is in its folder.
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    source = torchvision.models.vit_b_32()
    torch.save(source.state_dict(), tmp_path / "hub" / "checkpoints" / "vit_b_32-d86f8d99.pth")
    made = bundle("vit_b_32", "IMAGENET1K_V1", 1000, side=64)
    assert any("encoder.pos_embedding from [1, 50, 768] to [1, 5, 768]" in note for note in made.notes)
    assert made.module.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
