"""The data sources by name. Another source is one more function here; nothing downstream changes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from etl import Spec
from training.config import Config
from training.dataset import BatchDataset, SampleDataset, SyntheticDataset
from training.errors import ConfigError
from training.folder import FolderReader, scan_folder


@dataclass(frozen=True)
class Data:
    """Both splits, the number of classes, and what environment.json says of them."""

    train: BatchDataset
    val: BatchDataset
    num_classes: int
    description: dict[str, Any]


def build_data(config: Config, batch_size: int, device: torch.device) -> Data:
    """The source that ``config.data.source`` names; ``batch_size`` is that of one process. Raises ConfigError."""
    if config.data.source == "synthetic":
        return _synthetic(config, batch_size, device)
    return _imagefolder(config)


def build_specs(config: Config) -> tuple[Spec, Spec]:
    """What training and validation samples look like. Raises ConfigError for sizes and ranges that make no sense."""
    data = config.data
    interpolation: Any = data.interpolation
    try:
        scale, ratio = (data.scale[0], data.scale[1]), (data.ratio[0], data.ratio[1])
        train = Spec.train(data.image_size, scale, ratio, interpolation)
        return train, Spec.val(data.val_image_size, data.val_resize, interpolation)
    except ValueError as error:
        raise ConfigError(f"data.image_size, val_image_size, val_resize, scale or ratio: {error}.") from None


def _imagefolder(config: Config) -> Data:
    train_spec, val_spec = build_specs(config)
    root = Path(config.data.root)
    train, val = scan_folder(root)
    return Data(
        SampleDataset(FolderReader(root / "train", train), train, train_spec, config.seed),
        SampleDataset(FolderReader(root / "val", val), val, val_spec, config.seed),
        len(train.classes),
        {
            "source": str(root),
            "train": {"samples": len(train), "sha256": train.sha256()},
            "val": {"samples": len(val), "sha256": val.sha256()},
            "classes": len(train.classes),
        },
    )


def _synthetic(config: Config, batch_size: int, device: torch.device) -> Data:
    train_spec, val_spec = build_specs(config)
    classes = config.model.num_classes or 1000
    pin = device.type == "cuda"
    return Data(
        SyntheticDataset(config.data.train_samples, train_spec.size, classes, batch_size, pin),
        SyntheticDataset(config.data.val_samples, val_spec.size, classes, batch_size, pin),
        classes,
        {"source": "synthetic", "classes": classes},
    )
