"""Files of labels: a photo's name and its class, or its classes, in each line, as people have such files.

- ``NAME CLASS``, with a space, a tab or a comma between; the first line may be a heading. A name may be a path and may
  lack its extension.
- Kaggle's ``LOC_val_solution.csv``.
- Several classes for each photo: behind the name, with spaces between them, or with commas or ``;`` (then a class's
  name may have spaces), or a table with a column of 0 and 1 for each class, whose heading names the classes.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sources.disk import cause, shown
from sources.errors import ConfigError, DataError
from sources.manifest import IMG_EXTENSIONS

SOLUTION = "LOC_val_solution.csv"
"""Kaggle's labels of ImageNet's validation photos."""

LABELS_BYTES = 256 << 20
"""The most bytes of a file of labels: Kaggle's has 3 MB, and one for 1.3 million photos 60 MB."""

_YES_OR_NO = {"0", "1"}


@dataclass(frozen=True)
class Labels:
    """What a file says: photo, as the file names it → its classes, of which there is one unless several are allowed."""

    path: Path
    classes_of: Mapping[str, tuple[str, ...]]
    lines: Mapping[str, int]
    """Photo → its line in the file."""
    columns: tuple[str, ...] = ()
    """The classes, where a heading names them."""


def read_labels(path: Path, several: bool = False) -> Labels:
    """The labels in a file. ``several``: a photo may have any number of classes. Raises ConfigError or DataError."""
    try:
        with open(path, "rb") as file:
            text = text_of(file, str(path))
    except OSError as error:
        raise ConfigError(
            f"{shown(path)} cannot be read: {cause(error)}. data.labels names a file of labels."
        ) from None
    rows = rows_of(text, path)
    if text.startswith("ImageId,") and not several:
        wnids = {name.strip(): wnid for name, wnid in solution(text, path).items()}
        rows = [(number, [cells[0], wnids[cells[0]]]) for number, cells in rows[1:]]
    if not rows:
        raise DataError(f"{shown(path)} is empty: labels are a photo's name and its class in each line.")
    columns = _columns(path, rows) if several else ()
    labels: dict[str, tuple[str, ...]] = {}
    lines: dict[str, int] = {}
    separator = _separator(rows)
    for number, cells in rows[1:] if columns or _is_heading(rows) else rows:
        name = cells[0].replace("\\", "/").removeprefix("./")
        if name in lines:
            raise DataError(
                f"{shown(path)} names {name} twice, in the lines {lines[name]:,} and {number:,}: remove one of them."
            )
        lines[name] = number
        if columns:
            labels[name] = _ticked(path, number, cells, columns)
        elif several:
            parts = cells[1:] if separator == "," else " ".join(cells[1:]).split(separator)
            labels[name] = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
        elif len(cells) != 2 or not cells[1]:
            raise DataError(
                f"line {number:,} of {shown(path)} is not a photo's name and its class: it has {len(cells):,} "
                f"{'columns' if len(cells) > 1 else 'column'}. data.multilabel=true takes several classes for each "
                "photo."
            )
        else:
            labels[name] = (cells[1],)
    return Labels(path, labels, lines, columns)


def text_of(file: IO[bytes], path: str) -> str:
    """A file of labels. Raises DataError for one that is too large, or no text."""
    data = file.read(LABELS_BYTES + 1)
    if len(data) > LABELS_BYTES:
        raise DataError(f"{path} has more than {LABELS_BYTES:,} bytes: that is not a file of labels.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text in UTF-8, as a file of labels is: download it again.") from None


def solution(text: str, source: Path) -> dict[str, str]:
    """ImageId → wnid. A line's prediction is a wnid and a box, or several such."""
    rows = csv.DictReader(text.splitlines())
    try:
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError, csv.Error):
        raise DataError(
            f"line {rows.line_num} of {SOLUTION} of {source} is not of the form ImageId,PredictionString."
        ) from None


def rows_of(text: str, path: Path) -> list[tuple[int, list[str]]]:
    """(number, cells) of each line that is not empty. Raises DataError.

    Cells are separated by the comma or the tab that all lines have, or else by the first space.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for delimiter in (",", "\t"):
        if all(delimiter in line for _, line in lines):
            try:
                parsed = csv.reader((line for _, line in lines), delimiter=delimiter, skipinitialspace=True)
                cells = [[cell.strip() for cell in row] for row in parsed]
            except csv.Error as error:
                raise DataError(f"{shown(path)} cannot be read as a table: {error}.") from None
            if len(cells) != len(lines):
                raise DataError(f"{shown(path)} has a quotation mark that opens in a line and closes in none.")
            return [(number, row) for (number, _), row in zip(lines, cells, strict=True)]
    return [(number, line.split(maxsplit=1)) for number, line in lines]


def _is_heading(rows: list[tuple[int, list[str]]]) -> bool:
    """Whether the first line is one: it names no photo, and as a class what is none elsewhere."""
    first = rows[0][1]
    if first[0].lower().endswith(IMG_EXTENSIONS) or len(first) < 2:
        return False
    with_extension = any(cells[0].lower().endswith(IMG_EXTENSIONS) for _, cells in rows[1:])
    return with_extension or first[1] not in {cells[1] for _, cells in rows[1:] if len(cells) > 1}


def _separator(rows: list[tuple[int, list[str]]]) -> str | None:
    """What stands between several classes of a photo; None for spaces."""
    if any(";" in cell for _, cells in rows for cell in cells[1:]):
        return ";"
    return "," if any(len(cells) > 2 for _, cells in rows) else None


def _columns(path: Path, rows: list[tuple[int, list[str]]]) -> tuple[str, ...]:
    """The classes in the heading of a table; none where it is no table. Raises DataError."""
    heading = rows[0][1]
    are_ticks = all(set(cells[1:]) <= _YES_OR_NO for _, cells in rows[1:])
    if len(heading) < 3 or not (are_ticks or not heading[0].lower().endswith(IMG_EXTENSIONS)):
        return ()
    doubled = [name for at, name in enumerate(heading) if name in heading[:at] or not name]
    if set(heading[1:]) <= _YES_OR_NO or doubled:
        what = "names no classes" if set(heading[1:]) <= _YES_OR_NO else f"names {doubled[0]!r} twice, or not at all"
        raise DataError(
            f"line 1 of {shown(path)} {what}: a table with a column for each class begins with a heading that names "
            "them, each once."
        )
    return tuple(heading[1:])


def _ticked(path: Path, number: int, cells: list[str], columns: tuple[str, ...]) -> tuple[str, ...]:
    if len(cells) != len(columns) + 1 or not set(cells[1:]) <= _YES_OR_NO:
        raise DataError(
            f"line {number:,} of {shown(path)} must have a photo's name and then 0 or 1 for each of the "
            f"{len(columns):,} classes of the heading."
        )
    return tuple(name for name, cell in zip(columns, cells[1:], strict=True) if cell == "1")
