"""ImageNet as Hugging Face has it: ``train-*.parquet`` and ``validation-*.parquet``, with image{bytes, path} and label.

pyarrow reads them; it is needed for nothing else.
"""

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

from aistore_data.upload.items import Photo, Split
from sources.errors import ConfigError, DataError
from sources.progress_bar import Progress

_SPLITS = {"train": "train/", "validation": "val/", "val": "val/"}
_WITH_CLASS = re.compile(r"(.+)_(n\d{8})\.(\w+)")
"""A photo's original name with its class at the end: n01440764_10026_n01440764.JPEG."""


_GROUP_BYTES = 4 << 30
"""The most bytes of an unpacked group of rows, which each process reads as a whole."""


class Row(NamedTuple):
    """A row of a group of rows, which is the least that is read of a Parquet file."""

    path: str
    group: int
    row: int

    @property
    def unit(self) -> tuple[str, int]:
        """Rows of the same group are read together."""
        return self.path, self.group

    def read(self) -> bytes:
        """The image. The group stays in memory until another one is read."""
        data = _group(self.path, self.group)[self.row].as_py()
        if not data or not isinstance(data, bytes):
            raise DataError(f"row {self.row:,} of group {self.group:,} of {self.path} has no bytes of an image.")
        return bytes(data)


def parquet_files(source: Path) -> list[Path]:
    """The Parquet files of a folder, or else of those below it."""
    return sorted(source.glob("*.parquet")) or sorted(source.rglob("*.parquet"))


def index_parquet(files: list[Path]) -> list[Split]:
    """Both splits; the sizes are known when a photo is read. Raises ConfigError or DataError."""
    rows: dict[str, list[tuple[str, int, Row]]] = {"train/": [], "val/": []}
    with Progress("photos found") as progress:
        for file in files:
            if prefix := _prefix_of(file):
                found = _rows(file)
                rows[prefix] += found
                progress.add(len(found))
    for prefix, some in rows.items():
        if not some:
            raise ConfigError(f"there is no {prefix[:-1]} split among {files[0].parent}'s Parquet files.")
    wnids = _wnids(rows["train/"])
    classes = tuple(wnids[label] for label in sorted(wnids))
    if list(classes) != sorted(set(classes)):
        raise DataError("the labels of the Parquet files do not number the classes in sorted order, as training does.")
    numbers = {label: number for number, label in enumerate(sorted(wnids))}
    return [Split(prefix, classes, [_photo(wnids, numbers, *row) for row in some]) for prefix, some in rows.items()]


def _prefix_of(file: Path) -> str:
    """By the file's name, train-00000-of-00294.parquet, or its folder's, train/0000.parquet; "" for another split."""
    words = (re.split(r"[-.]", file.name)[0], file.parent.name)
    return next((_SPLITS[word] for word in words if word in _SPLITS), "")


def _rows(file: Path) -> list[tuple[str, int, Row]]:
    """(name, label, place) of all rows of a file; names are made up where the file has none."""
    parquet = _pyarrow()
    found = []
    try:
        with parquet.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                size = opened.metadata.row_group(group).total_byte_size
                if size > _GROUP_BYTES:
                    raise ValueError(
                        f"group {group:,} of its rows unpacks to {size:,} bytes, more than {_GROUP_BYTES:,}"
                    )
                table = opened.read_row_group(group, columns=["image.path", "label"])
                paths = table.column("image").combine_chunks().field("path").to_pylist()
                for row, (path, label) in enumerate(zip(paths, table.column("label").to_pylist(), strict=True)):
                    name = (path or f"{file.stem}-{group}-{row}.JPEG").rpartition("/")[2]
                    if label is None or label < 0:
                        raise DataError(f"row {row:,} of group {group:,} of {file} has no label.")
                    found.append((name, label, Row(str(file), group, row)))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, NotImplementedError) as error:  # pyarrow's too
        raise DataError(
            f"{file} cannot be read as a Parquet file with image{{bytes, path}} and label: {error}. Download it again."
        ) from None
    return found


def _wnids(rows: list[tuple[str, int, Row]]) -> dict[int, str]:
    """Label → the wnid that its photos' names end in, or else the label as text."""
    found: dict[int, str] = {}
    width = max(4, len(str(max(label for _, label, _ in rows))))
    for name, label, place in rows:
        match = _WITH_CLASS.fullmatch(name)
        wnid = match[2] if match else f"{label:0{width}d}"
        if found.setdefault(label, wnid) != wnid:
            raise DataError(f"{name} in {place.path} has the label {label}, as photos of {found[label]} have.")
    return found


def _photo(wnids: dict[int, str], numbers: dict[int, int], name: str, label: int, place: Row) -> Photo:
    match = _WITH_CLASS.fullmatch(name)
    wnid = wnids.get(label, "")
    if not wnid or (match and match[2] != wnid):
        raise DataError(f"{name} in {place.path} has the label {label}, which is not its class in the training photos.")
    return Photo(f"{wnid}/{f'{match[1]}.{match[3]}' if match else name}", numbers[label], -1, place)


@functools.lru_cache(maxsize=1)
def _group(path: str, group: int) -> Any:
    """The images of a group of rows, as an array of pyarrow."""
    try:
        with _pyarrow().ParquetFile(path) as opened:
            return opened.read_row_group(group, columns=["image.bytes"]).column("image").combine_chunks().field("bytes")
    except (OSError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read: {error}. Download it again.") from None


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError("reading Parquet files needs pyarrow: pip install pyarrow.") from None
    return pyarrow.parquet
