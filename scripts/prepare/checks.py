"""Whether it is ImageNet, whole: numbers, classes in their order, and the archives' MD5 sums."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from aistore_data.upload.items import Split
from aistore_data.upload.transfer import Planned
from scripts.prepare.archives import Slice
from sources.errors import DataError

COUNTS = {"train/": 1_281_167, "val/": 50_000}
"""ILSVRC 2012: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", table 2."""

CLASSES = 1000
CLASSES_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
"""SHA-256 of the wnids, sorted, one a line: torchvision's order, which pretrained weights want."""

MD5 = {
    "train": "1d675b47d978889d74fa0da5fadfb00e",
    "val": "29b22e2961454d5413ddabcf34fc5622",
    "devkit": "fa75699e90414af021442c21a62c3abf",
}
"""Of the three archives, as in torchvision/datasets/imagenet.py."""

_OTHER = "For a subset or another data set, add --allow-other."
_READ_BYTES = 4 << 20


def check_splits(splits: Sequence[Split]) -> None:
    """Raises DataError unless numbers and classes are ImageNet's."""
    wnids = splits[0].classes
    if len(wnids) != CLASSES:
        raise DataError(f"there are {len(wnids):,} classes, not ImageNet's {CLASSES:,}. {_OTHER}")
    if hashlib.sha256("\n".join(sorted(wnids)).encode()).hexdigest() != CLASSES_SHA256:
        raise DataError(f"the {CLASSES:,} classes are not ImageNet's: {wnids[0]}, {wnids[1]}, … {_OTHER}")
    for split in splits:
        if len(split.photos) != COUNTS[split.prefix]:
            raise DataError(
                f"{split.prefix[:-1]} has {len(split.photos):,} photos, not ImageNet's {COUNTS[split.prefix]:,}: "
                f"some are missing or too many. {_OTHER}"
            )


def check_photos(splits: Sequence[Split], max_mb: int) -> None:
    """Raises DataError for a photo of more than ``max_mb`` MB: they are read whole, by several processes at a time."""
    for split in splits:
        for photo in split.photos:
            if photo.size > max_mb * 1_000_000:
                raise DataError(
                    f"{split.prefix}{photo.name} has {photo.size:,} bytes, or would have when it is unpacked: that is "
                    f"no photo. If it is, --max-photo-mb={photo.size // 1_000_000 + 1} lets it through."
                )


class Md5Reader:
    """The MD5 sum of a file that is read from its beginning to its end, piece by piece.

    A piece is read here just before its photos are read by other processes, from the page cache then: so the disk is
    read once.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._at = 0
        self._digest = hashlib.md5(usedforsecurity=False)

    def read_until(self, end: int) -> None:
        """Read on to byte ``end``. Raises DataError."""
        try:
            with open(self._path, "rb", buffering=0) as file:
                file.seek(self._at)
                while self._at < end and (piece := file.read(min(_READ_BYTES, end - self._at))):
                    self._digest.update(piece)
                    self._at += len(piece)
        except OSError as error:
            raise DataError(f"{self._path} cannot be read: {error.strerror}.") from None

    def finish(self, expected: str) -> None:
        """Read the rest. Raises DataError if the sum is not ``expected``."""
        self.read_until(Path(self._path).stat().st_size)
        if self._digest.hexdigest() != expected:
            raise DataError(
                f"{self._path} has the MD5 sum {self._digest.hexdigest()}, not {expected}: it is not the archive that "
                "ImageNet gives out, or was damaged on the way. Download it again, and remove what was made of it."
            )


class ArchiveSums:
    """Checks the archives' sums as they are read; ``archives``: train, val, devkit → path."""

    def __init__(self, archives: Mapping[str, Path]) -> None:
        self._expected = {str(path): MD5[kind] for kind, path in archives.items()}
        self._readers = {path: Md5Reader(path) for path in self._expected}

    def on_read(self, chunk: Sequence[Planned]) -> None:
        """To be called before the items of a chunk are read."""
        for path in {entry.item.place.path for entry in chunk if isinstance(entry.item.place, Slice)}:
            places = (entry.item.place for entry in chunk)
            ends = (place.offset + place.size for place in places if isinstance(place, Slice) and place.path == path)
            self._readers[path].read_until(max(ends))

    def finish(self) -> None:
        """Raises DataError for a wrong sum."""
        for path, reader in self._readers.items():
            reader.finish(self._expected[path])
