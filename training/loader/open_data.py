"""The data sources by name. Another source is one more line of ``OPENERS``; nothing downstream changes."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etl.spec import RECIPES, Spec
from sources.batch import Counts
from sources.decoded import CacheReport, open_cache
from sources.errors import ConfigError
from sources.folder import FolderReader
from sources.manifest import Manifest
from sources.notices import Listener
from sources.samples import SyntheticDataset
from sources.shards.manifest import ShardManifest
from sources.shards.reader import ShardReader
from sources.shards.splits import ShardOptions, shard_splits
from sources.shared_memory import share
from sources.source import Source, Specs
from sources.splits import splits_of
from training.config.data_options import DataConfig
from training.config.schema import Config
from training.loader.made_here import made_here, open_kept
from training.processes.collectives import run_on_rank0
from training.processes.world import World
from training.report.output import put_error


@dataclass(frozen=True)
class Data:
    """Both splits, the number of classes, and what environment.json says of them."""

    train: Source
    val: Source
    num_classes: int
    description: dict[str, Any]
    class_names: tuple[str, ...] = ()
    """The names of the classes in the order of their numbers; none for data=synthetic."""
    train_labels: NDArray[Any] | None = None
    """The labels of the training samples, integers [n]; None for data=synthetic."""
    train_blocks: NDArray[Any] | None = None
    """The shard of each training sample, integers [n], if data.order=blocks; else None."""
    sets: NDArray[np.bool_] | None = None
    """If a sample may have several classes: the table, bool [sets, classes], of which each label is a row."""
    val_name: Callable[[int], str] = "sample {}".format
    """The name of a validation photo, below the folder or the prefix of its split."""
    cache_report: Callable[[Counts], CacheReport] | None = None
    """What became of the decoded photos that were kept, for the counts of a run; None where none are."""


Opener = Callable[[Config, int, World, Callable[[str], None]], AbstractContextManager[Data]]
"""Opens a source, as ``open_data`` does."""


def open_data(
    config: Config, batch_size: int, world: World, say: Callable[[str], None]
) -> AbstractContextManager[Data]:
    """The source that ``config.data.source`` names; ``batch_size`` is that of one process.

    What it starts for the run, it stops at the end of the context. Raises ConfigError or ClusterError.
    """
    return OPENERS[config.data.source](config, batch_size, world, say)


def build_specs(config: Config) -> tuple[Specs, Specs]:
    """What training and validation samples look like. Raises ConfigError for sizes and ranges that make no sense."""
    data = config.data
    resize, _ = data.making

    def spec(recipe: str, **sizes: int) -> Spec:
        return Spec.of(recipe, **{name: getattr(data, name) for name in RECIPES[recipe].keys() - sizes}, **sizes)

    try:
        first, *later = ((epoch, spec("train", size=side)) for epoch, side in data.sides() or [(0, data.image_size)])
        val = spec("val", size=data.val_side, resize=resize)
    except ValueError as error:
        raise ConfigError(f"data.image_size, sizes, val_image_size, val_resize, scale or ratio: {error}.") from None
    return Specs(first[1], tuple(later)), Specs(val)


def _data(sources: tuple[Source, Source], splits: tuple[Manifest, Manifest], about: dict[str, Any]) -> Data:
    train_manifest, val_manifest = splits
    manifests = {"train": train_manifest, "val": val_manifest}
    description = about | {
        name: {"samples": len(manifest), "sha256": manifest.sha256()}
        for name, manifest in manifests.items()
        if name == "val" or len(manifest)
    }
    description["classes"] = len(train_manifest.classes)
    classes, labels = train_manifest.classes, train_manifest.labels
    return Data(
        *sources, len(classes), description, classes, labels, sets=val_manifest.sets, val_name=val_manifest.name
    )


@contextmanager
def _imagefolder(config: Config, batch_size: int, world: World, say: Callable[[str], None]) -> Iterator[Data]:
    root, data, specs = Path(config.data.root), config.data, build_specs(config)
    found = splits_of(root, data.split, say, with_train=config.mode == "train")
    train, val = (share(part.manifest) for part in found)
    if (empty := np.flatnonzero(val.sizes == 0)).size:
        raise ConfigError(
            f"{found[1].folder}/{val.name(int(empty[0]))} is empty, and {len(empty) - 1:,} more files of "
            f"{found[1].folder.name}/ are: replace or remove them. Each validation would end the run there."
        )
    with _listener(config, world, say) as listener:
        waits = listener.notices.waits
        readers = [
            FolderReader(part.folder, manifest, data.patience_s, waits)
            for part, manifest in zip(found, (train, val), strict=True)
        ]
        kept = open_kept(config, root, [(reader.manifest, reader.stored) for reader in readers], say)
        both = made_here(config, specs, readers, listener.notices, kept, [part.folder for part in found])
        yield replace(_data(both, (train, val), {"source": str(root)}), cache_report=kept.cache_report)
    if world.is_main:
        kept.end(say)


@contextmanager
def _shards(config: Config, batch_size: int, world: World, say: Callable[[str], None]) -> Iterator[Data]:
    data, specs, trains = config.data, build_specs(config), config.mode == "train"
    options = ShardOptions(data.root, data.train_shards, data.val_shards, data.label_field, data.classes, data.held_out)
    mine: list[tuple[ShardManifest, ShardManifest]] = []
    run_on_rank0(world, lambda: mine.append(shard_splits(options, say, trains)))  # which keeps the index for the others
    train, val = mine[0] if mine else shard_splits(options, lambda text: None, trains)
    if (empty := np.flatnonzero(val.sizes == 0)).size:
        at = int(empty[0])
        raise ConfigError(
            f"{val.name(at)} in {val.place(at).path} is empty, and {len(empty) - 1:,} more of the validation are: make "
            "the shard anew, with the photos or without them. Each validation would end the run there."
        )
    ahead = data.block_shards if data.order == "blocks" else 0
    with _listener(config, world, say) as listener:
        readers = [ShardReader(part, data.patience_s, listener.notices.waits, ahead) for part in (train, val)]
        kept = open_kept(config, train.folder, [(reader.manifest, reader.stored) for reader in readers], say)
        folders = [train.folder / recipe for recipe in RECIPES]
        both = made_here(config, specs, readers, listener.notices, kept, folders)
        found = replace(_data(both, (train, val), {"source": str(train.folder)}), cache_report=kept.cache_report)
        yield _in_blocks(found, train) if data.order == "blocks" else found
    if world.is_main:
        kept.end(say)


def _in_blocks(found: Data, train: ShardManifest) -> Data:
    """The same data, whose order is by shards: a part of the description, as the manifest's hash says nothing of it."""
    blocks = train.columns.shard
    found.description["train"]["blocks"] = hashlib.sha256(blocks.astype("<u8").tobytes()).hexdigest()
    return replace(found, train_blocks=blocks)


@contextmanager
def _bucket(config: Config, batch_size: int, world: World, say: Callable[[str], None]) -> Iterator[Data]:
    # Imported here, so that a folder needs no SDK.
    from aistore_data.dataset.bucket_splits import BucketOptions
    from aistore_data.dataset.open_bucket import default_workers, open_bucket
    from aistore_data.etls.kept import PodCaches
    from aistore_data.etls.lifecycle import EtlSettings

    data, etl = config.data, config.data.etl
    auto = default_workers(data.endpoint == "embedded")
    settings = _same(EtlSettings, etl) | {
        "num_workers": etl.num_workers if isinstance(etl.num_workers, int) else auto,
        "dependencies": tuple(etl.dependencies),
        "index": data.index,
        **_pod_cache(data),
    }
    own = _same(BucketOptions, data, etl, config) | {
        "endpoint_option": "data.endpoint",
        "embedded_root": Path(data.embedded_root),
        "train": config.mode == "train",
        "replace": data.on_corrupt == "replace",
        "etl_names": (etl.train_name, etl.val_name),
        "etl": EtlSettings(**settings),
    }
    options = BucketOptions(**own)
    once: Callable[[Callable[[], Any]], Any] = partial(run_on_rank0, world)
    with (
        _listener(config, world, say) as listener,
        open_bucket(options, build_specs(config), once, world.is_main, say, listener.notices) as (train, val, about),
    ):
        manifest = train.remote.manifest
        opened = _data((train, val), (manifest, val.remote.manifest), about)
        if data.order == "blocks" and isinstance(manifest, ShardManifest):
            opened = _in_blocks(opened, manifest)
        if data.cache == "decoded" and world.is_main and train.remote.etl_name:
            caches = PodCaches(train.remote)
            for sentence in caches.beginning():
                say(sentence)
            opened = replace(opened, cache_report=caches.report)
        yield opened


def _pod_cache(data: DataConfig) -> dict[str, Any]:
    """What the pods of the training ETL keep. Embedded pods keep it where a folder's photos are kept."""
    if data.cache == "none":
        return {}
    embedded = data.endpoint == "embedded"
    cache = open_cache(data.cache_dir, data.cache_gb, Path(data.embedded_root)) if embedded else None
    return {"cache_gb": data.cache_gb, "cache_dir": cache.folder if cache else data.cache_dir}


def _same(kind: type, *parts: Any) -> dict[str, Any]:
    """The fields of ``kind`` that are options of these parts of the configuration, too."""
    names = [field.name for field in fields(kind)]
    return {name: getattr(part, name) for part in parts for name in names if hasattr(part, name)}


def _listener(config: Config, world: World, say: Callable[[str], None]) -> Listener:
    """Return a listener for this process's loader workers; every rank speaks, as it may concern its machine alone."""
    aside = say if world.is_main else lambda text: put_error(f"rank {world.rank}: {text}")
    return Listener(config.data.patience_s, aside)


@contextmanager
def _synthetic(config: Config, batch_size: int, world: World, say: Callable[[str], None]) -> Iterator[Data]:
    classes, (train, val) = config.model.num_classes or 1000, build_specs(config)
    yield Data(
        SyntheticDataset(config.data.train_samples, train, classes, batch_size),
        SyntheticDataset(config.data.val_samples, val, classes, batch_size),
        classes,
        {"source": "synthetic", "classes": classes},
    )


OPENERS: dict[str, Opener] = {
    "synthetic": _synthetic,
    "imagefolder": _imagefolder,
    "shards": _shards,
    "aistore": _bucket,
}
