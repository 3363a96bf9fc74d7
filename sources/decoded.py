"""The cache of decoded photos of a folder: where it lies, how much it will hold, and what became of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from etl.decoded_cache import FOLDER, CacheError, DecodedCache
from etl.decoded_rows import row_bytes
from sources.batch import Counts
from sources.disk import cache_folder, shown
from sources.errors import ConfigError
from sources.manifest import Manifest

_LOOKED_AT = 32
"""Photos of which the size in pixels is read, to tell how many there is room for."""


Splits = Sequence[tuple[Path, Manifest]]
"""(folder, manifest) of each."""


@dataclass(frozen=True)
class CacheReport:
    """What became of the cache: how many samples came from it, and a sentence."""

    samples: int
    sentence: str


def limit_of(gb: float) -> int:
    """Bytes of data.cache_gb."""
    return int(gb * 1e9)


def chosen_folder(cache_dir: str) -> Path:
    """``data.cache_dir``, or what it stands for where it is empty. Raises ConfigError."""
    try:
        return Path(cache_dir).absolute() if cache_dir else cache_folder() / "decoded"
    except RuntimeError as error:
        raise ConfigError(f"data.cache_dir is empty, and there is no home folder ({error}): name a folder.") from None


def open_cache(cache_dir: str, gb: float, data: Path, splits: Splits, say: Callable[[str], None]) -> DecodedCache:
    """The cache of the photos of ``splits``, which lie in ``data``; ``say`` hears of it.

    Raises ConfigError for a folder that cannot be used.
    """
    folder = chosen_folder(cache_dir)
    if folder.resolve().is_relative_to(data.resolve()):
        raise ConfigError(
            f"data.cache_dir={shown(folder)} lies in the data, {shown(data)}, where folders are classes: name another."
        )
    try:
        cache = DecodedCache(str(folder), limit_of(gb))
        cache.require_room()
    except CacheError as error:
        raise ConfigError(f"data.cache_dir={cache_dir}, data.cache_gb={gb:g}: {error}.") from None
    say(_beginning(cache, cache_dir, splits))
    return cache


def report(cache: DecodedCache, counts: Counts) -> CacheReport:
    """At the end of a run with these counts."""
    total = counts.local + counts.etl
    return CacheReport(
        counts.cache,
        f"decoded photos: {counts.cache:,} of {total:,} samples ({share(counts.cache, total)}) were made from them; "
        f"{shown(cache.folder)}/{FOLDER} holds {cache.photos:,} in {cache.size / 1e9:,.1f} GB",
    )


def share(part: float, whole: float) -> str:
    """In percent, for a sentence."""
    return f"{100 * part / max(whole, 1):.0f} %"


def _beginning(cache: DecodedCache, cache_dir: str, splits: Splits) -> str:
    total = sum(len(manifest) for _, manifest in splits)
    left = cache.limit - cache.size
    room = int(left / decoded_bytes(splits)) if total else 0
    enough = f"about {room:,} more" if room < total else "all"
    size = f"{cache.size / 1e9:,.1f} GB"
    return (
        f"decoded photos are kept in {shown(cache.folder)}/{FOLDER}"
        f"{'' if cache_dir else ' (data.cache_dir is empty)'}, which has {cache.photos:,} in {size} "
        f"and room for {enough}: {share(min(room, total), total)} of the {total:,} photos of these data"
    )


def decoded_bytes(splits: Splits) -> float:
    """Bytes that a photo takes in the cache, on average, as some of them tell; 1 MB where none can be read."""
    total, sizes = sum(len(manifest) for _, manifest in splits), []
    for folder, manifest in splits:
        count = min(len(manifest), max(1, _LOOKED_AT * len(manifest) // max(total, 1)))
        for index in np.linspace(0, len(manifest) - 1, count).astype(int).tolist():
            try:
                with Image.open(folder / manifest.name(index)) as image:
                    sizes.append(image.height * row_bytes(image.width))
            except (
                OSError,
                ValueError,
                SyntaxError,
                Image.DecompressionBombError,
            ):  # training will say so
                continue
    return sum(sizes) / len(sizes) if sizes else 1e6
