"""Kaggle's ImageNet Object Localization Challenge: a folder, or the zip as it was downloaded.

``ILSVRC/Data/CLS-LOC/train/WNID/*.JPEG``, ``ILSVRC/Data/CLS-LOC/val/*.JPEG`` without classes, ``LOC_val_solution.csv``
with the validation labels, and ``LOC_synset_mapping.txt`` with the classes, a wnid and its words in a line.
"""

import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

from aistore_data.upload.items import ByteSource, File, Photo, Split
from scripts.prepare.archives import reading
from sources.errors import ConfigError, DataError
from sources.labels import SOLUTION, solution, text_of
from sources.manifest import IMG_EXTENSIONS
from sources.progress_bar import Progress
from sources.walk import Oddities, images_below

IMAGES = "ILSVRC/Data/CLS-LOC"
MAPPING = "LOC_synset_mapping.txt"

_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""The header of a file in a zip: signature, lengths of name and of extra field (PKWARE, APPNOTE.TXT, 4.3.7)."""


class Zipped(NamedTuple):
    """A file within a zip: where its local header is, packed and unpacked bytes, method and CRC-32."""

    path: str
    offset: int
    packed: int
    size: int
    method: int
    crc: int
    unit: None = None

    def read(self) -> bytes:
        """The unpacked bytes. Not by ``zipfile``, which reads the list of 2 million files in each process."""
        try:
            with reading(self.path, DataError), open(self.path, "rb") as file:
                file.seek(self.offset)
                signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                file.seek(name + extra, os.SEEK_CUR)
                data = file.read(self.packed)
            if self.method == zipfile.ZIP_DEFLATED:  # no more than it says, whatever is packed there
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.size + 1)
        except (struct.error, zlib.error, ValueError, OverflowError) as error:
            raise self._damaged(str(error)) from None
        if signature != b"PK\3\4" or len(data) != self.size or zlib.crc32(data) != self.crc:
            raise self._damaged("a file's checksum is wrong")
        return data

    def _damaged(self, why: str) -> DataError:
        return DataError(f"{self.path} is damaged at byte {self.offset:,}: {why}. Download it again.")


def index_kaggle(source: Path) -> list[Split]:
    """Both splits of the folder that holds ILSVRC, or of the zip. Raises ConfigError or DataError."""
    with Progress("photos found") as progress:
        texts, images = (_zip if source.is_file() else _folder)(source, progress)
    classes = tuple(sorted(line.split()[0] for line in texts[MAPPING].splitlines() if line.strip()))
    numbers = {wnid: number for number, wnid in enumerate(classes)}
    val_wnids = solution(texts[SOLUTION], source)
    splits: dict[str, list[Photo]] = {"train": [], "val": []}
    for name, size, place in images:
        split, _, rest = name.partition("/")
        wnid, _, file = rest.rpartition("/")
        if split == "val":
            file, wnid = rest, val_wnids.pop(rest.rpartition(".")[0], "")
            if not wnid:
                raise DataError(f"{SOLUTION} of {source} has no label for {name}: they do not belong together.")
        elif split != "train":
            continue  # the test photos have no labels
        if wnid not in numbers:
            raise DataError(f"{name} is of the class {wnid!r}, which {MAPPING} of {source} does not have.")
        splits[split].append(Photo(f"{wnid}/{file}", numbers[wnid], size, place))
    if val_wnids:
        raise DataError(f"{SOLUTION} of {source} names {next(iter(val_wnids))}, which is not in {IMAGES}/val.")
    return [Split(f"{split}/", classes, photos) for split, photos in splits.items()]


_Images = list[tuple[str, int, ByteSource]]


def _folder(source: Path, progress: Progress) -> tuple[dict[str, str], _Images]:
    texts = {}
    for name in (SOLUTION, MAPPING):
        try:
            with open(source / name, "rb") as file:
                texts[name] = text_of(file, str(source / name))
        except OSError as error:
            raise ConfigError(
                f"{source / name} cannot be read: {error.strerror}. It comes with Kaggle's data."
            ) from None
    root = source / IMAGES
    images: _Images = []
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise ConfigError(f"{root / split} is missing: unpack all of Kaggle's data.")
        for raw, size in images_below(str(root / split), split.encode(), Oddities()):
            path = os.fsdecode(raw)
            images.append((path, size, File(f"{root}/{path}")))
            progress.add(1)
    return texts, images


def _zip(source: Path, progress: Progress) -> tuple[dict[str, str], _Images]:
    texts: dict[str, str] = {}
    images: _Images = []
    try:
        with reading(source), zipfile.ZipFile(source) as archive:
            whole = source.stat().st_size
            for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
                name = entry.filename
                if os.path.basename(name) in (SOLUTION, MAPPING):
                    with archive.open(entry) as file:
                        texts[os.path.basename(name)] = text_of(file, f"{name} in {source}")
                elif name.startswith(f"{IMAGES}/") and name.lower().endswith(IMG_EXTENSIONS):
                    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        raise DataError(
                            f"{name} in {source} is packed by a method that this command does not read: unpack it."
                        )
                    if entry.compress_size > whole or entry.flag_bits & 1:
                        raise DataError(f"{name} in {source} is encrypted, or larger than the zip: download it again.")
                    place = Zipped(str(source), entry.header_offset, entry.compress_size, entry.file_size,
                                   entry.compress_type, entry.CRC)  # fmt: skip
                    images.append((name.removeprefix(f"{IMAGES}/"), entry.file_size, place))
                    progress.add(1)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:  # RuntimeError: encrypted
        raise DataError(f"{source} is cut short, or no zip: {error}. Download it again.") from None
    for name in (SOLUTION, MAPPING):
        if name not in texts:
            raise DataError(f"{source} has no {name}: it is not imagenet-object-localization-challenge.zip.")
    return texts, images
