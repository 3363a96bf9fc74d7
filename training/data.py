"""The data sources by name. Another source is one more function here; nothing downstream changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aistore_data.errors import ConfigError
from aistore_data.folder import FolderReader, scan_folder
from aistore_data.manifest import Manifest
from aistore_data.shared import share
from etl import Spec
from training.config import Config
from training.dataset import BatchDataset, SampleDataset, SyntheticDataset
from training.distributed import World


@dataclass(frozen=True)
class Data:
    """Both splits, the number of classes, and what environment.json says of them."""

    train: BatchDataset
    val: BatchDataset
    num_classes: int
    description: dict[str, Any]
    class_names: tuple[str, ...] = ()
    """In the order of their numbers; none for data=synthetic."""


@contextmanager
def open_data(
    config: Config, batch_size: int, device: torch.device, world: World, say: Callable[[str], None]
) -> Iterator[Data]:
    """The source that ``config.data.source`` names; ``batch_size`` is that of one process.

    What it starts for the run, it stops at the end of the context. Raises ConfigError or ClusterError.
    """
    train_spec, val_spec = build_specs(config)
    if config.data.source == "synthetic":
        yield _synthetic(config, train_spec, val_spec, batch_size, device)
    elif config.data.source == "imagefolder":
        yield _imagefolder(config, train_spec, val_spec)
    else:
        from training.bucket import open_bucket  # here, so that a folder needs no SDK

        with open_bucket(config, train_spec, val_spec, world, say) as (train, val, about):
            yield _data(train, val, train.remote.manifest, val.remote.manifest, about)


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


def _data(
    train: BatchDataset, val: BatchDataset, train_manifest: Manifest, val_manifest: Manifest, about: dict[str, Any]
) -> Data:
    description = about | {
        "train": {"samples": len(train_manifest), "sha256": train_manifest.sha256()},
        "val": {"samples": len(val_manifest), "sha256": val_manifest.sha256()},
        "classes": len(train_manifest.classes),
    }
    return Data(train, val, len(train_manifest.classes), description, train_manifest.classes)


def _imagefolder(config: Config, train_spec: Spec, val_spec: Spec) -> Data:
    root, wire, replace = Path(config.data.root), config.data.wire, config.data.on_corrupt == "replace"
    train, val = map(share, scan_folder(root))
    return _data(
        SampleDataset(FolderReader(root / "train", train), train, train_spec, config.seed, wire, replace),
        SampleDataset(FolderReader(root / "val", val), val, val_spec, config.seed, wire),
        train,
        val,
        {"source": str(root)},
    )


def _synthetic(config: Config, train_spec: Spec, val_spec: Spec, batch_size: int, device: torch.device) -> Data:
    classes = config.model.num_classes or 1000
    pin = device.type == "cuda"
    return Data(
        SyntheticDataset(config.data.train_samples, train_spec.size, classes, batch_size, pin),
        SyntheticDataset(config.data.val_samples, val_spec.size, classes, batch_size, pin),
        classes,
        {"source": "synthetic", "classes": classes},
    )
