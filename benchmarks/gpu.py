"""Images a second of a model on a GPU, and how long its steps wait for data: eager and compiled.

    python -m benchmarks.gpu [--model resnet50] [--batch 256] [--precision bf16] [--steps 50] [--repeats 3] [--eager]

Three loops, each without and with torch.compile (--eager leaves it out), all channels_last: a bare loop on a batch that
lies on the device (``benchmarks.loop``); the trainer on ready-made random pixels in pinned memory (data=synthetic),
which it copies and normalises; and the trainer on ready samples of 224 pixels from ``benchmarks.static_server``, which
come by HTTP as from an ETL (data.transform=etl). Each loop has a process of its own, one after the other, and warms up
for ``--steps`` steps.

Without a GPU it measures the CPU: python -m benchmarks.gpu --model squeezenet1_1 --batch 4 --steps 2 --precision fp32
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator

import torch

from benchmarks.loop import bare, best_device, now, open_run, synthetic
from benchmarks.measure import Session, reply
from benchmarks.receive import ready_samples, static_server
from benchmarks.results import Row, Table, alone, begin, parser
from sources.source import Source
from training.config.data_options import DataConfig
from training.config.schema import Config
from training.config.train_options import ModelConfig, OptimConfig, TrainConfig
from training.engine.loop import Clock, train_epoch
from training.engine.numerics import set_numerics
from training.loader.loader import BatchIterator
from training.loader.order import TrainBatches
from training.processes.world import World

BARE, SYNTHETIC, READY = "bare loop", "imagenet-ais, synthetic", "imagenet-ais, ready samples"
SIZE = 224
WORKERS, PREFETCH = 4, 4
"""Of ready samples."""


def steps_of_the_trainer(config: Config, endpoint: str, device: torch.device, steps: int) -> Iterator[dict[str, float]]:
    """Figures of ``steps`` steps, again and again; of the static server's samples if ``endpoint`` is not empty."""
    data = synthetic(config)
    train: Source = ready_samples(endpoint) if endpoint else data.train
    batches = TrainBatches(steps * config.train.batch_size, config.train.batch_size, 0, 1000)
    with open_run(config, data, train, batches, WORKERS if endpoint else 0, PREFETCH) as (run, loader):
        feed = BatchIterator(loader)
        while True:
            (_, begin_s), wait_s = now(device), feed.wait_s
            train_epoch(run, feed, Clock(run, feed))
            seconds = now(device)[1] - begin_s
            run.state.progress = run.state.progress.at_epoch(run.state.progress.epoch + 1)
            yield {
                "img_per_s": steps * config.train.batch_size / seconds,
                "data_wait": 100 * (feed.wait_s - wait_s) / seconds,
            }


def steps_of_the_bare_loop(config: Config, device: torch.device, steps: int) -> Iterator[dict[str, float]]:
    """As ``steps_of_the_trainer``."""
    loop = bare(config, steps, device)
    while True:
        yield {"img_per_s": steps * config.train.batch_size / loop()[1], "data_wait": 0.0}


def measure(kind: str, options: argparse.Namespace, compiled: bool, endpoint: str) -> Iterator[dict[str, float]]:
    """Of the loop ``kind``, after one measurement that warms up."""
    device = best_device()
    samples = options.steps * options.batch
    config = Config(
        data=DataConfig(source="synthetic", image_size=SIZE, val_image_size=SIZE, train_samples=samples),
        model=ModelConfig(options.model),
        train=TrainConfig(batch_size=options.batch, channels_last=True, compile=compiled),
        optim=OptimConfig(lr=1e-3),
        precision=options.precision,
    )
    set_numerics(config, device, World())
    if kind == BARE:
        figures = steps_of_the_bare_loop(config, device, options.steps)
    else:
        figures = steps_of_the_trainer(config, endpoint if kind == READY else "", device, options.steps)
    next(figures)
    yield from figures


def main() -> int:
    """The command line."""
    defaults = {"model": "resnet50", "batch": 256, "precision": "bf16", "steps": 50, "repeats": 3, "eager": False}
    options = parser(__doc__, **defaults).parse_args()
    if options.one:
        kind, mode, endpoint = options.one
        reply(measure(kind, options, mode == "compiled", endpoint))
        return 0
    result = begin(options)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    modes = ("eager",) if options.eager else ("eager", "compiled")
    with static_server() as ports:
        for mode in modes:
            for kind in (BARE, SYNTHETIC, READY):
                session = Session(*alone(options, mode, f"http://127.0.0.1:{ports[0]}")(kind))
                try:
                    for _ in range(options.repeats):
                        for name, value in session.measure().items():
                            values[name][f"{kind}, {mode}"].append(value)
                finally:
                    session.close()
    what = f"{options.model} at {SIZE} pixels, batch {options.batch}, {options.precision}, channels_last, {device}"
    speeds = [Row(name, found) for name, found in values["img_per_s"].items()]
    result.add(Table("speed", f"Training {what}", "images/s", speeds, f"{BARE}, eager", "more"))
    waits = [Row(name, found) for name, found in values["data_wait"].items() if not name.startswith(BARE)]
    result.add(Table("wait", "Time that steps wait for data", "% of the time", waits))
    return 0


if __name__ == "__main__":
    sys.exit(main())
