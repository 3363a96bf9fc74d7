"""Several classes for each sample: the loss, the hits and the mean average precision."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from training.config.train_options import TrainConfig
from training.engine.mixing import Mixture
from training.engine.objective import Labelling, Objective
from training.model.bundle import Bundle
from training.report.average_precision import Ranking, average_precision, mean_average_precision
from training.report.metrics import DeviceSums, IntervalMetrics, Metrics, Validation

SETS = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 1, 1]], np.bool_)
HALVES = (0.5, 0.5, 0.5)


def objective(smoothing: float = 0.0) -> Objective:
    labelling = Labelling.of(None, 3, SETS, torch.device("cpu"))
    return Objective(
        TrainConfig(loss="bce", label_smoothing=smoothing), Bundle(torch.nn.Identity(), HALVES, HALVES), labelling
    )


@pytest.mark.parametrize("classes", [3, 5])
def test_the_loss_is_that_of_the_rows_of_the_table(classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(4, classes, generator=generator), torch.tensor([3, 0, 2, 1])
    dense = F.pad(torch.from_numpy(SETS).float(), (0, classes - 3))[labels]
    bce = F.binary_cross_entropy_with_logits
    torch.testing.assert_close(objective().loss(logits, labels), bce(logits, dense))
    torch.testing.assert_close(objective(0.1).loss(logits, labels), bce(logits, dense * 0.9 + 0.1 / classes))
    torch.testing.assert_close(objective(0.1).validation_loss(logits, labels), bce(logits, dense))
    shares = torch.tensor([0.25, 0.5, 0.75, 1.0])
    mixed = dense * shares[:, None] + dense.flip(0) * (1 - shares[:, None])
    torch.testing.assert_close(objective().loss(logits, Mixture(labels, labels.flip(0), shares)), bce(logits, mixed))
    assert objective().truth(labels, logits).tolist() == dense.bool().tolist()


def test_any_of_the_classes_is_a_hit() -> None:
    logits = torch.tensor([[3.0, 1, 2], [3, 2, 1], [1, 2, 3], [3, 2, 1]])
    sums = DeviceSums(torch.device("cpu"))
    sums.add(torch.tensor(0.5), logits, objective().truth(torch.tensor([2, 0, 2, 3]), logits))
    metrics = IntervalMetrics(sums.take()).metrics
    assert (metrics.acc1, metrics.acc5, metrics.count) == (50, 75, 4)


def by_thresholds(scores: np.ndarray, truth: np.ndarray) -> float:
    """Average precision as its definition says, one threshold after the other."""
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = scores >= threshold
        precision, now = truth[above].mean(), truth[above].sum() / truth.sum()
        total, recall = total + precision * (now - recall), now
    return float(total)


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_its_definition(ties: bool) -> None:
    rng = np.random.default_rng(4)
    values = []
    scores, truth = rng.normal(size=(60, 9)).astype(np.float32), rng.random((60, 9)) < 0.2
    truth[:, 8] = False
    scores = np.round(scores * 3) / 3 if ties else scores
    for number in range(8):
        ours = average_precision(torch.from_numpy(scores[:, number]), torch.from_numpy(truth[:, number]))
        values.append(by_thresholds(scores[:, number], truth[:, number]))
        assert ours == pytest.approx(values[-1], abs=1e-12)
    whole = mean_average_precision(torch.from_numpy(scores), torch.from_numpy(truth))
    assert whole == pytest.approx(np.mean(values), abs=1e-12)  # over the classes with a sample
    shuffled = rng.permutation(60)
    assert mean_average_precision(
        torch.from_numpy(scores[shuffled]), torch.from_numpy(truth[shuffled])
    ) == pytest.approx(whole, abs=1e-12)


def test_known_values_of_average_precision() -> None:
    truth = torch.tensor([False, False, True, True])
    assert average_precision(torch.tensor([0.1, 0.4, 0.35, 0.8]), truth) == pytest.approx(
        5 / 6
    )  # scikit-learn's example
    assert average_precision(torch.zeros(4), truth) == 0.5
    assert average_precision(torch.arange(4.0), truth) == 1
    assert mean_average_precision(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)) == 0


def test_the_ranking_of_batches_is_that_of_all_samples() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, truth = torch.randn(30, 4, generator=generator), torch.rand(30, 4, generator=generator) < 0.3
    ranking = Ranking(enabled=True)
    for begin in range(0, 30, 7):
        ranking.add(logits[begin : begin + 7], truth[begin : begin + 7])
    assert ranking.mean_ap() == 100 * mean_average_precision(logits, truth)
    assert Ranking(enabled=False).mean_ap() is None


def test_the_best_weights_are_those_of_the_better_mean_average_precision() -> None:
    sums = torch.tensor([1.0, 3, 4, 4], dtype=torch.float64)
    averaged = Metrics(0.2, 10.0, 20.0, 4, mean_ap=60.0)
    assert Validation(sums, mean_ap=50.0, ema=averaged).best == (60.0, "ema")
    assert Validation(sums, mean_ap=70.0, ema=averaged).best == (70.0, "model")
    assert Validation(sums, mean_ap=70.0).metrics.headline == "mAP 70.00"
    assert Validation(sums, ema=Metrics(0.2, 80.0, 90.0, 4)).best == (80.0, "ema")
    assert "mean_ap" not in Validation(sums).metrics.figures
