"""Validation: every sample counted once, whatever the world size."""

import dataclasses
import time
from collections.abc import Callable

import torch

from sources.batch import Batch
from training.engine.numerics import autocast
from training.loader.fingerprint import Stream, format_fingerprint, total_over_ranks
from training.loader.loader import Feed, Loader
from training.processes.collectives import broadcast_buffers, on_any_rank
from training.processes.rescue import give_up
from training.report.average_precision import Ranking
from training.report.metrics import Sums, Tally, Validation
from training.state.run_state import Run

Answer = Callable[[torch.Tensor, torch.Tensor, Batch], tuple[torch.Tensor, torch.Tensor]]
"""From inputs float32 [n, 3, H, W] and labels int64 [n] of a batch to logits [n, classes] and labels among these."""


def validator(
    run: Run, loader: Loader, samples: int, batches: int, common_batches: int, answer: Answer | None = None
) -> Callable[[], Validation | None]:
    """A function that validates over the next ``batches`` of ``loader``, this rank's share of ``samples`` samples.

    It answers None if the run was asked to stop. ``common_batches``: the number of batches that every rank has, up to
    which the ranks can agree on stopping. ``answer``: what the model is asked of a batch; None: its logits.
    """
    feeds: list[Feed] = []

    def validate() -> Validation | None:
        if not feeds:
            feeds.append(Feed(loader))
        feed, sums, stream = feeds[0], Sums(run.device), Stream(run.config.data.fingerprint)
        begin, wait_s = time.perf_counter(), feed.wait_s
        broadcast_buffers(run.state.model)
        run.eval_model.eval()
        ema_sums = Sums(run.device) if run.ema_model is not None else None
        ranking, ema_ranking = (Ranking(run.config.data.multilabel) for _ in range(2))
        if run.state.averages and ema_sums:
            broadcast_buffers(run.state.averages.model)
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
                    if answer:
                        logits, labels = answer(inputs, labels, batch)
                    else:
                        logits = run.eval_model(inputs)
                    loss = run.objective.validation_loss(logits, labels)
                    truth = run.objective.truth(labels, logits)
                    if run.ema_model is not None and ema_sums:
                        ema_logits = run.ema_model(inputs)
                        ema_sums.add(run.objective.validation_loss(ema_logits, labels), ema_logits, truth)
                        ema_ranking.add(ema_logits, truth)
                sums.add(loss, logits, truth)
                ranking.add(logits, truth)
                stream.add(batch)
                if run.console.live and number % 8 == 0:
                    run.console.progress(f"validation  batch {number}/{batches}")
        ema = Tally(ema_sums.take()).metrics if ema_sums else None
        tally = Validation(sums.take(), time.perf_counter() - begin, feed.wait_s - wait_s, ema=ema)
        tally.mean_ap = ranking.mean_ap()
        if ema:
            tally.ema = dataclasses.replace(ema, mean_ap=ema_ranking.mean_ap())
        assert tally.metrics.count == samples, f"validation counted {tally.metrics.count} of {samples} samples"
        if stream.enabled:
            tally.fingerprint = format_fingerprint(total_over_ranks(stream.take()[0]))
        return tally

    return validate
