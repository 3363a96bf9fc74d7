"""What the training loop costs beside a bare loop with the same model and the same batch in memory.

    python -m benchmarks.loop [--model resnet18] [--size 96] [--batch 16] [--steps 3] [--repeats 12] [--threads 1]

The bare loop does forward, backward and optimiser step on one float batch that is made beforehand, and nothing else: no
metrics, no schedule, no seeds, no normalisation, no fingerprint of the samples. Both go on in one process, each with a
model of its own, in pairs of short rounds, every other pair in the other order; the trainer's rounds are epochs and end
with a line in its records. The overhead is the median of the pairs' differences, so that a slow drift of the machine
cancels; and, with less noise, the same difference around a model that does nearly nothing, as a share of a bare step.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.results import Row, Table, begin, parser, rows
from training.assemble import assemble
from training.config import Config, DataConfig, ModelConfig, TrainConfig
from training.data import Data, open_data
from training.distributed import World
from training.loader import Feed, normalise, open_loader
from training.lock import RunLock
from training.loop import Clock, train_epoch
from training.preemption import StopFlag
from training.records import RunDirectory
from training.sampler import TrainBatches

BARE, OURS = "bare loop", "imagenet-ais"
Loop = Callable[[], tuple[float, float]]
"""Runs a round; answers (CPU seconds, seconds)."""


def synthetic(config: Config, device: torch.device) -> Data:
    """The data of data=synthetic, which need no closing."""
    with open_data(config, config.train.batch_size, device, World(), print) as data:
        return data


def timed(device: torch.device, call: Callable[[], object]) -> tuple[float, float]:
    """(CPU seconds, seconds) of a call and of what it left to the device."""
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.process_time() - cpu, time.perf_counter() - wall


def next_to_nothing(classes: int) -> nn.Module:
    """A model whose time hardly counts: the means of the channels, and one layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


def bare(config: Config, steps: int, device: torch.device, model: nn.Module | None = None) -> Loop:
    """A loop of ``steps`` steps that is as short as it gets, of ``model`` or else the configuration's."""
    data = synthetic(config, device)
    batch = data.train.__getitems__([(0, index) for index in range(config.train.batch_size)])
    images, labels = normalise(batch.images.to(device), channels_last=True), batch.labels.to(device)
    model = (model or assemble(config, World(), device, StopFlag(), data).model).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()

    def loop() -> None:
        for _ in range(steps):
            criterion(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return lambda: timed(device, loop)


@contextmanager
def ours(config: Config, rounds: int, device: torch.device, model: nn.Module | None = None) -> Iterator[Loop]:
    """Epochs of the trainer's loop on synthetic data, with its records, without checkpoints."""
    data = synthetic(config, device)
    batches = TrainBatches(len(data.train), config.train.batch_size, 0, rounds)
    with tempfile.TemporaryDirectory() as config.run_dir, open_loader(data.train, batches, 0, 1, device) as loader:
        run = assemble(config, World(), device, StopFlag(), data)
        run.console.enabled = False
        run.train_model = model.to(device) if model else run.train_model
        with RunLock(Path(config.run_dir), print) as lock, RunDirectory(config, lock) as run.records:
            feed = Feed(loader)
            clock = Clock(run, feed)

            def epoch() -> None:
                train_epoch(run, feed, clock)
                run.progress = run.progress.at_epoch(run.progress.epoch + 1)

            yield lambda: timed(device, epoch)


def pairs(config: Config, steps: int, count: int, device: torch.device, tiny: bool) -> dict[str, list[list[float]]]:
    """By loop: [CPU ms per step, ms per step] of each of ``count`` rounds, after a pair that warms up."""
    size = config.train.batch_size
    data = replace(config.data, train_samples=steps * size)
    config = replace(config, data=data, train=replace(config.train, epochs=count + 1))
    made: list[nn.Module | None] = [next_to_nothing(1000) if tiny else None for _ in range(2)]
    times: dict[str, list[list[float]]] = {BARE: [], OURS: []}
    with ours(config, count + 1, device, made[0]) as loop:
        loops = [(BARE, bare(config, steps, device, made[1])), (OURS, loop)]
        for repeat in range(count + 1):
            for name, run_round in loops if repeat % 2 else reversed(loops):
                seconds = run_round()
                if repeat:
                    times[name].append([1e3 * value / steps for value in seconds])
    return times


def main() -> int:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="resnet18")
    arguments.add_argument("--size", type=int, default=96)
    arguments.add_argument("--batch", type=int, default=16)
    arguments.add_argument("--steps", type=int, default=3, help="of a round")
    arguments.add_argument("--repeats", type=int, default=12, help="pairs of rounds")
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    result = begin(options)
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = Config(
        data=DataConfig(
            source="synthetic", image_size=options.size, val_image_size=options.size, val_resize=options.size
        ),
        model=ModelConfig(options.model),
        train=TrainConfig(batch_size=options.batch),
    )
    times = pairs(config, options.steps, options.repeats, device, tiny=False)
    alone = pairs(config, 50, options.repeats, device, tiny=True)
    what = f"{options.model} at {options.size} pixels, batch {options.batch}, threads={options.threads}, {device}"
    overhead = []
    for place, (name, unit) in enumerate((("CPU time", "CPU ms per step"), ("wall time", "ms per step"))):
        columns = {loop: [row[place] for row in found] for loop, found in times.items()}
        result.add(Table(unit.split()[0].lower(), f"A training step: {what}", unit, rows(columns), BARE))
        differences = [100 * (b / a - 1) for a, b in zip(columns[BARE], columns[OURS], strict=True)]
        overhead.append(Row(f"{name}, pairs of rounds", differences))
        own = [b[place] - a[place] for a, b in zip(alone[BARE], alone[OURS], strict=True)]
        note = f"{statistics.median(own):.3f} ms per step"
        of_step = [100 * value / statistics.median(columns[BARE]) for value in own]
        overhead.append(Row(f"{name}, the loop around next to nothing", of_step, note))
    result.add(Table("overhead", f"What the trainer's loop adds: {what}", "% of the bare loop", overhead))
    return 0


if __name__ == "__main__":
    sys.exit(main())
