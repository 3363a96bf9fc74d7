"""A run in progress, and what of it goes into a checkpoint."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sources.batch import Batch, Counts
from sources.errors import UserError
from sources.latency import Latencies
from sources.substitutes import Substitution
from training.config.schema import Config
from training.loader.fingerprint import Stream, codes_in_order, total_over_ranks
from training.optim.schedule import learning_rate_factor
from training.processes.distributed import World, gather_objects, on_main, sum_over_ranks
from training.processes.preemption import StopFlag
from training.report.console import Console
from training.report.metrics import Tally
from training.run_dir import checkpoint
from training.run_dir.records import RunDirectory
from training.state.checkpoint_contents import FORMAT
from training.state.progress import Progress

if TYPE_CHECKING:
    from training.run_dir.mirror import Mirror

UNKNOWN = -1
"""``stream_total`` of an epoch in which hashes were lost with another process."""


@dataclass
class Run:
    """What the loop works with. ``model`` owns the weights; ``train_model`` and ``eval_model`` are ways to call it."""

    config: Config
    world: World
    device: torch.device
    model: nn.Module
    train_model: nn.Module
    eval_model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler
    steps_per_epoch: int
    stop: StopFlag
    console: Console
    stream: Stream
    environment: dict[str, Any]
    records: RunDirectory | None = None
    mirror: "Mirror | None" = None
    progress: Progress = field(default_factory=Progress)
    pending_counts: Counts = field(default_factory=Counts)
    pending_replaced: tuple[Substitution, ...] = ()
    last_replaced: str = ""
    """Why a sample had to be replaced, if one had to since this process began."""
    saved: tuple[int, int] = (0, 0)
    """The position of the last checkpoint, or where this process began."""
    attempted: tuple[int, int] = (0, 0)
    """The position at which a checkpoint was last to be written."""
    sound: bool = True
    """Whether model, optimiser and progress belong together, so that they may be saved."""
    latencies: Latencies = field(default_factory=Latencies)
    """Of this rank's requests since the beginning of the epoch."""

    @property
    def step(self) -> int:
        """Optimiser steps taken since the beginning of the run."""
        return self.progress.epoch * self.steps_per_epoch + self.progress.batches_done

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, batches done), which names a checkpoint."""
        return self.progress.epoch, self.progress.batches_done

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return self.lr_at(max(0, self.step - 1))

    def lr_at(self, step: int) -> float:
        """The learning rate of any step of the run."""
        optim, epochs = self.config.optim, self.config.train.epochs
        return optim.lr * learning_rate_factor(step, optim, epochs, self.steps_per_epoch)

    def count(self, batch: Batch) -> None:
        """Where another batch of this rank came from."""
        self.pending_counts = Counts(*(a + b for a, b in zip(self.pending_counts, batch.counts, strict=True)))
        if batch.latencies:
            self.latencies.add(Latencies.from_bytes(batch.latencies))
        self.pending_replaced += batch.replaced

    def collect_stream(self) -> None:
        """Add the pending hashes of all ranks to the epoch's, and write the samples' codes."""
        if not self.stream.enabled:
            return
        total, codes = self.stream.take()
        total = total_over_ranks(total)
        if self.progress.stream_total != UNKNOWN:
            self.progress.stream_total = (self.progress.stream_total + total) % (1 << 128)
        in_order = codes_in_order(codes, self.config.train.batch_size // self.world.size)
        if self.records and in_order is not None:
            self.records.stream(self.step * self.config.train.batch_size - len(in_order), in_order)

    def collect_counts(self) -> None:
        """Add the pending counts of all ranks to the run's, and list what was replaced on any rank."""
        pending = Counts(*sum_over_ranks(torch.tensor(self.pending_counts)).tolist())
        self.progress.counts = [a + b for a, b in zip(self.progress.counts, pending, strict=True)]
        self.pending_counts = Counts()
        if pending.replaced:
            self._record_replaced()

    def data_of_the_epoch(self) -> tuple[Counts, Latencies]:
        """Counts of all ranks in this epoch, and their requests' times since it was begun or gone on with."""
        counts = Counts(*(a - b for a, b in zip(self.progress.counts, self.progress.counts_before, strict=True)))
        return counts, Latencies(sum_over_ranks(torch.from_numpy(self.latencies.counts.copy())).numpy())

    def _record_replaced(self) -> None:
        cases = sorted({case for cases in gather_objects(self.pending_replaced) for case in cases})
        self.pending_replaced = ()
        self.progress.replaced = sorted({*self.progress.replaced, *(case.sample for case in cases)})
        self.last_replaced = cases[-1].reason
        if self.records:
            self.records.replaced(cases)

    def check_replaced(self) -> None:
        """Raise UserError on all ranks if more different samples than data.max_replaced were replaced."""
        limit = self.config.data.max_replaced
        if self.last_replaced and len(self.progress.replaced) > limit:
            raise UserError(
                f"{len(self.progress.replaced)} samples cannot be had and were replaced by others, more than "
                f"data.max_replaced={limit}: {self.config.run_dir}/replaced.jsonl lists them. The last: "
                f"{self.last_replaced}."
            )

    def agree(self, *flags: bool) -> list[bool]:
        """Each flag as any rank has it; over gloo on CPU memory, so that nobody waits for a GPU."""
        if self.world.size == 1:
            return list(flags)
        return [value > 0 for value in sum_over_ranks(torch.tensor([int(flag) for flag in flags])).tolist()]


def save(run: Run, *, best: bool = False, finished_epoch: int | None = None, stopped: bool = False) -> None:
    """Write last.pt on rank 0, and what else it is: the best, that of a finished epoch, that of a stopped run.

    Raises UserError for weights that are not finite, and where it cannot be written.
    """
    if run.records is None:
        run.saved = run.position
        return
    run.attempted = run.position  # whoever saves in an emergency must not try the same again
    run.records.lock.check()
    _require_finite(run)
    also = ["best.pt"] if best else []
    keep = run.config.train.keep
    if finished_epoch is not None and keep:
        also.append(checkpoint.epoch_name(finished_epoch))
    checkpoint.save(run.records.checkpoints, state_of(run), also)
    if finished_epoch is not None:
        checkpoint.keep_last_epochs(run.records.checkpoints, keep)
    run.saved = run.position
    if stopped:
        run.records.preempted()
    if run.mirror:
        run.records.flush()
        run.mirror.push(run.position)


def _require_finite(run: Run) -> None:
    sums = torch.stack([parameter.detach().float().sum() for parameter in run.model.parameters()])
    if not bool(torch.isfinite(sums).all()):
        raise UserError(
            f"the weights are not finite after step {run.step} (epoch {run.progress.epoch + 1}, lr {run.lr:.4g}), and "
            f"are not saved{last_checkpoint(run)}. Lower optim.lr, lengthen optim.warmup_epochs, or use precision=fp32."
        )


def last_checkpoint(run: Run) -> str:
    """For the end of a sentence: which checkpoint there is."""
    last = Path(run.config.run_dir) / "checkpoints" / "last.pt"
    return f"; the last checkpoint is {last}" if last.exists() else "; there is no checkpoint yet"


def finish_mirror(run: Run) -> None:
    """Complete the mirror, if there is one. Raises UserError on rank 0 if that failed, and ends the others."""
    if run.config.run_mirror:
        on_main(run.world, lambda: _finish_mirror(run))


def _finish_mirror(run: Run) -> None:
    assert run.mirror is not None  # called on rank 0
    if run.records:
        run.records.flush()
    run.mirror.finish(run.position)


def state_of(run: Run) -> dict[str, Any]:
    """The whole state of a run, as plain values and tensors."""
    return {
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "scaler": run.scaler.state_dict(),
        "config": dataclasses.asdict(run.config),
        "environment": run.environment,
        "steps_per_epoch": run.steps_per_epoch,
        "format": FORMAT,
        **dataclasses.asdict(run.progress),
    }


def restore(run: Run, state: dict[str, Any]) -> None:
    """Take over the state of a checkpoint of this model; learning rate, momentum and decay are those configured now.

    ``state`` is as ``checkpoint.load`` answers it, and of the same model and optimiser. Where an epoch has another
    number of steps by now, one that was begun is begun again.
    """
    fields = {item.name: state[item.name] for item in dataclasses.fields(Progress)}
    for name in ("epoch_tally", "interval_tally"):
        fields[name] = Tally(**{item.name: fields[name][item.name] for item in dataclasses.fields(Tally)})
    run.progress = Progress(**fields)
    if state["steps_per_epoch"] not in (None, run.steps_per_epoch) and run.progress.batches_done:
        run.console.say(f"epoch {run.progress.epoch + 1} begins again, since it has {run.steps_per_epoch} steps now")
        run.progress = run.progress.at_epoch(run.progress.epoch)
    run.model.load_state_dict(state["model"])
    if state["scaler"]:
        run.scaler.load_state_dict(state["scaler"])
    settings = [{name: value for name, value in g.items() if name != "params"} for g in run.optimizer.param_groups]
    run.optimizer.load_state_dict(state["optimizer"])
    # The schedule is a function of the step, so the position is all that is taken over.
    run.schedule.load_state_dict(run.schedule.state_dict() | {"last_epoch": run.step, "_step_count": run.step + 1})
    for group, own in zip(run.optimizer.param_groups, settings, strict=True):
        group.update(own | {"lr": run.lr_at(run.step)})
