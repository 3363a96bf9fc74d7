"""What an evaluation tells: a few lines, figures for summary.json, and tables as files of the run directory."""

import csv
import dataclasses
import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sources.errors import ConfigError
from training.config.schema import Config
from training.evaluate import statistics
from training.evaluate.statistics import Figures, Flips, OfClass, Outcomes, Pair

_TOLD = 3
"""Pairs and classes that the lines name; the files have more."""


@dataclass(frozen=True)
class Report:
    """The report on the answers to all photos."""

    outcomes: Outcomes
    names: Sequence[str]
    """The names of the model's classes; "" for a name that is not known."""
    accepted: Sequence[frozenset[int]] | None = None
    """The right classes of each photo, where other labels than those of the folders count."""

    @cached_property
    def _right(self) -> tuple[Any, Any]:
        return statistics.right_answers(self.outcomes, self.accepted)

    @cached_property
    def figures(self) -> Figures:
        """Accuracy and loss over the photos that count."""
        return statistics.figures(self.outcomes, *self._right)

    @cached_property
    def classes(self) -> list[OfClass]:
        """Each class that a photo has or is taken for."""
        return statistics.by_class(self.outcomes, *self._right)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The pairs of classes that are confused most often."""
        return statistics.confused(self.outcomes, *self._right)

    @cached_property
    def flips(self) -> Flips | None:
        """What the other precision changes, if there was one."""
        return statistics.flips(self.outcomes, self.accepted)

    def named(self, label: int) -> str:
        """Return a class's number and, where it has one, its name."""
        return f"{label} ({self.names[label]})" if self.names[label] else str(label)


def lines(report: Report, config: Config) -> list[str]:
    """Return the lines that tell a person the result."""
    figures, options = report.figures, config.eval
    photos = f"{figures.images:,} images"
    if report.accepted is not None:
        photos = f"{figures.images:,} of {len(report.outcomes):,} images have labels in {options.labels}"
    told = [
        f"acc@1 {figures.acc1:.2f} % (95 % interval {_interval(figures.acc1_interval)}), acc@5 {figures.acc5:.2f} % "
        f"({_interval(figures.acc5_interval)}), calibration error {figures.ece:.4f} ({statistics.BINS} bins); {photos}"
    ]
    if options.flip:
        told.append("each photo's logits are the mean of its own and those of its mirror image")
    if flips := report.flips:
        told.append(
            f"{options.compare_precision} against {config.precision}: {flips.differ:,} of {flips.images:,} predictions "
            f"differ, of which {flips.right_before:,} were right in {config.precision} and {flips.right_after:,} are "
            f"in {options.compare_precision}; the largest difference of a logit is {flips.largest_difference:.4g}"
        )
    if pairs := [pair for pair in report.pairs[:_TOLD] if pair.count > 1]:
        said = (f"{report.named(p.label)} for {report.named(p.answer)}: {p.count:,} of {p.images:,}" for p in pairs)
        told.append(f"most often taken for another class: {'; '.join(said)}")
    with_images = [row for row in report.classes if row.images]
    if len(with_images) > _TOLD and figures.images >= 2 * len(with_images):  # one photo tells nothing of its class
        lowest = sorted(with_images, key=lambda row: row.right1 / row.images)[:_TOLD]
        said = (f"{report.named(row.label)} {100 * row.right1 / row.images:.1f} %" for row in lowest)
        told.append(f"lowest acc@1 of a class: {', '.join(said)}")
    if bad := int((~np.isfinite(report.outcomes.probabilities)).any(1).sum()):
        told.append(f"warning: the logits of {bad:,} images are not finite: their answers mean nothing")
    return told


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"


def facts(report: Report, config: Config) -> dict[str, Any]:
    """Return what summary.json gets: the figures, and everything that they depend on."""
    data = config.data
    flips = dataclasses.asdict(report.flips) if report.flips else None
    return {
        **dataclasses.asdict(report.figures),
        "model": config.model.name,
        "weights": config.model.weights,
        "preprocessing": {
            "image_size": data.val_side,
            "resize": data.making[0],
            "interpolation": data.making[1],
            "antialias": True,
        },
        "precision": config.precision,
        "flip": config.eval.flip,
        "classes": config.eval.classes,
        "labels": config.eval.labels,
        **({"compared_precision": {"precision": config.eval.compare_precision, **flips}} if flips else {}),
    }


def per_class_csv(report: Report) -> bytes:
    """A row for each class that a photo has or is taken for."""
    header = ("class", "name", "images", "acc1", "acc1_low", "acc1_high", "acc5", "answered")
    rows = []
    for row in report.classes:
        share = 100 / row.images if row.images else 0.0
        low, high = statistics.wilson(row.right1, row.images)
        acc = (share * row.right1, low, high, share * row.right5) if row.images else ()
        columns = [f"{value:.2f}" for value in acc] or [""] * 4
        rows.append((row.label, report.names[row.label], row.images, *columns, row.answered))
    return _csv(header, rows)


def confusion_csv(report: Report) -> bytes:
    """The pairs that are confused most often, the most frequent one first."""
    header = ("class", "name", "answer", "answer_name", "count", "images", "share")
    return _csv(
        header,
        (
            (
                pair.label,
                report.names[pair.label],
                pair.answer,
                report.names[pair.answer],
                pair.count,
                pair.images,
                f"{100 * pair.count / pair.images:.2f}",
            )
            for pair in report.pairs
        ),
    )


def predictions(report: Report, kind: str, name: Callable[[int], str]) -> bytes:
    """A row for each photo, in the order of their names: its class, the most probable classes and their probabilities.

    ``kind``: csv or parquet; ``name`` answers the name of a photo.
    """
    outcomes, k = report.outcomes, report.outcomes.classes.shape[1]
    columns: dict[str, Any] = {"name": [name(index) for index in outcomes.indices.tolist()], "label": outcomes.labels}
    columns |= {f"class{place + 1}": outcomes.classes[:, place] for place in range(k)}
    columns |= {f"p{place + 1}": outcomes.probabilities[:, place].astype(np.float32) for place in range(k)}
    if report.accepted is not None:
        columns["accepted"] = [" ".join(map(str, sorted(classes))) for classes in report.accepted]
    if outcomes.others is not None:
        columns["other_precision"] = outcomes.others
    if kind == "csv":
        return _csv(columns, zip(*columns.values(), strict=True))
    pyarrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    columns["name"] = [text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in columns["name"]]
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def require_parquet(kind: str) -> None:
    """Raise ConfigError where predictions are to be written as parquet, and nothing here can."""
    if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(
            "eval.predictions=parquet needs pyarrow, which is not installed: pip install pyarrow, or take "
            "eval.predictions=csv."
        )


def _csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """The text of a table; a name that is no UTF-8 keeps its bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")
