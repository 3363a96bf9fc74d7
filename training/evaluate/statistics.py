"""Figures of a classifier's answers: accuracies with their intervals, calibration, classes, and what is confused."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Bins of the calibration error, as in Guo et al., "On calibration of modern neural networks", ICML 2017."""

PAIRS = 20
"""Pairs of confused classes that are listed."""

_Z = 1.959963984540054
"""The normal distribution has 95 % of its mass within so many standard deviations."""


@dataclass(frozen=True)
class Outcomes:
    """What a model answered to n photos. Classes are those of the model."""

    indices: NDArray[np.int64]
    """Places in the manifest, ascending, [n]."""
    labels: NDArray[np.int64]
    """Classes of the photos' folders, [n]."""
    classes: NDArray[np.int64]
    """The most probable classes, the most probable one first, [n, 5], or fewer where there are fewer classes."""
    probabilities: NDArray[np.float64]
    """The probabilities of these classes, [n, 5]."""
    others: NDArray[np.int64] | None = None
    """The most probable class in another precision, [n]."""
    largest_difference: float = 0.0
    """The largest difference of a logit between the two precisions."""

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Figures:
    """Figures of ``images`` photos: accuracies in percent with 95 % intervals, calibration error from 0 to 1."""

    images: int
    acc1: float
    acc1_interval: tuple[float, float]
    acc5: float
    acc5_interval: tuple[float, float]
    ece: float


@dataclass(frozen=True)
class OfClass:
    """How the photos of one class are answered."""

    label: int
    images: int
    right1: int
    right5: int
    answered: int
    """Photos of any class for which this one is the answer."""


@dataclass(frozen=True)
class Pair:
    """Photos of ``label``, ``images`` in all, of which ``count`` are taken for ``answer``, which is wrong."""

    label: int
    answer: int
    count: int
    images: int


@dataclass(frozen=True)
class Flips:
    """What another precision changes: predictions that differ, and of these, which were wrong or become so."""

    images: int
    differ: int
    right_before: int
    right_after: int
    largest_difference: float


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of which ``hits`` of ``count`` were seen, in percent.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
    """
    if count == 0:
        return 0.0, 100.0
    share, z2 = hits / count, _Z * _Z
    centre = share + z2 / (2 * count)
    half = _Z * float(np.sqrt(share * (1 - share) / count + z2 / (4 * count * count)))
    low, high = ((centre + sign * half) / (1 + z2 / count) for sign in (-1, 1))
    return 100 * max(0.0, low), 100 * min(1.0, high)


def calibration_error(confidences: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """The mean distance between confidence and accuracy over bins of equal width, weighted by their photos (ECE).

    ``confidences``: the probabilities of the answers, [n]; ``right``: whether these are right, [n]. A confidence at a
    border belongs to the lower bin.
    """
    if not len(confidences):
        return 0.0
    places = np.digitize(confidences, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    gaps = np.bincount(places, right.astype(np.float64) - confidences, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


def right_answers(
    outcomes: Outcomes, accepted: Sequence[frozenset[int]] | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(whether each of the classes is right, bool [n, 5]; whether a photo counts, bool [n]).

    ``accepted``: the right classes of each photo; one without any does not count. None: those of the folders are right.
    """
    if accepted is None:
        return outcomes.classes == outcomes.labels[:, None], np.ones(len(outcomes), bool)
    right = [
        [answer in classes for answer in row] for row, classes in zip(outcomes.classes.tolist(), accepted, strict=True)
    ]
    counts = np.array([bool(classes) for classes in accepted], bool)
    return np.array(right, bool).reshape(outcomes.classes.shape), counts


def figures(outcomes: Outcomes, right: NDArray[np.bool_], counts: NDArray[np.bool_]) -> Figures:
    """Compute the figures of the photos that count; ``right_answers`` returns ``right`` and ``counts``."""
    first, any_, n = right[counts, 0], right[counts].any(1), int(counts.sum())
    hits1, hits5, all_ = int(first.sum()), int(any_.sum()), max(1, n)
    confidences = np.nan_to_num(outcomes.probabilities[counts, 0])
    error = calibration_error(confidences, first)
    return Figures(n, 100 * hits1 / all_, wilson(hits1, n), 100 * hits5 / all_, wilson(hits5, n), error)


def by_class(outcomes: Outcomes, right: NDArray[np.bool_], counts: NDArray[np.bool_]) -> list[OfClass]:
    """Each class that a photo has or is taken for, in their order; the class of a photo is that of its folder."""
    labels, answers = outcomes.labels[counts], outcomes.classes[counts, 0]
    length = int(max(labels.max(initial=-1), answers.max(initial=-1))) + 1
    columns = [
        np.bincount(labels, minlength=length),
        np.bincount(labels[right[counts, 0]], minlength=length),
        np.bincount(labels[right[counts].any(1)], minlength=length),
        np.bincount(answers, minlength=length),
    ]
    rows = [OfClass(label, *row) for label, row in enumerate(np.stack(columns, 1).tolist())]
    return [row for row in rows if row.images or row.answered]


def confused(outcomes: Outcomes, right: NDArray[np.bool_], counts: NDArray[np.bool_], most: int = PAIRS) -> list[Pair]:
    """The pairs of classes with the most wrong answers; of equally many, those of lower classes first."""
    wrong = counts & ~right[:, 0]
    pairs, numbers = np.unique(
        np.stack([outcomes.labels, outcomes.classes[:, 0]], 1)[wrong], axis=0, return_counts=True
    )
    of_label = np.bincount(outcomes.labels[counts])
    order = np.argsort(-numbers, kind="stable")[:most]
    return [
        Pair(label, answer, int(number), int(of_label[label]))
        for (label, answer), number in zip(pairs[order].tolist(), numbers[order], strict=True)
    ]


def flips(outcomes: Outcomes, accepted: Sequence[frozenset[int]] | None) -> Flips | None:
    """What the other precision changes, if there was one; ``accepted`` as ``right_answers`` has it."""
    if outcomes.others is None:
        return None
    after = Outcomes(outcomes.indices, outcomes.labels, outcomes.others[:, None], outcomes.probabilities[:, :1])
    right_before, counts = right_answers(outcomes, accepted)
    right_after, _ = right_answers(after, accepted)
    differ = counts & (outcomes.others != outcomes.classes[:, 0])
    return Flips(
        images=int(counts.sum()),
        differ=int(differ.sum()),
        right_before=int((differ & right_before[:, 0]).sum()),
        right_after=int((differ & right_after[:, 0]).sum()),
        largest_difference=outcomes.largest_difference,
    )
