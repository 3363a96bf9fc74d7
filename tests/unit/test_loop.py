"""One optimiser step: micro-batches add up to the batch, and nothing waits for the device."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from sources.batch import Batch, Counts
from training.config.data_options import DataConfig
from training.config.schema import Config
from training.config.train_options import TrainConfig
from training.engine.loop import train_step
from training.engine.objective import Objective
from training.loader.loader import BatchIterator, Loader
from training.model.bundle import MEAN, STD, Bundle
from training.processes.world import World
from training.report.console import Console
from training.report.metrics import DeviceSums, IntervalMetrics
from training.state.consumed import Consumed
from training.state.run_state import Run
from training.state.train_state import TrainState

CPU = torch.device("cpu")


def make_run(
    accumulate: int, device: torch.device = CPU, precision: str = "fp32", steps: int = 4, **options: Any
) -> Run:
    torch.manual_seed(0)
    train = TrainConfig(batch_size=12, accumulate=accumulate, **options)
    config = Config(data=DataConfig(source="synthetic"), train=train, precision=precision)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    model = model.to(device)
    return Run(
        config=config, world=World(), device=device, train_model=model, eval_model=model,
        state=TrainState.begin(config, model, device, steps),
        objective=Objective(config.train, Bundle(model, MEAN, STD)), consumed=Consumed("off"),
        stop=None,  # type: ignore[arg-type]  # not asked within a step
        console=Console(enabled=False), environment={},
    )  # fmt: skip


def batches(accumulate: int, device: torch.device = CPU) -> BatchIterator:
    return BatchIterator(Loader(_batches(accumulate), None, device, held=3))  # type: ignore[arg-type]


class Ready:
    """A message whose batch lies in no ring."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self, ring: None) -> Batch:
        return self._batch


def _batches(accumulate: int) -> Iterator[Ready]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (12, 8, 8, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 6, (12,), generator=generator)
    for number, part in enumerate(torch.arange(12).chunk(accumulate)):
        places = range(number * len(part), (number + 1) * len(part))
        yield Ready(Batch(images[part], labels[part], part, Counts(local=len(part)), positions=places))


def test_micro_batches_add_up_to_the_batch() -> None:
    results = []
    for accumulate in (1, 3):
        run, sums = make_run(accumulate), DeviceSums(torch.device("cpu"))
        before = [p.clone() for p in run.state.model.parameters()]
        train_step(run, batches(accumulate), sums)
        assert all(not torch.equal(a, b) for a, b in zip(before, run.state.model.parameters(), strict=True))
        assert run.consumed.counts.local == 12
        results.append((list(run.state.model.parameters()), IntervalMetrics(sums.take()).metrics))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert results[0][1].loss == pytest.approx(results[1][1].loss, rel=1e-6)
    assert results[0][1].count == results[1][1].count == 12


EVERYTHING = {
    "mixup": 0.2,
    "cutmix": 1.0,
    "random_erasing": 0.5,
    "loss": "bce",
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
}


@pytest.mark.parametrize("options", [{}, EVERYTHING, EVERYTHING | {"loss": "ce", "cutmix": 0.0}])
def test_a_step_never_reads_from_the_device(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    run, sums = make_run(1, **options), DeviceSums(torch.device("cpu"))
    feed = batches(1)

    def forbidden(*_: Any) -> None:
        raise AssertionError("a step waited for the device")

    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, forbidden)
    train_step(run, feed, sums)
