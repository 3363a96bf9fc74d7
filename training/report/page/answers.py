"""What an evaluation's tables tell: accuracy by class, what is confused, and the photos that are most surely wrong."""

import base64
import csv
import heapq
import importlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from training.run_dir.run_record import RunRecord

_WRONG = 24
_SIDE = 160
"""Pixels of a small picture's long side."""

MOST_CLASSES = 2000
"""The most classes in the chart and the table, those with the lowest accuracies first."""


class OfClass(NamedTuple):
    """A class with photos; accuracies in percent."""

    name: str
    images: int
    acc1: float
    low: float
    high: float
    acc5: str


class Wrong(NamedTuple):
    """A photo and its wrong answer; ``picture`` is a source for HTML, "" where the photo is not here."""

    name: str
    label: str
    answer: str
    probability: float
    picture: str


@dataclass(frozen=True)
class Answers:
    """``classes`` from the lowest accuracy to the highest; ``pairs`` are cells of (class, taken for, count, share)."""

    classes: list[OfClass] = field(default_factory=list)
    pairs: list[tuple[str, str, str, str]] = field(default_factory=list)
    wrong: list[Wrong] = field(default_factory=list)
    has_predictions: bool = False


def read_answers(run: RunRecord) -> Answers:
    """Read the tables that are there. Raises OSError, and ValueError or KeyError for a table of another form."""
    rows = list(_rows(run.path / "per_class.csv"))
    names = {row["class"]: _named(row["class"], row["name"]) for row in rows}
    classes = [_of_class(names[row["class"]], row) for row in rows if row["acc1"]]
    classes.sort(key=lambda row: (row.acc1, row.name))
    pairs = [
        (_named(row["class"], row["name"]), _named(row["answer"], row["answer_name"]), row["count"], row["share"])
        for row in _rows(run.path / "confusion.csv")
    ]
    predictions = _predictions(run.path)
    return Answers(classes, pairs, _wrong(run, names, predictions or iter(())), predictions is not None)


def _of_class(name: str, row: dict[str, str]) -> OfClass:
    acc1, low, high = (float(row[column]) for column in ("acc1", "acc1_low", "acc1_high"))
    return OfClass(name, int(row["images"]), acc1, low, high, row["acc5"])


def _named(label: str, name: str) -> str:
    return f"{label} ({name})" if name else label


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a table; none if it is not there."""
    if path.exists():
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            yield from csv.DictReader(file)


def _predictions(folder: Path) -> Iterator[dict[str, Any]] | None:
    """A row for each photo; None where the evaluation has written none, or where parquet cannot be read here."""
    if (folder / "predictions.csv").exists():
        return _rows(folder / "predictions.csv")
    if not (folder / "predictions.parquet").exists():
        return None
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        return None
    batches = parquet.ParquetFile(folder / "predictions.parquet").iter_batches()
    return (row for batch in batches for row in batch.to_pylist())


def _wrong(run: RunRecord, names: dict[str, str], predictions: Iterator[dict[str, Any]]) -> list[Wrong]:
    """The wrong answers of the greatest probability."""

    def is_wrong(row: dict[str, Any]) -> bool:
        right = str(row["accepted"]).split() if "accepted" in row else [str(row["label"])]
        return bool(right) and str(row["class1"]) not in right

    most = heapq.nlargest(_WRONG, filter(is_wrong, predictions), key=lambda row: (float(row["p1"]), row["name"]))
    return [
        Wrong(
            row["name"],
            names.get(str(row["label"]), str(row["label"])),
            names.get(str(row["class1"]), str(row["class1"])),
            float(row["p1"]),
            _picture(run, row["name"]),
        )
        for row in most
    ]


def _picture(run: RunRecord, name: str) -> str:
    """A small picture of a photo, if the folder that the evaluation read is here; never anything outside of it."""
    data = run.config.get("data", {})
    for root in (data.get("root"), data.get("embedded_root")):
        for folder in (Path(root) / "val", Path(root)) if root else ():
            path = folder / name
            if path.is_file() and path.resolve().is_relative_to(Path(root).resolve()):
                return _small(path)
    return ""


def _small(path: Path) -> str:
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (2 * _SIDE, 2 * _SIDE))
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return ""  # the name and the answer stand there all the same
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
