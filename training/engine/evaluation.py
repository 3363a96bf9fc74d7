"""Validation: every sample counted once, whatever the world size."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from sources.batch import Batch
from training.engine.numerics import autocast
from training.engine.shown import Shown
from training.loader.fingerprint import SampleFingerprint, format_fingerprint, total_over_ranks
from training.loader.loader import BatchIterator, Loader
from training.processes.collectives import broadcast_buffers, on_any_rank
from training.processes.rescue import give_up
from training.report.average_precision import Ranking
from training.report.console import Pace
from training.report.metrics import DeviceSums, IntervalMetrics, Validation
from training.state.run_state import Run

Answer = Callable[[torch.Tensor, torch.Tensor, Batch], tuple[torch.Tensor, torch.Tensor]]
"""Asks the model itself: inputs float32 [n, 3, H, W] and labels int64 [n] of a batch to logits [n, classes], labels."""


class _Judged:
    """A model, and the figures of its answers. ``original``: the module whose buffers all ranks share."""

    def __init__(self, run: Run, model: nn.Module, original: nn.Module) -> None:
        broadcast_buffers(original)
        self.model = model.eval()
        self._objective = run.objective
        self.sums, self.ranking = DeviceSums(run.device), Ranking(run.config.data.multilabel)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count the model's answers to a batch."""
        truth = self._objective.truth(labels, logits)
        self.sums.add(self._objective.validation_loss(logits, labels), logits, truth)
        self.ranking.add(logits, truth)


def validator(
    run: Run,
    loader: Loader,
    samples: int,
    batches: int,
    common_batches: int,
    names: Sequence[str],
    answer: Answer | None = None,
) -> Callable[[], Validation | None]:
    """A function that validates over the next ``batches`` of ``loader``, this rank's share of ``samples`` samples.

    It answers None if the run was asked to stop. ``common_batches``: the number of batches that every rank has, up to
    which the ranks can agree on stopping. ``names``: of the classes, as far as they are known. ``answer``: what the
    model is asked of a batch; None: its logits.
    """
    feeds: list[BatchIterator] = []

    def validate() -> Validation | None:
        if not feeds:
            feeds.append(BatchIterator(loader))
        feed, stream = feeds[0], SampleFingerprint(run.config.data.fingerprint)
        begin, wait_s, pace = time.perf_counter(), feed.wait_s, Pace(run.console, batches)
        judged = [_Judged(run, run.eval_model, run.state.model)]
        if run.ema_model is not None and run.state.averages:
            judged.append(_Judged(run, run.ema_model, run.state.averages.model))
        shown = Shown(run, -(-samples // run.world.size), names)
        with torch.inference_mode():
            for number in range(1, batches + 1):
                while number <= common_batches:
                    missing = not (run.stop.requested or feed.fill())
                    stop, waiting, lost = on_any_rank(run.stop.requested, missing, feed.lost is not None)
                    if stop:
                        return None
                    if lost:
                        give_up(run, feed.lost)
                    if not waiting:
                        break
                batch = next(feed)
                run.consumed.count(batch)
                images, labels = feed.to_device(batch)
                inputs = run.objective.inputs(images)
                with autocast(run.config.precision, run.device):
                    for place, one in enumerate(judged):
                        logits, truth = answer(inputs, labels, batch) if answer else (one.model(inputs), labels)
                        one.add(logits, truth)
                        if place == 0:
                            shown.add(inputs, truth, logits)
                stream.add(batch)
                pace.done(number)
        own, *others = judged
        tally = Validation(own.sums.take(), time.perf_counter() - begin, feed.wait_s - wait_s)
        tally.mean_ap, tally.photos = own.ranking.mean_ap(), shown.take()
        for ema in others:
            figures = IntervalMetrics(ema.sums.take()).metrics
            tally.ema = dataclasses.replace(figures, mean_ap=ema.ranking.mean_ap())
        assert tally.metrics.count == samples, f"validation counted {tally.metrics.count} of {samples} samples"
        if stream.enabled:
            tally.fingerprint = format_fingerprint(total_over_ranks(stream.take()[0]))
        return tally

    return validate
