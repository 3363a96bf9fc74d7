"""Run directories as a run leaves them, made without training."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from tests.support.checkpoints import sound_state
from training.config.schema import Config
from training.model.bundle import Inputs, Preprocessing, builder
from training.run_dir import checkpoint
from training.run_dir.records import config_yaml

CLASSES = ("cat", "dog", "eel")


def make_run(
    root: Path,
    name: str = "shufflenet_v2_x0_5",
    classes: tuple[str, ...] = CLASSES,
    epoch: int = 2,
    epochs: int = 2,
    batches_done: int = 0,
    ema: bool = False,
    size: int = 32,
    resize: int = 36,
    data_root: Path | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
    **validation: float,
) -> Path:
    """A run of a model with random weights, or with ``tensors``; its averaged weights are others."""
    config = Config(run_dir=str(root))
    config.data.val_image_size, config.data.val_resize = size, resize
    config.data.interpolation = "bilinear"
    config.data.root = str(data_root or "/home/someone/photos")
    config.model.name, config.train.epochs = name, epochs
    images = Preprocessing(size, resize, "bilinear")

    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        module = builder(name).build(config.model, len(classes), Inputs(None, images)).module
        for key, buffer in module.named_buffers():  # as training leaves them
            if key.endswith("running_mean"):
                buffer.uniform_(-0.1, 0.1)
        if tensors:
            module.load_state_dict(tensors)
        return module.state_dict()

    figures = {"loss": 0.5, "acc1": 70.0, "acc5": 95.0, "count": 15} | validation
    facts: dict[str, Any] = {"classes": "/".join(classes)}
    data = {split: {"samples": 36, "sha256": f"{split:x<64}"} for split in ("train", "val")}
    state = sound_state(epoch) | {
        "model": weights(0),
        "config": dataclasses.asdict(config),
        "environment": {"data": data | {"classes": len(classes)}, "model": facts, "versions": {"torch": "2.6"}},
        "batches_done": batches_done,
        "steps_per_epoch": 3,
        "validation": figures if epoch else {},
    }
    if ema:
        state["ema"] = weights(1)
    checkpoint.save(root / "checkpoints", state, ["best.pt"])
    (root / "config.yaml").write_text(config_yaml(config))
    (root / "environment.json").write_text(json.dumps({"id": "0123abcd"} | state["environment"]))
    if epoch == epochs:
        (root / "summary.json").write_text("{}")
    return root
