"""Figures of an evaluation: intervals, calibration, classes, confusion, and the files that hold them."""

import csv
import importlib.util
import io
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from sources.errors import ConfigError
from training.config.schema import Config
from training.config.train_options import EvalConfig
from training.evaluate import report
from training.evaluate.statistics import (
    Flips,
    OfClass,
    Outcomes,
    Pair,
    by_class,
    calibration_error,
    confused,
    figures,
    flips,
    right_answers,
    wilson,
)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        (8, 10, 49.02, 94.33),
        (0, 10, 0.0, 27.75),
        (10, 10, 72.25, 100.0),
        (500, 1000, 46.91, 53.09),
        (38065, 50000, 75.75, 76.50),
        (0, 0, 0.0, 100.0),
    ],
)
def test_intervals_are_wilsons(hits: int, count: int, low: float, high: float) -> None:
    assert wilson(hits, count) == pytest.approx((low, high), abs=0.006)


@pytest.mark.parametrize("hits", [0, 3, 50, 97, 100])
def test_an_intervals_ends_are_the_shares_that_just_fit(hits: int) -> None:
    """Wilson's ends solve (p - share)^2 = z^2 share (1 - share) / n."""
    for end in wilson(hits, 100):
        share = end / 100
        assert (hits / 100 - share) ** 2 == pytest.approx(1.959964**2 * share * (1 - share) / 100, abs=1e-9)


def of_guo(confidences: torch.Tensor, right: torch.Tensor) -> float:
    """The calibration error as the paper defines it: bins (0, 1/15], (1/15, 2/15], …"""
    edges, total = torch.linspace(0, 1, 16, dtype=torch.float64), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidences > low) & (confidences <= high)
        if inside.any():
            gap = right[inside].double().mean() - confidences[inside].mean()
            total += float(gap.abs() * inside.double().mean())
    return total


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_calibration_error_is_that_of_the_paper(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    confidences = torch.rand(n, generator=generator, dtype=torch.float64)
    right = torch.rand(n, generator=generator, dtype=torch.float64) < confidences**2
    assert calibration_error(confidences.numpy(), right.numpy()) == pytest.approx(of_guo(confidences, right), abs=1e-12)


def test_calibration_error_by_hand() -> None:
    confidences = np.array([0.95, 0.95, 0.05, 1.0])
    right = np.array([True, False, False, True])
    # Bin 15 has three photos of confidence 2.9 in all, of which two are right, and bin 1 has one of 0.05.
    assert calibration_error(confidences, right) == pytest.approx((0.9 + 0.05) / 4)
    assert calibration_error(np.array([]), np.array([], bool)) == 0.0


def outcomes(labels: list[int], classes: list[list[int]], others: list[int] | None = None) -> Outcomes:
    n, k = len(labels), len(classes[0])
    return Outcomes(
        np.arange(n),
        np.array(labels),
        np.array(classes),
        np.tile(np.linspace(0.6, 0.1, k), (n, 1)),
        None if others is None else np.array(others),
        0.25,
    )


SEEN = outcomes([0, 0, 0, 1, 2], [[0, 1], [1, 0], [1, 2], [2, 1], [1, 3]], others=[0, 0, 1, 1, 2])
"""Of 5 photos, one of which is answered rightly at once, and two more by the second answer."""


def test_accuracies_count_photos() -> None:
    found = figures(SEEN, *right_answers(SEEN, None))
    assert (found.images, found.acc1, found.acc5) == (5, 20.0, 60.0)
    assert found.acc1_interval == wilson(1, 5) and found.acc5_interval == wilson(3, 5)
    assert found.ece == pytest.approx(0.4)


def test_classes_and_pairs_are_counted() -> None:
    given = right_answers(SEEN, None)
    assert by_class(SEEN, *given) == [OfClass(0, 3, 1, 2, 1), OfClass(1, 1, 0, 1, 3), OfClass(2, 1, 0, 0, 1)]
    assert confused(SEEN, *given) == [Pair(0, 1, 2, 3), Pair(1, 2, 1, 1), Pair(2, 1, 1, 1)]
    assert confused(SEEN, *given, most=1) == [Pair(0, 1, 2, 3)]


def test_photos_without_labels_do_not_count_and_any_label_is_right() -> None:
    accepted = [frozenset({0}), frozenset(), frozenset({1, 7}), frozenset({1}), frozenset({5})]
    right, counts = right_answers(SEEN, accepted)
    found = figures(SEEN, right, counts)
    assert (found.images, found.acc1, found.acc5) == (4, 50.0, 75.0)
    assert confused(SEEN, right, counts) == [Pair(1, 2, 1, 1), Pair(2, 1, 1, 1)]


def test_flipped_predictions_are_counted() -> None:
    assert flips(SEEN, None) == Flips(5, differ=3, right_before=0, right_after=3, largest_difference=0.25)
    assert flips(outcomes([0], [[0, 1]]), None) is None


NAMES = ("n1 cat", "n2 dog, small", "", "n4 eel")


def rows(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogateescape"))))


def test_tables_are_csv() -> None:
    told = report.Report(SEEN, NAMES)
    classes = rows(report.per_class_csv(told))
    assert [row["name"] for row in classes] == ["n1 cat", "n2 dog, small", ""]
    assert classes[0] | {"acc1_low": "", "acc1_high": ""} == {
        "class": "0", "name": "n1 cat", "images": "3", "acc1": "33.33", "acc1_low": "", "acc1_high": "",
        "acc5": "66.67", "answered": "1",
    }  # fmt: skip
    pairs = rows(report.confusion_csv(told))
    assert pairs[0] == {
        "class": "0", "name": "n1 cat", "answer": "1", "answer_name": "n2 dog, small", "count": "2", "images": "3",
        "share": "66.67",
    }  # fmt: skip


def test_predictions_are_a_row_for_each_photo() -> None:
    names = ["a,b.jpg", 'c"d.jpg', "e\nf.jpg", "g\udcff.jpg", "h.jpg"]
    told = report.Report(SEEN, NAMES)
    found = rows(report.predictions(told, "csv", names.__getitem__))
    assert [row["name"] for row in found] == names
    assert [row["label"] for row in found] == ["0", "0", "0", "1", "2"]
    assert [row["class1"] for row in found] == ["0", "1", "1", "2", "1"]
    assert [row["other_precision"] for row in found] == ["0", "0", "1", "1", "2"]
    assert [float(row["p1"]) for row in found] == pytest.approx([0.6] * 5)


def test_predictions_as_parquet() -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    told = report.Report(SEEN, NAMES, [frozenset({0, 3})] * 5)
    found = parquet.read_table(io.BytesIO(report.predictions(told, "parquet", "{}\udcff.jpg".format))).to_pydict()
    assert found["class2"] == [1, 0, 2, 1, 3] and found["accepted"] == ["0 3"] * 5
    assert found["name"][0] == "0\ufffd.jpg"


def test_parquet_without_pyarrow_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    report.require_parquet("csv")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs pyarrow, which is not installed: pip install pyarrow"):
        report.require_parquet("parquet")


def test_lines_tell_the_interval_and_what_is_confused() -> None:
    config = Config(eval=EvalConfig(compare_precision="bf16", labels="real.json", flip=True))
    text = "\n".join(report.lines(report.Report(SEEN, NAMES), config))
    assert "acc@1 20.00 % (95 % interval 3.62 to 62.45), acc@5 60.00 % (23.07 to 88.24)" in text
    assert "calibration error 0.4000 (15 bins); 5 images" in text
    assert "bf16 against fp32: 3 of 5 predictions differ, of which 0 were right in fp32 and 3 are in bf16" in text
    assert "most often taken for another class: 0 (n1 cat) for 1 (n2 dog, small): 2 of 3\n" in f"{text}\n"
    assert "lowest acc@1" not in text
    many = outcomes([0, 1, 2, 3] * 3, [[0, 1], [0, 1], [2, 1], [0, 3]] * 3)
    told = report.lines(report.Report(many, NAMES), Config())
    assert told[-1] == "lowest acc@1 of a class: 1 (n2 dog, small) 0.0 %, 3 (n4 eel) 0.0 %, 0 (n1 cat) 100.0 %"
    assert "the mean of its own and those of its mirror image" in text
    accepted = [frozenset({1}), *[frozenset[int]()] * 4]
    assert "1 of 5 images have labels in real.json" in report.lines(report.Report(SEEN, NAMES, accepted), config)[0]


def test_logits_that_are_not_finite_are_told() -> None:
    broken = outcomes([0, 1], [[0, 1], [1, 0]])
    broken.probabilities[1] = np.nan
    told = report.lines(report.Report(broken, NAMES), Config())
    assert "warning: the logits of 1 images are not finite: their answers mean nothing" in told
