"""A run in progress: what the loop works with, and when a checkpoint of it is written.

Never of weights that are not finite, nor by a run that lost its lock.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sources.batch import Counts
from sources.decoded import CacheReport
from sources.errors import UserError
from training.config.schema import Config
from training.engine.objective import Objective
from training.model.class_order import Classes
from training.processes.preemption import StopFlag
from training.processes.world import World
from training.report.console import Console
from training.report.profile import StepProfile
from training.run_dir import checkpoint
from training.run_dir.records import NoRecords, Records
from training.state.consumed import Consumed
from training.state.train_state import TrainState


@dataclass
class Run:
    """``state`` is what training changes; ``train_model`` and ``eval_model`` are ways to call its model.

    ``ema_model`` is the way to call its averages, where they are to be validated.
    """

    config: Config
    world: World
    device: torch.device
    state: TrainState
    train_model: nn.Module
    eval_model: nn.Module
    objective: Objective
    consumed: Consumed
    stop: StopFlag
    console: Console
    environment: dict[str, Any]
    records: Records = field(default_factory=NoRecords)
    ema_model: nn.Module | None = None
    outputs: int = 0
    """Classes of the model."""
    classes: Classes | None = None
    """In an evaluation: the model's class of each folder, if the names of the folders tell it."""
    profile: StepProfile = field(default_factory=StepProfile)
    saved: tuple[int, int] = (0, 0)
    """The position of the last checkpoint, or where this process began."""
    cache_report: Callable[[Counts], CacheReport] | None = None
    """See ``Data.cache_report``."""
    attempted: tuple[int, int] = (0, 0)
    """The position at which a checkpoint was last to be written."""


def save(run: Run, *, best: bool = False, finished_epoch: int | None = None, stopped: bool = False) -> None:
    """Write last.pt on rank 0, and what else it is: the best, that of a finished epoch, that of a stopped run.

    Every rank calls it. Raises UserError for weights that are not finite, and where it cannot be written.
    """
    run.attempted = run.state.position  # whoever saves in an emergency must not try the same again
    content = contents(run)
    if run.world.is_main:
        also = ["best.pt"] if best else []
        if finished_epoch is not None and run.config.train.keep:
            also.append(checkpoint.epoch_name(finished_epoch))
        run.records.lock.check()
        _require_finite(run.state, last_checkpoint(run))
        checkpoint.save(run.records.checkpoints, content, also)
        if finished_epoch is not None:
            checkpoint.keep_last_epochs(run.records.checkpoints, run.config.train.keep)
    run.saved = run.state.position
    if stopped:
        run.records.preempted()
    run.records.mirror(run.state.position)


def contents(run: Run) -> dict[str, Any]:
    """A checkpoint: the state, and what it came from."""
    return run.state.state_dict() | {"config": dataclasses.asdict(run.config), "environment": run.environment}


def last_path(run: Run) -> Path:
    """The newest checkpoint, if there is one."""
    return Path(run.config.run_dir) / "checkpoints" / "last.pt"


def last_checkpoint(run: Run) -> str:
    """Return the end of a sentence that says which checkpoint there is."""
    last = last_path(run)
    return f"; the last checkpoint is {last}" if last.exists() else "; there is no checkpoint yet"


def _require_finite(state: TrainState, last: str) -> None:
    sums = torch.stack([parameter.detach().float().sum() for parameter in state.model.parameters()])
    if not bool(torch.isfinite(sums).all()):
        raise UserError(
            f"the weights are not finite after step {state.step} (epoch {state.progress.epoch + 1}, lr {state.lr:.4g}),"
            f" and are not saved{last}. Lower optim.lr, lengthen optim.warmup_epochs, or use precision=fp32."
        )
