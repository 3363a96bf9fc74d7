"""Data sets whose samples this machine makes, and what is kept of their photos: a JPEG index, and decoded photos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from etl.decoded_cache import DecodedCache
from etl.spec import RECIPES
from sources.batch import Counts
from sources.decoded import CacheReport, Splits, beginning, open_cache, report
from sources.jpeg_index import FolderIndex, open_index
from sources.notices import Notices
from sources.samples import Reader, SampleDataset
from sources.source import Specs
from training.config.schema import Config

_GAINS_EPOCHS = 3
"""The least number of epochs in which a JPEG index saves more time than making it costs (docs/jpeg-index.md)."""


@dataclass(frozen=True)
class Kept:
    """What is kept of photos; None where nothing is."""

    jpeg_index: FolderIndex | None
    cache: DecodedCache | None

    @property
    def cache_report(self) -> Callable[[Counts], CacheReport] | None:
        """Tell what became of the decoded photos, as ``Data.cache_report``."""
        return partial(report, self.cache) if self.cache else None

    def end(self, say: Callable[[str], None]) -> None:
        """Say what a run has added to the JPEG index."""
        if self.jpeg_index:
            self.jpeg_index.report(say)


def open_kept(config: Config, root: Path, splits: Splits, say: Callable[[str], None]) -> Kept:
    """Open the JPEG index and the decoded photos of the data in ``root``, as far as the options want them.

    A run that is too short to gain from a JPEG index makes none, and uses one that is there.
    """
    data, total = config.data, sum(len(manifest) for manifest, _ in splits)
    gains = config.mode == "train" and config.train.epochs >= _GAINS_EPOCHS
    jpeg_index = open_index(root, total, say, made=gains) if data.index == "auto" else None
    cache = open_cache(data.cache_dir, data.cache_gb, root) if data.cache == "decoded" else None
    if cache:
        say(beginning(cache, data.cache_dir, splits))
    return Kept(jpeg_index, cache)


def made_here(
    config: Config,
    specs: tuple[Specs, Specs],
    readers: Sequence[Reader],
    notices: Notices,
    kept: Kept,
    folders: Sequence[Path],
) -> tuple[SampleDataset, SampleDataset]:
    """Return both splits. ``folders``: what tells the photos of the two apart in the JPEG index."""
    data = config.data
    train, val = (
        SampleDataset(
            reader,
            reader.manifest,
            spec,
            config.seed,
            data.wire,
            replace=recipe == "train" and data.on_corrupt == "replace",
            notices=notices,
            index=kept.jpeg_index.of(folder) if kept.jpeg_index else None,
            cache=kept.cache,
        )
        for recipe, reader, spec, folder in zip(RECIPES, readers, specs, folders, strict=True)
    )
    return train, val
