"""A run from beginning to end: this is the story that train.py tells."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sources.batch import Counts
from sources.errors import UserError
from sources.text import format_duration, shell_word
from training.config.schema import Config
from training.engine.build import assemble, micro_batch_size, settle, worker_count
from training.engine.evaluation import Answer, validator
from training.engine.loop import train
from training.engine.numerics import set_numerics
from training.evaluate.evaluation import Evaluation
from training.loader.loader import BatchIterator, Loader, open_loader
from training.loader.open_data import Data, open_data
from training.loader.order import TrainBatches, ValBatches
from training.loader.workers import start_worker_server
from training.processes.collectives import run_on_rank0
from training.processes.preemption import ECHO_S, EXIT_CODE, StopFlag, Stopped, stopped_in
from training.processes.rendezvous import process_group
from training.processes.rescue import in_words, notes
from training.processes.world import World, choose_device, read_world
from training.report.console import AVERAGED, Console, format_metrics
from training.report.loggers import require_loggers
from training.report.metrics import Validation
from training.report.output import put_error
from training.report.profile import step_profile
from training.run_dir import checkpoint
from training.run_dir.directory import Directory, take_directory
from training.run_dir.files import REPORT
from training.run_dir.records import RunDirectory, rerun_command
from training.state.content import describe_content
from training.state.environment import common_facts
from training.state.resume import how_to_train_on, resume
from training.state.run_state import Run


def run(config: Config) -> int:
    """Train or evaluate; prints what it does and answers the exit code. Mistakes of the user become a sentence."""
    stop, who = StopFlag(), ""
    try:
        world = read_world()
        who = f"rank {world.rank}: " if world.size > 1 else ""
        stop.duplicate_signal_window_s = ECHO_S if world.has_agent else 0.0
        with process_group(
            world, lambda: choose_device(config.device, world), common_facts(config), config.meet_s
        ) as device:
            set_numerics(config, device, world)
            code = _run(config, world, device, stop)
        stop.ignore_from_now_on()
        return code
    except (Exception, Stopped) as error:
        if reason := stopped_in(error):
            stop.ignore_from_now_on()
            put_error(f"\nstopped by {reason}; what was saved before is untouched.")
            return EXIT_CODE
        if isinstance(error, UserError):
            return _say_error(who, f"{error}{notes(error)}", error.exit_code)
        assert isinstance(error, Exception)
        sentence = in_words(error, several=who != "", whole=who in ("", "rank 0: "), compiled=config.train.compile)
        if not sentence:
            raise
        return _say_error(who, f"{sentence}{notes(error)}")


def _say_error(who: str, sentence: str, exit_code: int = 1) -> int:
    put_error(f"{who}error: {sentence}")
    return exit_code


def _run(config: Config, world: World, device: torch.device, stop: StopFlag) -> int:
    console = Console(enabled=world.is_main)
    require_loggers(config.log)
    taken_over = settle(config)
    with ExitStack() as stack:
        # 1. The directory, before anything that takes long; nothing in it is replaced before step 4.
        directory = take_directory(config, world, console, stack, stop)
        batch_size = micro_batch_size(config, world)
        for sentence in taken_over:
            console.say(sentence)
        if config.data.workers != 0:
            start_worker_server(config.data.source)
        # 2. Data and model.
        data = stack.enter_context(open_data(config, batch_size, world, console.say))
        workers = worker_count(config, world, data.val)
        run = assemble(config, world, device, stop, data)
        if config.mode == "train":
            run.environment["content"] = run_on_rank0(world, lambda: describe_content(config, data.train, data.val))
        # 3. Where to go on.
        path = None
        if config.mode == "train":
            path = resume(config, world, run.state, run.environment, console.say)
        gave_up = run.state.progress.gave_up(config.train.stop_after)
        if path and (gave_up or run.state.progress.epoch >= config.train.epochs):
            _complete(run, directory)
            console.say(
                f"nothing to do: {path} is at the end of epoch {run.state.progress.epoch} of {config.train.epochs}. "
                f"{how_to_train_on(config, gave_up)}"
            )
            return 0
        # 4. Train, or evaluate alone.
        if directory.lock:
            records = RunDirectory(config, directory.lock, run.state.step, directory.mirror, console.say)
            run.records = stack.enter_context(records)
        run.records.environment(run.environment, run.state.progress.changes)
        run_on_rank0(world, lambda: directory.open_mirror(fresh=path is None))
        times = run.state.progress.validations(config.train.epochs, config.eval.every)
        times = 1 if config.mode == "evaluate" else times
        val_batches = ValBatches(len(data.val), batch_size, rank=world.rank, world_size=world.size, times=times)
        loader = stack.enter_context(open_loader(data.val, val_batches, workers, config.data.prefetch, device))
        _say_what(run, data, batch_size, workers, path)
        batches = val_batches.batches_per_epoch
        common = batches if world.size == 1 else len(data.val) // world.size // batch_size
        if config.mode == "evaluate":
            return _evaluate(run, data, partial(validator, run, loader, len(data.val), batches, common))
        validate = validator(run, loader, len(data.val), batches, common, data.class_names)
        return _train(run, data, workers, loader, validate)


def _complete(run: Run, directory: Directory) -> None:
    """What a run lacks that was killed after its last checkpoint: the summary, and its mirror's end."""
    if directory.lock and not (directory.lock.folder / "summary.json").exists():
        with RunDirectory(run.config, directory.lock, say=run.console.say) as run.records:
            run.records.environment(run.environment, run.state.progress.changes)
            _summarise(run)
    run_on_rank0(run.world, lambda: directory.complete_mirror(run.state.position))


def _train(run: Run, data: Data, workers: int, val_loader: Loader, validate: Callable[[], Validation | None]) -> int:
    config = run.config
    batches = TrainBatches(
        len(data.train),
        config.train.batch_size,
        config.seed,
        config.train.epochs,
        rank=run.world.rank,
        world_size=run.world.size,
        accumulate=config.train.accumulate,
        views=config.train.repeated_augmentation,
        start=run.state.position,
        balance=data.train_labels if config.data.balance == "classes" else None,
        blocks=None if data.train_blocks is None else (data.train_blocks, config.data.block_shards),
    )
    prefetch, accumulate = config.data.prefetch, config.train.accumulate
    with open_loader(data.train, batches, workers, prefetch, run.device, accumulate) as loader:
        # The memory that batches take, whatever happens: from the first validation on, those of both loaders.
        run.console.say(
            f"{loader.ring.slots} batches of training and {val_loader.ring.slots} of validation in shared memory: "
            f"{(loader.ring.size + val_loader.ring.size) / 1e6:,.0f} MB a process"
        )
        if loader.unpinned:
            run.console.say(f"warning: batches are not pinned, so copies to the GPU wait: {loader.unpinned}")
        run.stop.deferred = True
        with step_profile(config.train.profile, run.records, run.console, run.world.is_main) as run.profile:
            metrics = train(run, BatchIterator(loader), validate)
        run.stop.ignore_from_now_on()
    if metrics is not None:
        _summarise(run)
    if config.run_mirror:
        run_on_rank0(run.world, lambda: run.records.mirror(run.state.position, last=True))
    if metrics is None:
        run.console.say(f"stopped on request; the same command goes on from {config.run_dir}/checkpoints/last.pt")
        return EXIT_CODE
    run.console.say(
        f"done: {metrics.headline} (best {run.state.progress.best_acc1:.2f}"
        f"{AVERAGED[run.state.progress.best_weights]}), "
        f"{format_duration(run.state.progress.train_s)} of training\n"
        f"  run directory  {config.run_dir}\n"
        f"{_shown_by(config)}"
        f"  repeat it      {rerun_command(config)}"
    )
    return 0


def _shown_by(config: Config) -> str:
    """A line for each way to look at the run."""
    folder = shell_word(config.run_dir)
    board = f"  TensorBoard    tensorboard --logdir {folder}/tensorboard\n" if config.log.tensorboard else ""
    has_page = config.log.report and (Path(config.run_dir) / REPORT).exists()
    return (f"  report         {folder}/{REPORT}\n" if has_page else "") + board


def _say_what(run: Run, data: Data, batch_size: int, workers: int, resumed_from: Path | None) -> None:
    config, world = run.config, run.world
    parts = [f"{world.size} x"] if world.size > 1 or config.train.accumulate == 1 else []
    parts += [f"{config.train.accumulate} x"] if config.train.accumulate > 1 else []
    run.console.say(f"run directory: {config.run_dir}")
    training = f"{len(data.train):,} training and " if len(data.train) else ""
    run.console.say(
        f"{config.model.name} ({sum(p.numel() for p in run.state.model.parameters()):,} parameters) on {run.device}, "
        f"{config.precision}; {data.num_classes} classes, {training}{len(data.val):,} validation images"
    )
    run.console.say(
        f"batch {config.train.batch_size} = {' '.join(parts)} {batch_size}, lr {run.state.peak:g}; {workers} loader "
        f"workers and {torch.get_num_threads()} threads for each of {world.size} processes"
    )
    if config.optim.reference_batch not in (0, config.train.batch_size):
        run.console.say(
            f"lr {config.optim.lr:g} of the recipe's batch {config.optim.reference_batch} becomes {run.state.peak:g} "
            f"for {config.train.batch_size}"
        )
    if config.mode == "train" and (sides := config.data.sides()):
        listed = ", ".join(f"{side} pixels from epoch {epoch + 1} on" for epoch, side in sides)
        run.console.say(f"training samples have {listed}; those of validation {config.data.val_side}")
    if config.mode == "train" and config.train.mixes:
        run.console.say("acc@1 and acc@5 of training count the label of a sample itself, not that of its partner")
    if run.device.type == "cuda" and world.size == 1 and torch.cuda.device_count() > 1:
        run.console.say(
            f"warning: one of {torch.cuda.device_count()} GPUs is used; torchrun --nproc-per-node uses all."
        )
    if resumed_from:
        progress = run.state.progress
        done = f"epoch {progress.epoch + 1}, {progress.batches_done} of {run.state.steps_per_epoch} batches done"
        run.console.say(f"going on from {resumed_from}: {done}")


def _evaluate(
    run: Run, data: Data, validating: Callable[[Sequence[str], Answer | None], Callable[[], Validation | None]]
) -> int:
    """``validating`` takes the classes' names and what answers a batch, and makes the function that validates."""
    evaluation = None if run.config.data.multilabel else Evaluation(run, data)  # whose figures are of one class a photo
    names, answer = (evaluation.possible_names, evaluation.answer) if evaluation else (data.class_names, None)
    validation = validating(names, answer)()
    run.consumed.collect_counts(run.state.progress, run.records)
    run.consumed.check_replaced(run.state.progress, run.config)
    assert validation is not None  # without deferred signals, a request to stop has raised Stopped
    metrics = validation.metrics
    run.state.progress.best_acc1, run.state.progress.validation = validation.best[0], metrics.figures
    run.console.say(f"validation  {format_metrics(metrics)}  ({metrics.count:,} images)")
    run.records.validation(0, 0, validation)
    _summarise(run, validation.img_per_s, evaluation.tell() if evaluation else None)
    if ways := _shown_by(run.config):
        run.console.say(ways.rstrip("\n"))
    return 0


def _summarise(run: Run, val_img_per_s: float = 0.0, evaluation: dict[str, Any] | None = None) -> None:
    """Write summary.json; its figures are the last validation's, and those of ``evaluation`` where there is one."""
    if not run.world.is_main:  # whose weights need not be hashed
        return
    progress = run.state.progress
    seen = progress.epoch * run.state.steps_per_epoch * run.config.train.batch_size
    counts, averages = Counts(*progress.counts), run.state.averages
    of_averages: dict[str, Any] = {"best_weights": progress.best_weights} if averages else {}
    if averages:
        of_averages |= {
            name: value for name, value in progress.validation.items() if name in ("ema_acc1", "ema_mean_ap")
        }
        of_averages["ema_sha256"] = checkpoint.state_sha256(averages.model.state_dict())
    cached = run.cache_report(counts) if run.cache_report else None
    if cached:
        run.console.say(cached.sentence)
    best = {"best_acc1": progress.best_acc1}
    if "mean_ap" in progress.validation:  # by which the best is chosen then
        best = {"mean_ap": progress.validation["mean_ap"], "best_mean_ap": progress.best_acc1}
    run.records.summary(
        **{name: progress.validation[name] for name in ("acc1", "acc5", "loss")},
        **best,
        epochs=progress.epoch,
        samples_seen=seen,
        img_per_s=seen / progress.train_s if progress.train_s else val_img_per_s,
        state_sha256=checkpoint.state_sha256(run.state.model.state_dict()),
        samples_by_source={"local": counts.local, "etl": counts.etl, **({"cache": cached.samples} if cached else {})},
        retries=counts.retries,
        fallbacks=counts.fallbacks,
        audits=counts.audits,
        replaced=len(progress.replaced),
        **of_averages,
        **({"evaluation": evaluation} if evaluation else {}),
    )
    run.records.report()
