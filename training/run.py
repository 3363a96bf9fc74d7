"""A run from beginning to end: this is the story that train.py tells."""

import dataclasses
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from aistore_data.errors import ConfigError, UserError
from training import checkpoint, drift
from training.config import Config
from training.console import Console, format_duration, format_metrics
from training.data import Data, open_data
from training.dataset import Counts
from training.distributed import (
    World,
    choose_device,
    from_main,
    is_lost_peer,
    on_main,
    process_group,
    read_world,
    sum_over_ranks,
)
from training.environment import common_facts, describe_environment
from training.evaluation import validator
from training.loader import Feed, open_loader, start_worker_server
from training.lock import RunLock
from training.loop import train
from training.metrics import Metrics
from training.model import build_model, load_weights, preprocessing_note
from training.numerics import cpu_share, set_numerics
from training.optimizer import build_optimizer, build_schedule
from training.preemption import ECHO_S, EXIT_CODE, StopFlag, Stopped
from training.records import RunDirectory, claim, rerun_command
from training.sampler import TrainBatches, ValBatches
from training.state import Run, finish_mirror, restore
from training.stream import Stream

if TYPE_CHECKING:
    from training.mirror import Mirror

SHARED_WITHIN_S = 20.0
"""In which what one node writes must be seen by the others: network file systems keep listings for a while."""


def run(config: Config) -> int:
    """Train or evaluate; prints what it does and answers the exit code. Mistakes of the user become a sentence."""
    stop, who = StopFlag(), ""
    try:
        world = read_world()
        who = f"rank {world.rank}: " if world.size > 1 else ""
        stop.echo_s = ECHO_S if world.has_agent else 0.0
        with process_group(world, lambda: choose_device(config.device, world), common_facts(config)) as device:
            set_numerics(config, device, world)
            code = _run(config, world, device, stop)
        stop.ignore_from_now_on()
        return code
    except UserError as error:
        return _say_error(who, str(error), error.exit_code)
    except Stopped as reason:
        print(f"\nstopped by {reason}; what was saved before is untouched.", file=sys.stderr, flush=True)
        return EXIT_CODE
    except torch.cuda.OutOfMemoryError as error:
        return _say_error(who, f"the GPU's memory is too small: raise train.accumulate. {error}")
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        if "deterministic implementation" in first:
            return _say_error(who, f"deterministic=true: {first}")
        if who and is_lost_peer(error):
            return _say_error(who, f"another process of the run has ended, and says why itself ({first}).")
        raise


def _say_error(who: str, sentence: str, exit_code: int = 1) -> int:
    print(f"{who}error: {sentence}", file=sys.stderr, flush=True)
    return exit_code


def _run(config: Config, world: World, device: torch.device, stop: StopFlag) -> int:
    console = Console(enabled=world.is_main)
    with ExitStack() as stack:
        # 1. The directory, before anything that takes long; nothing in it is replaced before step 4.
        config.run_dir = from_main(config.run_dir)
        lock = RunLock(Path(config.run_dir), console.say) if world.is_main else None
        mirror = _mirror(config, console) if world.is_main else None
        on_main(world, lambda: _take_directory(config, lock, mirror, stack))
        _require_shared_directory(config, world, lock)
        batch_size = _micro_batch_size(config, world)
        workers = _worker_count(config, world)
        if workers:
            start_worker_server()
        # 2. Data and model.
        data = stack.enter_context(open_data(config, batch_size, device, world, console.say))
        run = assemble(config, world, device, stop, data)
        # 3. Where to go on.
        path = _resume(run) if config.mode == "train" else None
        if path and run.progress.epoch >= config.train.epochs:
            if lock and not (lock.folder / "summary.json").exists():  # killed after its last checkpoint
                with RunDirectory(config, lock) as run.records:
                    run.records.environment(run.environment, run.progress.changes)
                    _summarise(run)
            if on_main(world, lambda: mirror is not None and mirror.is_behind(run.position)):
                on_main(world, lambda: _open_mirror(run, mirror, stack, fresh=False))
                finish_mirror(run)
            console.say(
                f"nothing to do: {path} is at the end of epoch {run.progress.epoch} of {config.train.epochs}. "
                "Raise train.epochs to train on, or start over with resume=never."
            )
            return 0
        # 4. Train, or evaluate alone.
        if lock:
            run.records = stack.enter_context(RunDirectory(config, lock))
            run.records.environment(run.environment, run.progress.changes)
        if config.run_mirror:
            on_main(world, lambda: _open_mirror(run, mirror, stack, fresh=path is None))
        val_batches = ValBatches(len(data.val), batch_size, rank=world.rank, world_size=world.size)
        loader = stack.enter_context(open_loader(data.val, val_batches, workers, config.data.prefetch, device))
        _say_what(run, data, batch_size, workers, path)
        validate = validator(run, loader, len(data.val), len(data.val) // world.size // batch_size)
        if config.mode == "evaluate":
            return _evaluate(run, validate)
        return _train(run, data, workers, validate)


def _take_directory(config: Config, lock: RunLock | None, mirror: "Mirror | None", stack: ExitStack) -> None:
    assert lock is not None  # called on rank 0
    claim(config)
    stack.enter_context(lock)
    if mirror:
        mirror.fetch(wanted=config.resume != "never")


def _mirror(config: Config, console: Console) -> "Mirror | None":
    if not config.run_mirror:
        return None
    from training.mirror import Mirror  # here, since the SDK's import takes a second

    return Mirror(config, console.say)


def _open_mirror(run: Run, mirror: "Mirror | None", stack: ExitStack, *, fresh: bool) -> None:
    """From here on, checkpoints are uploaded. Raises ClusterError."""
    assert mirror is not None  # called on rank 0
    mirror.take_over(fresh=fresh)
    run.mirror = stack.enter_context(mirror)


def _require_shared_directory(config: Config, world: World, lock: RunLock | None) -> None:
    """Raise UserError on a rank that does not see rank 0's file in the run directory, and end the others."""
    if world.size == 1 or config.run_mirror:
        return
    name = from_main(lock.path.name if lock else "")
    end = time.monotonic() + SHARED_WITHIN_S
    while not (seen := any(path.name == name for path in Path(config.run_dir).glob("*"))) and time.monotonic() < end:
        time.sleep(0.5)
    blind = int(sum_over_ranks(torch.tensor(int(not seen))).item())
    if not seen:
        raise UserError(
            f"{socket.gethostname()} does not see in run_dir={config.run_dir} what rank 0 has written there: all "
            "nodes need it on one shared disk to go on from its checkpoints, or set run_mirror=ais://BUCKET/PREFIX."
        )
    if blind:
        raise SystemExit(UserError.exit_code)  # those that do not see it say so


def _train(run: Run, data: Data, workers: int, validate: Callable[[], Metrics | None]) -> int:
    config = run.config
    batches = TrainBatches(
        len(data.train),
        config.train.batch_size,
        config.seed,
        config.train.epochs,
        rank=run.world.rank,
        world_size=run.world.size,
        accumulate=config.train.accumulate,
        start=(run.progress.epoch, run.progress.batches_done),
    )
    with open_loader(data.train, batches, workers, config.data.prefetch, run.device) as loader:
        run.stop.deferred = True
        metrics = train(run, Feed(loader), validate)
        run.stop.ignore_from_now_on()
    if metrics is None:
        finish_mirror(run)
        run.console.say(f"stopped on request; the same command goes on from {config.run_dir}/checkpoints/last.pt")
        return EXIT_CODE
    _summarise(run)
    finish_mirror(run)
    run.console.say(
        f"done: acc@1 {metrics.acc1:.2f} (best {run.progress.best_acc1:.2f}), "
        f"{format_duration(run.progress.train_s)} of training\n"
        f"  run directory  {config.run_dir}\n"
        f"  TensorBoard    tensorboard --logdir {config.run_dir}/tensorboard\n"
        f"  repeat it      {rerun_command(config)}"
    )
    return 0


def _micro_batch_size(config: Config, world: World) -> int:
    parts = world.size * config.train.accumulate
    if config.train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} cannot be split evenly over {world.size} processes x "
            f"train.accumulate={config.train.accumulate}: choose a multiple of {parts}."
        )
    return config.train.batch_size // parts


def _worker_count(config: Config, world: World) -> int:
    """Loader processes: one for each CPU where they make samples, a few where they only receive them."""
    share = cpu_share(config.data.workers, world)
    receive_only = config.data.source == "aistore" and config.data.transform == "etl"
    return max(1, share // 4) if receive_only and config.data.workers == "auto" else share


def _num_classes(config: Config, data: Data) -> int:
    wanted = config.model.num_classes
    if wanted is not None and wanted < data.num_classes:
        raise ConfigError(f"model.num_classes={wanted}, but the data have {data.num_classes} classes.")
    return wanted or data.num_classes


def assemble(config: Config, world: World, device: torch.device, stop: StopFlag, data: Data) -> Run:
    """The model on the device, and everything that steps it."""
    steps_per_epoch = len(data.train) // config.train.batch_size
    training = config.mode == "train"
    if training and steps_per_epoch == 0:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} is more than the {len(data.train)} training samples."
        )
    torch.manual_seed(config.seed)
    train_size = config.data.image_size if training else None
    model = build_model(config.model, _num_classes(config, data), train_size, config.data.val_image_size).to(device)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(model, config.train)
    train_model: Any = model
    if world.size > 1 and training:
        train_model = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    return Run(
        config=config,
        world=world,
        device=device,
        model=model,
        train_model=torch.compile(train_model) if config.train.compile else train_model,  # type: ignore[arg-type]
        eval_model=torch.compile(model) if config.train.compile else model,  # type: ignore[arg-type]
        optimizer=optimizer,
        schedule=build_schedule(optimizer, config.train, max(1, steps_per_epoch)),
        scaler=torch.amp.GradScaler(device.type, enabled=config.precision == "fp16"),
        steps_per_epoch=steps_per_epoch,
        stop=stop,
        console=Console(enabled=world.is_main),
        stream=Stream(config.data.fingerprint),
        environment=describe_environment(device, world) | {"data": data.description},
    )


def _resume(run: Run) -> Path | None:
    """Take over the checkpoint that ``resume`` says, if any; answer its path. Raises UserError if it does not fit."""
    path = on_main(run.world, lambda: _checkpoint_to_resume(run.config))
    if path is None:
        return None
    state = _load(run, path)
    changes = on_main(run.world, lambda: _accept_changes(run, path, state))
    load_weights(run.model, state["model"], f"the checkpoint {path}", run.config.model.name)
    restore(run, state)
    if changes:
        run.progress.changes.append({"epoch": run.progress.epoch, "step": run.step, "changes": changes})
    return path


def _load(run: Run, path: Path) -> dict[str, Any]:
    if run.config.run_mirror:  # the machines share no disk: rank 0 alone has it
        return on_main(run.world, lambda: checkpoint.load(path))
    return checkpoint.load(path)


def _checkpoint_to_resume(config: Config) -> Path | None:
    if config.resume == "never":
        return None
    if config.resume == "auto":
        return checkpoint.newest(Path(config.run_dir) / "checkpoints")
    path = Path(config.resume)
    return path / "checkpoints" / "last.pt" if path.is_dir() else path


def _accept_changes(run: Run, path: Path, state: dict[str, Any]) -> list[str]:
    """What is not as it was when the checkpoint was written. Raises ConfigError for what nobody has allowed."""
    now = {"config": dataclasses.asdict(run.config), "environment": run.environment}
    of_result, of_rounding = drift.changes_of_result(state, now), drift.changes_of_rounding(state, now)
    listed = "".join(f"\n  {difference}" for difference in of_result)
    if of_result and not run.config.allow_changes:
        raise ConfigError(
            f"to go on from {path} would not be the same run:{listed}\nUndo these changes, start over with "
            "resume=never, or accept them with allow_changes=true; environment.json will then list them."
        )
    if of_result:
        run.console.say(f"allowed changes since {path} was written:{listed}")
    if of_rounding:
        run.console.say(
            f"since {path} was written: {', '.join(map(str, of_rounding))}. The samples stay the same; "
            "sums of floats may differ in their last bits."
        )
    return [str(difference) for difference in of_result + of_rounding]


def _say_what(run: Run, data: Data, batch_size: int, workers: int, resumed_from: Path | None) -> None:
    config, world = run.config, run.world
    parts = [f"{world.size} x"] if world.size > 1 or config.train.accumulate == 1 else []
    parts += [f"{config.train.accumulate} x"] if config.train.accumulate > 1 else []
    run.console.say(f"run directory: {config.run_dir}")
    run.console.say(
        f"{config.model.name} ({sum(p.numel() for p in run.model.parameters()):,} parameters) on {run.device}, "
        f"{config.precision}; {data.num_classes} classes, {len(data.train):,} training and {len(data.val):,} "
        "validation images"
    )
    run.console.say(
        f"batch {config.train.batch_size} = {' '.join(parts)} {batch_size}, lr {config.train.lr:g}; {workers} loader "
        f"workers and {torch.get_num_threads()} threads for each of {world.size} processes"
    )
    if run.device.type == "cuda" and world.size == 1 and torch.cuda.device_count() > 1:
        run.console.say(
            f"warning: one of {torch.cuda.device_count()} GPUs is used; torchrun --nproc-per-node uses all."
        )
    note = preprocessing_note(
        config.model, config.data.val_image_size, config.data.val_resize, config.data.interpolation
    )
    if note:
        run.console.say(note)
    if resumed_from:
        done = f"epoch {run.progress.epoch + 1}, {run.progress.batches_done} of {run.steps_per_epoch} batches done"
        run.console.say(f"going on from {resumed_from}: {done}")


def _evaluate(run: Run, validate: Callable[[], Metrics | None]) -> int:
    begin = time.perf_counter()
    metrics = validate()
    run.collect_counts()
    assert metrics is not None  # without deferred signals, a request to stop has raised Stopped
    run.progress.best_acc1, run.progress.validation = metrics.acc1, dataclasses.asdict(metrics)
    run.console.say(f"validation  {format_metrics(metrics)}  ({metrics.count:,} images)")
    if run.records:
        run.records.metric("val_epoch", 0, 0, metrics)
    _summarise(run, metrics.count / (time.perf_counter() - begin))
    return 0


def _summarise(run: Run, val_img_per_s: float = 0.0) -> None:
    """Write summary.json; its figures are the last validation's."""
    progress = run.progress
    seen = progress.epoch * run.steps_per_epoch * run.config.train.batch_size
    counts = Counts(*progress.counts)
    if run.records:
        run.records.summary(
            **{name: progress.validation[name] for name in ("acc1", "acc5", "loss")},
            best_acc1=progress.best_acc1,
            epochs=progress.epoch,
            samples_seen=seen,
            img_per_s=seen / progress.train_s if progress.train_s else val_img_per_s,
            state_sha256=checkpoint.state_sha256(run.model.state_dict()),
            samples_by_source={"local": counts.local, "etl": counts.etl},
            retries=counts.retries,
            fallbacks=counts.fallbacks,
        )
