"""The data sources by name. Another source is one more function here; nothing downstream changes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from etl import Spec
from sources.dataset import BatchDataset, SampleDataset, SyntheticDataset
from sources.errors import ConfigError
from sources.folder import FolderReader, scan_folder
from sources.manifest import Manifest
from sources.notices import Listener, Notices
from sources.shared_memory import share
from training.config.schema import Config
from training.processes.world import World


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
        with _listener(config, world, say) as listener:
            yield _imagefolder(config, train_spec, val_spec, listener.notices, say)
    else:
        from aistore_data.dataset.open_bucket import open_bucket  # here, so that a folder needs no SDK

        with (
            _listener(config, world, say) as listener,
            open_bucket(config, train_spec, val_spec, world, say, listener.notices) as (train, val, about),
        ):
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
        **(
            {"train": {"samples": len(train_manifest), "sha256": train_manifest.sha256()}}
            if len(train_manifest)
            else {}
        ),
        "val": {"samples": len(val_manifest), "sha256": val_manifest.sha256()},
        "classes": len(train_manifest.classes),
    }
    return Data(train, val, len(train_manifest.classes), description, train_manifest.classes)


def _imagefolder(
    config: Config, train_spec: Spec, val_spec: Spec, notices: Notices, say: Callable[[str], None]
) -> Data:
    root, data = Path(config.data.root), config.data
    train, val = map(share, scan_folder(root, say, with_train=config.mode == "train"))
    if (empty := np.flatnonzero(val.sizes == 0)).size:
        raise ConfigError(
            f"{root}/val/{val.name(int(empty[0]))} is empty, and {len(empty) - 1:,} more files of val/ are: replace or "
            "remove them. Each validation would end the run there."
        )

    def samples(split: str, manifest: Manifest, spec: Spec, replace: bool) -> SampleDataset:
        reader = FolderReader(root / split, manifest, data.patience_s, notices.waits)
        return SampleDataset(reader, manifest, spec, config.seed, data.wire, replace, notices)

    return _data(
        samples("train", train, train_spec, data.on_corrupt == "replace"),
        samples("val", val, val_spec, False),
        train,
        val,
        {"source": str(root)},
    )


def _listener(config: Config, world: World, say: Callable[[str], None]) -> Listener:
    """Of this process's loader workers; what they tell may concern its machine alone, so every rank says it."""

    def aside(text: str) -> None:
        print(f"rank {world.rank}: {text}", file=sys.stderr, flush=True)

    return Listener(config.data.patience_s, say if world.is_main else aside)


def _synthetic(config: Config, train_spec: Spec, val_spec: Spec, batch_size: int, device: torch.device) -> Data:
    classes = config.model.num_classes or 1000
    pin = device.type == "cuda"
    return Data(
        SyntheticDataset(config.data.train_samples, train_spec.size, classes, batch_size, pin),
        SyntheticDataset(config.data.val_samples, val_spec.size, classes, batch_size, pin),
        classes,
        {"source": "synthetic", "classes": classes},
    )
