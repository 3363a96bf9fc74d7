"""What the training loop costs beside a bare loop with the same model and the same batch in memory.

    python -m benchmarks.loop [--model resnet18] [--size 96] [--batch 8] [--steps 1] [--repeats 4] [--threads 1]

The bare loop does forward, backward and optimiser step on one float batch that is made beforehand, and nothing else: no
metrics, no schedule, no seeds, no normalisation, no fingerprint of the samples. Both go on in one process, each with a
model of its own, and take turns of ``--steps`` steps (many for a GPU, which is waited for at the end of a turn): the
bare loop's turn goes before the batches of the trainer's, so that a drift of the machine cancels. A repeat is ten turns
of each; the trainer logs every ten steps, five times as often as by default. The overhead is the difference as a share
of a bare step; and, with less noise, the same difference around a model that does nearly nothing.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from benchmarks.results import Row, Table, begin, parser, rows
from sources.lease import FolderLease
from sources.source import Source
from training.config.data_options import DataConfig
from training.config.schema import Config
from training.config.train_options import ModelConfig, TrainConfig
from training.engine.build import assemble
from training.engine.loop import Clock, train_epoch
from training.engine.numerics import autocast
from training.loader.loader import BatchIterator, Loader, open_loader
from training.loader.open_data import Data, open_data
from training.loader.order import TrainBatches
from training.model.bundle import MEAN, STD, normalise
from training.processes.preemption import StopFlag
from training.processes.world import World
from training.run_dir.records import RunDirectory
from training.state.run_state import Run
from training.state.train_state import TrainState

BARE, OURS = "bare loop", "imagenet-ais"
TURNS = 10
"""Of each loop in a repeat."""
Seconds = tuple[float, float]
"""(CPU seconds, seconds)."""
Loop = Callable[[], Seconds]
"""Runs a few steps; answers how long they took."""


def synthetic(config: Config) -> Data:
    """The data of data=synthetic, which need no closing."""
    with open_data(config, config.train.batch_size, World(), print) as data:
        return data


def now(device: torch.device) -> Seconds:
    """The clocks, when the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.process_time(), time.perf_counter()


def next_to_nothing(classes: int) -> nn.Module:
    """A model whose time hardly counts: the means of the channels, and one layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


def bare(config: Config, steps: int, device: torch.device, model: nn.Module | None = None) -> Loop:
    """A loop of ``steps`` steps that is as short as it gets, of ``model`` or else the configuration's."""
    data = synthetic(config)
    batch = data.train.__getitems__([(0, index) for index in range(config.train.batch_size)])
    images = normalise(batch.images.to(device), MEAN, STD, config.train.channels_last)
    labels = batch.labels.to(device)
    if model is None:  # a compiled one has no truth value
        model = assemble(config, World(), device, StopFlag(), data).train_model
    model = model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()

    def loop() -> Seconds:
        cpu, wall = now(device)
        for _ in range(steps):
            with autocast(config.precision, device):
                loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        end_cpu, end_wall = now(device)
        return end_cpu - cpu, end_wall - wall

    return loop


class Turns(Iterator[Any]):
    """The trainer's batches; before every ``steps`` of them the other loop has its turn."""

    def __init__(self, batches: Iterable[Any], other: Loop, steps: int, device: torch.device) -> None:
        self._batches, self._other, self._steps, self._device = iter(batches), other, steps, device
        self._asked = 0
        self.times: list[tuple[Seconds, Seconds]] = []
        """Of each turn: the other loop's and the trainer's, from its first batch until it asks for one more."""

    def __next__(self) -> Any:
        """The next batch."""
        if self._asked % self._steps == 0:
            self.end_turn()
            self._others = self._other()
            self._begin = now(self._device)
        self._asked += 1
        return next(self._batches)

    def end_turn(self) -> None:
        """The trainer's turn is over, if it had one."""
        if self._asked:
            cpu, wall = now(self._device)
            self.times.append((self._others, (cpu - self._begin[0], wall - self._begin[1])))


@contextmanager
def open_run(
    config: Config, data: Data, train: Source, batches: TrainBatches, workers: int, prefetch: int
) -> Iterator[tuple[Run, Loader]]:
    """The trainer, and a loader of ``batches`` of ``train``."""
    with open_loader(train, batches, workers, prefetch, best_device()) as loader, open_trainer(config, data) as run:
        yield run, loader


@contextmanager
def open_trainer(config: Config, data: Data) -> Iterator[Run]:
    """The trainer with its records, without checkpoints and console."""
    with tempfile.TemporaryDirectory() as config.run_dir:
        run = assemble(config, World(), best_device(), StopFlag(), data)
        run.console.enabled = False
        with FolderLease(Path(config.run_dir), "run_dir", print) as lock, RunDirectory(config, lock) as run.records:
            yield run


def best_device() -> torch.device:
    """A GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def turns(config: Config, steps: int, count: int, device: torch.device, tiny: bool) -> dict[str, list[list[float]]]:
    """By loop: [CPU ms per step, ms per step] of each of ``count`` repeats, after a turn that warms up.

    The trainer's is an epoch on synthetic data, with its records, without checkpoints.
    """
    samples = (count * TURNS + 1) * steps * config.train.batch_size
    config = replace(config, data=replace(config.data, train_samples=samples))
    models = [next_to_nothing(1000).to(device) if tiny else None for _ in range(2)]
    data = synthetic(config)
    batches = TrainBatches(len(data.train), config.train.batch_size, 0, 1)
    with open_run(config, data, data.train, batches, 0, 1) as (run, loader):
        if models[0]:
            run.state = TrainState.begin(config, models[0], device, run.state.steps_per_epoch)
            run.train_model = models[0]
        taken = Turns(loader.batches, bare(config, steps, device, models[1]), steps, device)
        feed = BatchIterator(replace(loader, batches=cast(Any, taken)))
        train_epoch(run, feed, Clock(run, feed))
        taken.end_turn()
    times: dict[str, list[list[float]]] = {BARE: [], OURS: []}
    for first in range(1, len(taken.times), TURNS):
        repeat = taken.times[first : first + TURNS]
        for loop, of_loop in zip(times, zip(*repeat, strict=True), strict=True):
            times[loop].append([1e3 * sum(values) / TURNS / steps for values in zip(*of_loop, strict=True)])
    return times


def main() -> int:
    """The command line."""
    options = parser(__doc__, model="resnet18", size=96, batch=8, steps=1, repeats=4, threads=1).parse_args()
    result = begin(options)
    torch.set_num_threads(options.threads)
    device = best_device()
    config = Config(
        data=DataConfig(
            source="synthetic", image_size=options.size, val_image_size=options.size, val_resize=options.size
        ),
        model=ModelConfig(options.model),
        train=TrainConfig(batch_size=options.batch, log_every=10),
    )
    times = turns(config, options.steps, options.repeats, device, tiny=False)
    alone = turns(config, 10, options.repeats, device, tiny=True)
    what = f"{options.model} at {options.size} pixels, batch {options.batch}, threads={options.threads}, {device}"
    overhead = []
    for place, (name, unit) in enumerate((("CPU time", "CPU ms per step"), ("wall time", "ms per step"))):
        columns = {loop: [row[place] for row in found] for loop, found in times.items()}
        result.add(Table(unit.split()[0].lower(), f"A training step: {what}", unit, rows(columns), BARE))
        differences = [100 * (b / a - 1) for a, b in zip(columns[BARE], columns[OURS], strict=True)]
        overhead.append(Row(f"{name}, in turns", differences))
        own = [b[place] - a[place] for a, b in zip(alone[BARE], alone[OURS], strict=True)]
        note = f"{statistics.median(own):.3f} ms per step"
        of_step = [100 * value / statistics.median(columns[BARE]) for value in own]
        overhead.append(Row(f"{name}, the loop around next to nothing", of_step, note))
    result.add(Table("overhead", f"What the trainer's loop adds: {what}", "% of the bare loop", overhead))
    return 0


if __name__ == "__main__":
    sys.exit(main())
