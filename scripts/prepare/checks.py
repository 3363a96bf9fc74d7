"""Whether it is ImageNet, whole: numbers, classes, the archives' MD5 sums; and what is odd about a photo."""

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from aistore_data.upload.items import Split
from aistore_data.upload.transfer import Planned
from scripts.prepare.archives import Slice, reading
from sources.errors import DataError
from sources.manifest import IMG_EXTENSIONS

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
"""The MD5 sums of the three archives, as in torchvision/datasets/imagenet.py."""

_OTHER = "For a subset or another data set, add --allow-other."
_READ_BYTES = 4 << 20
_EXTENSIONS = {"JPEG": ("jpg", "jpeg"), "PNG": ("png",), "BMP": ("bmp",), "WEBP": ("webp",), "TIFF": ("tif", "tiff"),
               "PPM": ("ppm", "pgm")}  # fmt: skip
_ORIENTATION = 0x0112


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


class ArchiveSums:
    """Checks the archives' MD5 sums; ``archives``: train, val, devkit → path.

    A piece of an archive is read here just before its photos are read by other processes, from the page cache then: so
    the disk is read once.
    """

    def __init__(self, archives: Mapping[str, Path]) -> None:
        self._expected = {str(path): MD5[kind] for kind, path in archives.items()}
        self._digests = {path: hashlib.md5(usedforsecurity=False) for path in self._expected}
        self._read = dict.fromkeys(self._expected, 0)

    def on_read(self, chunk: Sequence[Planned]) -> None:
        """Call this before the items of a chunk are read. Raises DataError."""
        ends: dict[str, int] = {}
        for place in (entry.item.place for entry in chunk):
            if isinstance(place, Slice) and place.path in self._expected:
                ends[place.path] = max(place.offset + place.size, ends.get(place.path, 0))
        for path, end in ends.items():
            self._read_until(path, end)

    def finish(self) -> None:
        """Reads the rest. Raises DataError for a wrong sum."""
        for path, expected in self._expected.items():
            self._read_until(path, Path(path).stat().st_size)
            found = self._digests[path].hexdigest()
            if found != expected:
                raise DataError(
                    f"{path} has the MD5 sum {found}, not {expected}: it is not the archive that ImageNet gives out, "
                    "or was damaged on the way. Download it again, and remove what was made of it."
                )

    def _read_until(self, path: str, end: int) -> None:
        with reading(path, DataError), open(path, "rb", buffering=0) as file:
            file.seek(self._read[path])
            while self._read[path] < end and (piece := file.read(min(_READ_BYTES, end - self._read[path]))):
                self._digests[path].update(piece)
                self._read[path] += len(piece)


def inspect(name: str, data: bytes) -> tuple[bytes, list[str]]:
    """The bytes as they are, and the kinds of oddities. Decodes at an eighth of the size: all of the file is read."""
    if not name.lower().endswith(IMG_EXTENSIONS):
        return data, []
    found = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, which nobody reads here
            with Image.open(io.BytesIO(data)) as image:
                found += odd_header(name, image)
                if is_rotated(image):
                    found.append("rotated by EXIF, which training ignores")
                image.draft(None, (1, 1))
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        found.append("cut short" if "truncated" in str(error) else "cannot be decoded")
    return data, found


def odd_header(name: str, image: Image.Image) -> list[str]:
    """What is odd about an opened photo's format and mode."""
    found, extension = [], name.rpartition(".")[2]
    if extension.lower() not in _EXTENSIONS.get(image.format or "", ()):
        found.append(f"{image.format} named .{extension}")
    if image.mode != "RGB":
        found.append({"L": "greyscale", "P": "palette"}.get(image.mode, image.mode))
    return found


def is_rotated(image: Image.Image) -> bool:
    """Whether its EXIF says that an opened photo is not upright. Raises as Pillow does for broken EXIF."""
    return image.getexif().get(_ORIENTATION, 1) != 1
