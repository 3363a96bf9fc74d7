"""The cache of decoded photos of a folder: where it lies, how much it will hold, and what became of it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

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

_TYPICAL_BYTES = 600_000.0
"""The average size of a decoded photo of ImageNet in bytes."""


Photo = Path | IO[bytes]
Splits = Sequence[tuple[Manifest, Callable[[int], Photo]]]
"""The manifest of each split, and a function that returns the photo at a place in it."""


@dataclass(frozen=True)
class CacheReport:
    """What became of the cache: how many samples came from it, and a sentence."""

    samples: int
    sentence: str


def open_cache(cache_dir: str, gb: float, data: Path) -> DecodedCache:
    """The cache in ``data.cache_dir``, or in what that stands for where it is empty; the photos lie in ``data``.

    Raises ConfigError for a folder that cannot be used.
    """
    try:
        folder = Path(cache_dir).absolute() if cache_dir else cache_folder() / "decoded"
    except RuntimeError as error:
        raise ConfigError(f"data.cache_dir is empty, and there is no home folder ({error}): name a folder.") from None
    if folder.resolve().is_relative_to(data.resolve()):
        raise ConfigError(
            f"data.cache_dir={shown(folder)} lies in the data, {shown(data)}, where folders are classes: name another."
        )
    try:
        cache = DecodedCache(str(folder), int(gb * 1e9))
        cache.require_room()
    except CacheError as error:
        raise ConfigError(f"data.cache_dir={cache_dir}, data.cache_gb={gb:g}: {error}.") from None
    return cache


def beginning(cache: DecodedCache, cache_dir: str, splits: Splits) -> str:
    """The sentence at the start of a run on ``splits``: where photos are kept, and how many there is room for."""
    total = sum(len(manifest) for manifest, _ in splits)
    photos = (photo(index) for manifest, photo in splits for index in _some(manifest, total))
    room = int((cache.limit - cache.size) / average_bytes(photos))
    enough = f"about {room:,} more" if room < total else "all"
    chosen = "" if cache_dir else " (data.cache_dir is empty)"
    return (
        f"decoded photos are kept in {shown(cache.folder)}/{FOLDER}"
        f"{chosen}, which has {cache.photos:,} in {cache.size / 1e9:,.1f} GB "
        f"and room for {enough}: {share(min(room, total), total)} of the {total:,} photos of these data"
    )


def report(cache: DecodedCache, counts: Counts) -> CacheReport:
    """At the end of a run with these counts."""
    total = counts.local + counts.etl
    return CacheReport(
        counts.cache,
        f"decoded photos: {counts.cache:,} of {total:,} samples ({share(counts.cache, total)}) were made from them; "
        f"{shown(cache.folder)}/{FOLDER} holds {cache.photos:,} in {cache.size / 1e9:,.1f} GB",
    )


def share(part: float, whole: float) -> str:
    """Return a share in percent, for a sentence."""
    return f"{100 * part / max(whole, 1):.0f} %"


def average_bytes(photos: Iterable[Photo]) -> float:
    """Bytes that a photo takes in the cache, by the sizes in pixels of those of these photos that can be read."""
    sizes = []
    for photo in photos:
        try:
            with Image.open(photo) as image:
                sizes.append(image.height * row_bytes(image.width))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # training will say so
            continue
    return sum(sizes) / len(sizes) if sizes else _TYPICAL_BYTES


def _some(manifest: Manifest, total: int) -> list[int]:
    """Places of so many of its photos, evenly spread, as are its part of all that are looked at."""
    count = min(len(manifest), max(1, _LOOKED_AT * len(manifest) // max(total, 1)))
    places: list[int] = np.linspace(0, len(manifest) - 1, count).astype(int).tolist()
    return places
