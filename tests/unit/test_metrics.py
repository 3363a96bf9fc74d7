"""DeviceSums of loss and hits, normalisation, seeds, and the words of the console."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.functional import normalize, to_tensor

from sources.text import format_duration
from training.engine.numerics import seed_step
from training.model.bundle import MEAN, STD, denormalise, normalise
from training.report.metrics import DeviceSums, IntervalMetrics, Metrics


def test_accuracy_and_loss_over_unequal_batches() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 10), torch.randint(0, 10, (50,))
    sums = DeviceSums(torch.device("cpu"))
    for part in (slice(0, 32), slice(32, 50)):
        sums.add(F.cross_entropy(logits[part], labels[part]), logits[part], labels[part])
    metrics = IntervalMetrics(sums.take()).metrics
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert metrics.count == 50
    assert metrics.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)
    assert metrics.acc1 == pytest.approx(100 * (ranks < 1).float().mean().item(), rel=1e-6)
    assert metrics.acc5 == pytest.approx(100 * (ranks < 5).float().mean().item(), rel=1e-6)
    assert IntervalMetrics(sums.take()).metrics.count == 0


def test_fewer_than_five_classes() -> None:
    sums = DeviceSums(torch.device("cpu"))
    sums.add(torch.tensor(0.5), torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([0, 0]))
    assert IntervalMetrics(sums.take()).metrics == Metrics(0.5, 50.0, 100.0, 2)


def test_the_first_step_without_a_finite_loss_is_remembered() -> None:
    sums = DeviceSums(torch.device("cpu"))
    for step, loss in enumerate([1.0, 2.0, math.nan, 1.0, math.inf]):
        sums.add(torch.tensor(loss), torch.zeros(1, 2), torch.tensor([0]), step)
    assert not math.isfinite(sums.take()[0].item())
    assert sums.first_bad_step() == 2


def test_a_tally_knows_speed_and_waiting() -> None:
    tally = IntervalMetrics()
    tally.add(torch.tensor([8.0, 2, 4, 4], dtype=torch.float64), seconds=2.0, wait_s=0.5)
    tally.add(torch.tensor([8.0, 2, 4, 4], dtype=torch.float64), seconds=2.0, wait_s=0.5)
    assert tally.metrics == Metrics(2.0, 50.0, 100.0, 8)
    assert (tally.img_per_s, tally.data_wait) == (2.0, 0.25)


@pytest.mark.parametrize("channels_last", [True, False])
def test_normalisation_is_torchvisions(channels_last: bool) -> None:
    images = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8)
    ours = normalise(images, MEAN, STD, channels_last)
    theirs = torch.stack([normalize(to_tensor(image.numpy()), list(MEAN), list(STD)) for image in images])
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    assert ours.dtype == torch.float32
    assert ours.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    torch.testing.assert_close(denormalise(ours, MEAN, STD), images.permute(0, 3, 1, 2) / 255, atol=1e-6, rtol=0)


def test_step_seeds_differ_in_every_part_and_repeat() -> None:
    drawn = []
    for key in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0)]:
        seed_step(*key, torch.device("cpu"))
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[-1]
    assert len(set(drawn)) == 5


def test_a_step_seeds_its_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    seed_step(0, 0, 0, 0, torch.device("cuda", 0))
    assert seeds == [torch.initial_seed()]
    seed_step(0, 0, 1, 0, torch.device("cpu"))
    assert len(seeds) == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.6, "1m00s"), (190, "3m10s"), (7500, "2h05m"), (273600, "3d04h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
