"""Images a second of one model on a GPU, from each kind of data, how long its steps wait for them, and what limits.

    python -m benchmarks.gpu.speeds MODEL eager|compiled SETTINGS

One process, one model, five loops that take turns of some steps each: a bare loop on a batch that lies on the device
(``benchmarks.loop``); and the trainer on ready-made random pixels in pinned memory (data=synthetic), on ready samples
that come by HTTP as from an ETL (``benchmarks.static_server``), and on JPEGs without and with a JPEG index.
"""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.gpu.parts import Line, Settings, answering, row_of
from benchmarks.gpu.photos import data_set
from benchmarks.loop import bare, best_device, now, open_trainer, synthetic
from benchmarks.receive import ready_samples
from benchmarks.results import Row, Table, why
from etl.sample import native
from sources.source import Source
from training.config.data_options import DataConfig
from training.config.schema import Config
from training.config.train_options import TIMM, ModelConfig, OptimConfig, TrainConfig
from training.engine.build import settle, worker_count
from training.engine.loop import Clock, train_epoch
from training.engine.numerics import cpu_share, set_numerics
from training.loader.loader import BatchIterator, Loader, open_loader
from training.loader.order import TrainBatches
from training.loader.workers import start_worker_server
from training.processes.world import World
from training.report.limits import LIMITS, limited_by
from training.state.run_state import Run

BARE, SYNTHETIC, READY = "bare loop", "synthetic", "ready samples by HTTP"
JPEGS, INDEXED = "JPEGs", "JPEGs with the index"
KINDS = (BARE, SYNTHETIC, READY, JPEGS, INDEXED)
SIZE = 224
_MOST_TURNS = 100
_EPOCHS = 100_000

Turn = tuple[float, float]
"""(seconds, seconds of them in which steps waited for data)."""


def config_of(model: str, compiled: bool, settings: Settings) -> Config:
    """A run of ``settings.steps`` steps an epoch. timm's models, which are transformers here, keep NCHW."""
    samples = settings.steps * settings.batch
    config = Config(
        data=DataConfig(
            source="synthetic", image_size=SIZE, val_image_size=SIZE, train_samples=samples, workers=settings.workers
        ),
        model=ModelConfig(model),
        train=TrainConfig(
            batch_size=settings.batch, channels_last=not model.startswith(TIMM), compile=compiled, epochs=_EPOCHS
        ),
        optim=OptimConfig(lr=1e-3),
        precision=settings.precision,
        threads=1,  # which a GPU does not care about
    )
    settle(config)
    return config


def source_of(kind: str, run: Run, synthetic_samples: Source, settings: Settings) -> Source:
    """Where the samples of a loop come from."""
    if kind == SYNTHETIC:
        return synthetic_samples
    if kind == READY:
        found: Source = ready_samples(*settings.endpoints)
        return found
    if native() is None:
        raise RuntimeError("imagenet_ais_native is not built: make setup builds it where there is a C compiler")
    return data_set(Path(settings.photos), kind == INDEXED, cpu_share(settings.workers, World()))


def turns_of_the_trainer(run: Run, loader: Loader) -> Iterator[Turn]:
    """An epoch each."""
    feed = BatchIterator(loader)
    while True:
        (_, begin_s), wait_s = now(run.device), feed.wait_s
        train_epoch(run, feed, Clock(run, feed))
        turn = now(run.device)[1] - begin_s, feed.wait_s - wait_s
        run.state.progress = run.state.progress.at_epoch(run.state.progress.epoch + 1)
        yield turn


def turns_of_the_bare_loop(run: Run, steps: int) -> Iterator[Turn]:
    """With the trainer's model, whose weights it changes."""
    loop = bare(run.config, steps, run.device, run.train_model)
    while True:
        yield loop()[1], 0.0


def sampled(turns: Iterator[Turn], warm: int, seconds: float) -> list[Turn]:
    """Turns that take ``seconds`` together, one at least, after ``warm`` others."""
    for _ in range(warm):
        next(turns)
    found: list[Turn] = []
    while not found or (sum(turn[0] for turn in found) < seconds and len(found) < _MOST_TURNS):
        found.append(next(turns))
    return found


@contextmanager
def opened(
    kind: str, run: Run, synthetic_samples: Source, settings: Settings
) -> Iterator[tuple[Iterator[Turn], int, Source]]:
    """(endless turns of a loop, how many of them warm up, its samples)."""
    if kind == BARE:
        yield turns_of_the_bare_loop(run, settings.steps), 1, synthetic_samples
        return
    source = source_of(kind, run, synthetic_samples, settings)
    workers = 0 if kind == SYNTHETIC else worker_count(run.config, World(), source)
    batches = TrainBatches(len(source), settings.batch, 0, _EPOCHS)
    with open_loader(source, batches, workers, run.config.data.prefetch, run.device) as loader:
        if loader.unpinned:
            raise RuntimeError(f"the ring is not pinned: {loader.unpinned}")
        # Two batches of each worker come before what it goes on with.
        yield turns_of_the_trainer(run, loader), 1 + 2 * workers // settings.steps, source


def measure(kind: str, run: Run, synthetic_samples: Source, settings: Settings) -> tuple[list[Turn], str]:
    """The turns of a loop, and what limited it, as a key of ``LIMITS``; the model's weights stay what they were."""
    before = {name: value.clone() for name, value in run.state.model.state_dict().items()}
    with opened(kind, run, synthetic_samples, settings) as (turns, warm, source):
        found = sampled(turns, warm, settings.seconds)
    run.state.model.load_state_dict(before)
    seconds, wait_s = (sum(values) for values in zip(*found, strict=True))
    return found, limited_by({"local" if source.made_here else "etl": 1}, wait_s / seconds)


def tables(
    model: str, name: str, run: Run, turns: list[Turn], limit: str, settings: Settings, failed: str
) -> list[Table]:
    """A row of images a second, and one of waiting unless ``failed`` says why nothing was measured."""
    images = settings.steps * settings.batch
    layout = ", channels_last" if run.config.train.channels_last else ""
    device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else "CPU"
    title = f"Training {model} at {SIZE} pixels, batch {settings.batch}, {settings.precision}{layout}, {device}"
    row = Row(name, [images / seconds for seconds, _ in turns], failed=failed)
    made = [
        Table(f"speed of {model}", f"{title}; {settings.about_photos}", "images/s", [row], f"{BARE}, eager", "more")
    ]
    if not (failed or name.startswith(BARE)):
        waits = [100 * wait_s / seconds for seconds, wait_s in turns]
        limits = Row(
            name, waits, f"limited by {LIMITS[limit]}" if limit == "model" else f"limited by data: {LIMITS[limit]}"
        )
        made.append(
            Table(f"wait of {model}", f"{model}: steps wait for data, and what limits", "% of the time", [limits])
        )
    return made


def main(answer: Callable[[Line], None], model: str, mode: str, text: str) -> int:
    """The exit code: 1 if a loop failed, after which the others go on."""
    settings, failed = Settings.of(text), 0
    start_worker_server()
    config = config_of(model, mode == "compiled", settings)
    device = best_device()
    set_numerics(config, device, World())
    data = synthetic(config)
    with open_trainer(config, data) as run:
        for kind in KINDS:
            turns: list[Turn] = []
            limit = reason = ""
            try:
                turns, limit = measure(kind, run, data.train, settings)
            except Exception as error:
                traceback.print_exc()
                reason, failed = why(error), 1
            for table in tables(model, f"{kind}, {mode}", run, turns, limit, settings, reason):
                answer(row_of(table))
    return failed


if __name__ == "__main__":
    sys.exit(main(answering(), *sys.argv[1:]))
