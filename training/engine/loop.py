"""The training loop: step; log; save; validate."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch

from sources.batch import Latencies
from training.engine.numerics import autocast, seed_step
from training.engine.objective import StepKey, main_logits
from training.loader.fingerprint import format_fingerprint
from training.loader.loader import BatchIterator
from training.optim.freeze import set_training
from training.processes.collectives import on_any_rank
from training.processes.rescue import NotFiniteError, give_up, rescue
from training.report.bottleneck import data_figures, data_sentence
from training.report.console import AVERAGED, format_metrics, train_line
from training.report.metrics import DeviceSums, IntervalMetrics, Metrics, Validation
from training.state.consumed import UNKNOWN
from training.state.run_state import Run, last_checkpoint, save


class Clock:
    """Seconds and waiting since the last reading, and what they say about the time left."""

    def __init__(self, run: Run, feed: BatchIterator) -> None:
        self.feed = feed
        self.first_step = run.state.step
        self.begin = self.read = time.perf_counter()
        self.wait_s = feed.wait_s

    def lap(self) -> tuple[float, float]:
        """(seconds, seconds of waiting for data) since the last lap."""
        now, wait_s = time.perf_counter(), self.feed.wait_s
        lap = now - self.read, wait_s - self.wait_s
        self.read, self.wait_s = now, wait_s
        return lap

    def eta_s(self, run: Run) -> float:
        """Seconds to the end of the run, at the mean pace since it was started, validations included."""
        left = run.config.train.epochs * run.state.steps_per_epoch - run.state.step
        return (time.perf_counter() - self.begin) / max(1, run.state.step - self.first_step) * left


def train(run: Run, feed: BatchIterator, validate: Callable[[], Validation | None]) -> Metrics | None:
    """Train from ``run.state`` to the last epoch, of which it answers the validation metrics.

    ``validate`` and this function answer None when the run was asked to stop; its state is saved then. The end of an
    epoch is saved before its validation too, which is then all that a fault in it costs. Whatever else is raised, what
    was trained is saved first, as ``training.processes.rescue`` says; for a loss that is not finite NotFiniteError, and
    nothing.
    """
    clock, sums = Clock(run, feed), DeviceSums(run.device)
    run.saved = run.attempted = run.state.position
    metrics = None
    try:
        while run.state.progress.epoch < run.config.train.epochs:
            if not train_epoch(run, feed, clock, sums):
                return None
            _record_epoch(run)
            if not run.state.progress.validated(run.config.train.epochs, run.config.eval.every):
                _next_epoch(run)
                continue
            if run.saved != run.state.position:
                save(run)
            validation = validate()
            run.consumed.collect_counts(run.state.progress, run.records)
            if validation is None:
                save(run, stopped=True)
                return None
            run.consumed.check_replaced(run.state.progress, run.config)
            _finish_epoch(run, validation)
            metrics = validation.metrics
            if _gave_up(run):
                break
    except Exception as error:
        rescue(run, error, lambda: _collect(run, sums, clock), sums.batches)
        raise
    return metrics


def train_epoch(run: Run, feed: BatchIterator, clock: Clock, sums: DeviceSums | None = None) -> bool:
    """The rest of an epoch, with its figures in ``sums``. False if the run was asked to stop."""
    sums = sums or DeviceSums(run.device)
    state, progress, config = run.state, run.state.progress, run.config.train
    saved, due = time.monotonic(), False
    set_training(run.train_model)
    clock.lap()
    while True:
        last = progress.batches_done == state.steps_per_epoch
        # The next step's data first: a rank that has none yet says so, and all wait, ready to stop.
        missing = not (last or run.stop.requested or feed.fill(config.accumulate))
        due_s = config.checkpoint_every_s > 0 and time.monotonic() - saved >= config.checkpoint_every_s
        stop, due_s, waiting, lost = on_any_rank(run.stop.requested, due_s, missing, feed.lost is not None)
        if lost:
            _collect(run, sums, clock)
            give_up(run, feed.lost)
        if stop or ((due or due_s) and not last):
            _collect(run, sums, clock)
            save(run, stopped=stop)
            saved, due = time.monotonic(), False
        if stop:
            return False
        if last:
            return True
        if waiting:
            continue
        seed_step(run.config.seed, progress.epoch, progress.batches_done, run.world.rank, run.device)
        train_step(run, feed, sums)
        run.profile.step()
        due = config.checkpoint_every > 0 and progress.batches_done % config.checkpoint_every == 0
        if progress.batches_done == state.steps_per_epoch or progress.batches_done % config.log_every == 0:
            _collect(run, sums, clock)
            _log(run, clock)
            run.consumed.check_replaced(run.state.progress, run.config)


def train_step(run: Run, feed: BatchIterator, sums: DeviceSums) -> None:
    """One optimiser step over ``accumulate`` micro-batches. Nothing here waits for the device.

    Until the optimiser begins, an error leaves the run as it was before the step.
    """
    config, state = run.config, run.state
    done = []
    with _undone_on_error(run):
        for micro_batch in range(config.train.accumulate):
            batch = next(feed)
            images, labels = feed.to_device(batch)
            key = StepKey(config.seed, *state.position, batch.positions)
            inputs, targets = run.objective.prepare(images, labels, key)
            del images
            if state.step == 0 and micro_batch == 0:
                run.records.images("first_training_batch", run.objective.pictures(inputs[:64]), 0)
            communicate = run.world.size == 1 or micro_batch == config.train.accumulate - 1
            with nullcontext() if communicate else run.train_model.no_sync():  # type: ignore[operator]
                with autocast(config.precision, run.device):
                    outputs = run.train_model(inputs)
                    loss = run.objective.loss(outputs, targets)
                state.scaler.scale(loss / config.train.accumulate).backward()  # type: ignore[no-untyped-call]
            logits = main_logits(outputs).detach()
            done.append((batch, loss.detach(), logits, run.objective.truth(labels, logits)))
            del loss, outputs
    sums.add_norm(state.update(), state.step)
    for batch, batch_loss, batch_logits, labels in done:
        run.consumed.add(batch)
        sums.add(batch_loss, batch_logits, labels, state.step)
    state.step_is_done()


@contextmanager
def _undone_on_error(run: Run) -> Iterator[None]:
    """Give the model its buffers back, such as BatchNorm's running statistics, and drop the gradients."""
    buffers: dict[torch.dtype, list[torch.Tensor]] = {}  # by type, for which a GPU takes one call
    for buffer in run.state.model.buffers():
        buffers.setdefault(buffer.dtype, []).append(buffer)
    former = {dtype: [torch.empty_like(buffer) for buffer in group] for dtype, group in buffers.items()}
    with torch.no_grad():
        for dtype, group in buffers.items():
            torch._foreach_copy_(former[dtype], group)
    try:
        yield
    except Exception:
        with torch.no_grad():
            for dtype, group in buffers.items():
                torch._foreach_copy_(group, former[dtype])
        run.state.optimizer.zero_grad(set_to_none=True)
        raise


def _collect(run: Run, sums: DeviceSums, clock: Clock) -> None:
    """Bring the sums from the device. Raises NotFiniteError on every rank at the same step."""
    state, values = run.state, sums.take()
    norm_sum, norms, bad_norm = sums.take_norms()
    if state.scaler.is_enabled():
        bad_norm = None  # a step that fp16 skips, and makes its scale smaller for
    if not math.isfinite(values[0].item()) or bad_norm is not None:
        step, what = sums.first_bad_step(), "the loss is"
        if bad_norm is not None and bad_norm < step:
            step, what = bad_norm, "the gradients, though not the loss, are"
        raise NotFiniteError(
            f"{what} not finite at step {step} (epoch {step // state.steps_per_epoch + 1}, "
            f"lr {state.lr_at(step):.4g}){last_checkpoint(run)}. "
            "Lower optim.lr, lengthen optim.warmup_epochs, or use precision=fp32."
        )
    for tally in (state.progress.epoch_tally, state.progress.interval_tally):
        tally.add_norms(norm_sum, norms)
    seconds, wait_s = clock.lap()
    state.progress.train_s += seconds
    state.progress.epoch_tally.add(values, seconds, wait_s)
    state.progress.interval_tally.add(values, seconds, wait_s)
    run.consumed.collect_counts(run.state.progress, run.records)
    batch_size = run.config.train.batch_size
    run.consumed.collect_stream(
        state.progress, run.records, samples=state.step * batch_size, share=batch_size // run.world.size
    )


def _log(run: Run, clock: Clock) -> None:
    """The interval since the last log: a line on the console, one in metrics.jsonl, points in TensorBoard."""
    state, progress = run.state, run.state.progress
    tally = progress.interval_tally
    epoch = progress.epoch + 1, run.config.train.epochs
    step = progress.batches_done, state.steps_per_epoch
    run.console.progress(train_line(epoch, step, tally, state.lr, clock.eta_s(run)))
    run.records.metric("train_step", progress.epoch, state.step, tally.metrics, **_speed(run, tally))
    progress.interval_tally = IntervalMetrics()


def _record_epoch(run: Run) -> None:
    progress = run.state.progress
    known = run.consumed.stream.enabled and progress.stream_total != UNKNOWN
    fingerprint = format_fingerprint(progress.stream_total) if known else ""
    tally = dataclasses.replace(progress.epoch_tally, fingerprint=fingerprint)
    counts, latencies = run.consumed.of_the_epoch(progress)
    figures = _speed(run, tally) | data_figures(counts, latencies)
    run.records.metric("train_epoch", progress.epoch, run.state.step, tally.metrics, **figures)
    run.console.end_progress()
    if sentence := data_sentence(counts, latencies, tally.img_per_s, tally.data_wait):
        run.console.say(f"epoch {progress.epoch + 1}/{run.config.train.epochs}  {sentence}")


def _finish_epoch(run: Run, validation: Validation) -> None:
    """Record the validation, and move on to the next epoch."""
    done, metrics = run.state.progress, validation.metrics
    acc1, weights = validation.best
    best = not done.validation or acc1 > done.best_acc1
    if best:
        done.best_acc1, done.best_weights = acc1, weights
    run.records.validation(done.epoch, run.state.step, validation)
    run.console.say(
        f"epoch {done.epoch + 1}/{run.config.train.epochs}  validation  {format_metrics(metrics)}  "
        + (f"averaged weights  {format_metrics(validation.ema)}  " if validation.ema else "")
        + f"best {done.best_acc1:.2f}{AVERAGED[done.best_weights]}"
    )
    done.since_best = 0 if best else done.since_best + 1
    done.validation = metrics.figures | validation.ema_figures
    _next_epoch(run, best=best)


def _gave_up(run: Run) -> bool:
    """Whether ``train.stop_after`` ends training here, which it says."""
    progress, config = run.state.progress, run.config.train
    if not progress.gave_up(config.stop_after) or progress.epoch == config.epochs:
        return False
    figure = "mean average precision" if run.config.data.multilabel else "acc@1"
    run.console.say(
        f"train.stop_after={config.stop_after}: {progress.since_best} validations without a better {figure} than "
        f"{progress.best_acc1:.2f}, so training ends after epoch {progress.epoch} of {config.epochs}"
    )
    return True


def _next_epoch(run: Run, best: bool = False) -> None:
    """Move on to the next epoch, and save; ``best``: that the last validation was the best one."""
    done = run.state.progress
    run.state.progress = done.at_epoch(done.epoch + 1)
    run.consumed.latencies = Latencies()
    save(run, best=best, finished_epoch=done.epoch)


def _speed(run: Run, tally: IntervalMetrics) -> dict[str, float]:
    figures = {"lr": run.state.lr, "grad_norm": tally.grad_norm}
    return figures | {"img_per_s": tally.img_per_s, "data_wait": tally.data_wait}
