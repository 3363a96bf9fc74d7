"""Classes of different sizes: an order in which they come equally often, and a loss that counts them alike."""

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.config.train_options import TrainConfig
from training.engine.mixing import Mixture
from training.engine.objective import Labelling, Objective
from training.loader.order import TrainBatches, balanced_order, epoch_order
from training.model.bundle import Bundle

LABELS = np.array([0] * 70 + [1] * 4 + [3] * 29)  # no sample of class 2
HALVES = (0.5, 0.5, 0.5)


def test_each_class_comes_equally_often_in_every_epoch() -> None:
    spare = []
    for epoch in range(6):
        indices, repeats = balanced_order(LABELS, 7, epoch)
        assert len(indices) == len(repeats) == len(LABELS)
        counts = np.bincount(LABELS[indices], minlength=4)
        assert counts[2] == 0 and sorted(counts[[0, 1, 3]].tolist()) == [34, 34, 35]
        spare.append(int(counts.argmax()))
        for label in (0, 1, 3):
            times = Counter(indices[LABELS[indices] == label].tolist())
            assert set(times.values()) <= {counts[label] // np.count_nonzero(label == LABELS) + more for more in (0, 1)}
        assert sorted(zip(indices.tolist(), repeats.tolist(), strict=True)) == sorted(
            (index, again) for index, times in Counter(indices.tolist()).items() for again in range(times)
        )
    assert len(set(spare)) > 1


def test_the_balanced_order_is_fixed_by_seed_and_epoch() -> None:
    indices, repeats = balanced_order(LABELS, 0, 0)
    digest = hashlib.sha256(np.stack([indices, repeats]).astype("<i8").tobytes()).hexdigest()
    assert digest == "ae50be76483f7cdc320bac18fdda7bc95d2161a9b12af4ce539c1d606be76972"
    assert not np.array_equal(indices, balanced_order(LABELS, 0, 1)[0])
    assert not np.array_equal(indices, balanced_order(LABELS, 1, 0)[0])
    assert not np.array_equal(balanced_order(np.arange(100), 0, 0)[0], epoch_order(100, 0, 0))


def test_all_samples_of_a_large_class_have_their_turn_over_the_epochs() -> None:
    seen = {int(index) for epoch in range(12) for index in balanced_order(LABELS, 0, epoch)[0]}
    assert seen == set(range(len(LABELS)))


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_every_world_size_sees_the_same_balanced_batches_and_goes_on(
    world_size: int, accumulate: int, views: int
) -> None:
    options = {"seed": 5, "epochs": 2, "views": views, "balance": LABELS}
    reference = list(TrainBatches(103, 12, **options))  # type: ignore[arg-type]
    ranks = [
        TrainBatches(103, 12, rank=rank, world_size=world_size, accumulate=accumulate, **options)  # type: ignore[arg-type]
        for rank in range(world_size)
    ]
    lists = [list(rank) for rank in ranks]
    for step, batch in enumerate(reference):
        parts = [lists[rank][step * accumulate + part] for rank in range(world_size) for part in range(accumulate)]
        assert [key for part in parts for key in part.keys] == batch.keys
    rest = TrainBatches(103, 12, accumulate=accumulate, world_size=world_size, start=(1, 3), **options)  # type: ignore[arg-type]
    assert list(rest) == lists[0][11 * accumulate :]
    first = [key for batch in reference[:8] for key in batch.keys]
    assert len(set(first)) == len(first) == 96, "no sample comes twice in one view"
    order = balanced_order(LABELS, 5, 0)
    if views == 1:
        assert first == [(0, int(index), int(again)) for index, again in zip(*order, strict=True)][:96]
    else:
        expected = [
            (0, int(order[0][4 * batch + place]), 3 * int(order[1][4 * batch + place]) + view)
            for batch in range(8)
            for view in range(3)
            for place in range(4)
        ]
        assert first == expected


def test_weights_are_scikit_learns_balanced_ones() -> None:
    weights = Labelling.of(LABELS, 5, None, torch.device("cpu")).weights
    assert weights is not None
    expected = [103 / (3 * 70), 103 / (3 * 4), 0, 103 / (3 * 29), 0]
    torch.testing.assert_close(weights, torch.tensor(expected))
    assert weights[torch.from_numpy(LABELS)].mean().item() == pytest.approx(1)


def objective(smoothing: float = 0.0, loss: str = "ce", threshold: float = 0.0) -> Objective:
    config = TrainConfig(label_smoothing=smoothing, loss=loss, bce_threshold=threshold)
    labelling = Labelling.of(LABELS, 4, None, torch.device("cpu"))
    return Objective(config, Bundle(torch.nn.Identity(), HALVES, HALVES), labelling)


def drawn(n: int, classes: int) -> tuple[torch.Tensor, Mixture]:
    generator = torch.Generator().manual_seed(3)
    labels, partners = torch.randint(0, 4, (2, n), generator=generator)
    shares = torch.rand(n, generator=generator)
    return torch.randn(n, classes, generator=generator), Mixture(labels, partners, shares)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_counts_each_label_by_its_class(smoothing: float) -> None:
    logits, targets = drawn(24, 4)
    weights = Labelling.of(LABELS, 4, None, torch.device("cpu")).weights

    def rows(labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels, weights, reduction="none", label_smoothing=smoothing)

    loss = objective(smoothing).loss
    torch.testing.assert_close(loss(logits, targets.labels), rows(targets.labels).mean())
    mixed = targets.shares * rows(targets.labels) + (1 - targets.shares) * rows(targets.partners)
    torch.testing.assert_close(loss(logits, targets), mixed.mean())
    halves = [Mixture(*(part[some] for part in targets)) for some in (slice(0, 12), slice(12, 24))]
    parts = [loss(logits[some], half) for some, half in zip((slice(0, 12), slice(12, 24)), halves, strict=True)]
    torch.testing.assert_close(sum(parts) / 2, loss(logits, targets))  # so no world size and no accumulation matters
    assert torch.equal(
        objective(smoothing).validation_loss(logits, targets.labels), F.cross_entropy(logits, targets.labels)
    )


@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_binary_cross_entropy_counts_each_row_by_its_class(threshold: float) -> None:
    logits, targets = drawn(24, 6)  # of a model with more classes than the data
    weights = Labelling.of(LABELS, 4, None, torch.device("cpu")).weights
    assert weights is not None

    def hot(labels: torch.Tensor) -> torch.Tensor:
        return F.one_hot(labels, 6).float()

    def rows(dense: torch.Tensor) -> torch.Tensor:
        dense = (dense > threshold).float() if threshold else dense
        return F.binary_cross_entropy_with_logits(logits, dense, reduction="none").mean(1)

    loss = objective(loss="bce", threshold=threshold).loss
    own, other, shares = weights[targets.labels], weights[targets.partners], targets.shares
    torch.testing.assert_close(loss(logits, targets.labels), (own * rows(hot(targets.labels))).mean())
    dense = shares[:, None] * hot(targets.labels) + (1 - shares[:, None]) * hot(targets.partners)
    torch.testing.assert_close(loss(logits, targets), ((shares * own + (1 - shares) * other) * rows(dense)).mean())


def test_weights_reach_a_model_with_more_classes_than_the_data() -> None:
    logits, targets = drawn(24, 7)
    weights = F.pad(Labelling.of(LABELS, 4, None, torch.device("cpu")).weights, (0, 3))  # type: ignore[arg-type]
    rows = F.cross_entropy(logits, targets.labels, weights, reduction="none")
    torch.testing.assert_close(objective().loss(logits, targets.labels), rows.mean())
