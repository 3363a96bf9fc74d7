"""What the training loop costs beside a bare loop with the same model and the same batch in memory.

    python -m benchmarks.loop [--model resnet18] [--size 96] [--batch 32] [--repeats 5]

The bare loop does forward, backward and optimiser step on one float batch that is made beforehand, and nothing else:
no metrics, no schedule, no seeds, no normalisation. Rounds are interleaved in one process.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import print_machine, print_table
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


def synthetic(config: Config, device: torch.device) -> Data:
    """The data of data=synthetic, which need no closing."""
    with open_data(config, config.train.batch_size, device, World(), print) as data:
        return data


def bare(config: Config, steps: int, device: torch.device) -> Callable[[], float]:
    """Seconds of a loop of ``steps`` steps that is as short as it gets."""
    data = synthetic(config, device)
    batch = data.train.__getitems__([(0, index) for index in range(config.train.batch_size)])
    images, labels = normalise(batch.images.to(device), channels_last=True), batch.labels.to(device)
    model = assemble(config, World(), device, StopFlag(), data).model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()

    def loop() -> float:
        begin = time.perf_counter()
        for _ in range(steps):
            criterion(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    return loop


def ours(config: Config, device: torch.device) -> Callable[[], float]:
    """Seconds of one epoch of the trainer's loop on synthetic data, with its records, without checkpoints."""
    data = synthetic(config, device)
    batches = TrainBatches(len(data.train), config.train.batch_size, 0, 1)

    def loop() -> float:
        with tempfile.TemporaryDirectory() as config.run_dir, open_loader(data.train, batches, 0, 1, device) as loader:
            run = assemble(config, World(), device, StopFlag(), data)
            run.console.enabled = False
            with RunLock(Path(config.run_dir), print) as lock, RunDirectory(config, lock) as run.records:
                run.records.board.flush()  # made now, not within the first step
                run.progress.epoch = 1  # the picture of the first batch belongs to a run, not to a step
                feed = Feed(loader)
                begin = time.perf_counter()
                train_epoch(run, feed, Clock(run, feed))  # ends by reading the sums, so it waits for the device
                return time.perf_counter() - begin

    return loop


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print_machine()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = Config(
        data=DataConfig(
            source="synthetic", image_size=args.size, val_image_size=args.size, val_resize=args.size,
            train_samples=args.steps * args.batch,
        ),
        model=ModelConfig(args.model),
        train=TrainConfig(batch_size=args.batch, epochs=1),
    )  # fmt: skip
    loops = {"bare loop": bare(config, args.steps, device), "imagenet-ais": ours(config, device)}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for repeat in range(args.repeats + 1):
        for name, loop in loops.items():
            seconds = loop()
            if repeat:  # the first round warms up
                times[name].append(1e3 * seconds / args.steps)
    print_table(times, "bare loop", "ms per step")
    return 0


if __name__ == "__main__":
    sys.exit(main())
