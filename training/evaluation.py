"""Validation: every sample counted once, whatever the world size."""

import dataclasses
from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from training.dataset import Batch
from training.distributed import broadcast_buffers
from training.loader import Feed, to_device
from training.metrics import Metrics, Sums, means
from training.numerics import autocast
from training.state import Run, give_up
from training.stream import Stream, format_fingerprint, total_over_ranks


def validator(run: Run, loader: DataLoader[Batch], samples: int, common_batches: int) -> Callable[[], Metrics | None]:
    """A function that validates over ``loader``, this rank's share of ``samples`` samples.

    It answers None if the run was asked to stop. ``common_batches``: the number of batches that every rank has, up to
    which the ranks can agree on stopping.
    """

    def validate() -> Metrics | None:
        sums, stream = Sums(run.device), Stream(run.config.data.fingerprint)
        broadcast_buffers(run.model)
        run.eval_model.eval()
        with torch.inference_mode():
            feed = Feed(loader)
            for number in range(1, len(loader) + 1):
                while number <= common_batches:
                    missing = not (run.stop.requested or feed.fill())
                    stop, waiting, lost = run.agree(run.stop.requested, missing, feed.lost is not None)
                    if stop:
                        return None
                    if lost:
                        give_up(run, feed.lost)
                    if not waiting:
                        break
                batch = next(feed)
                run.count(batch)
                images, labels = to_device(batch, run.device, run.config.train.channels_last)
                with autocast(run.config.precision, run.device):
                    logits = run.eval_model(images)
                    loss = F.cross_entropy(logits, labels)
                sums.add(loss, logits, labels)
                stream.add(batch.indices.tolist(), batch)
                if run.console.live and number % 8 == 0:
                    run.console.progress(f"validation  batch {number}/{len(loader)}")
        metrics = means(sums.take())
        assert metrics.count == samples, f"validation counted {metrics.count} of {samples} samples"
        if stream.enabled:
            fingerprint = format_fingerprint(total_over_ranks(stream.take()[0]))
            metrics = dataclasses.replace(metrics, fingerprint=fingerprint)
        return metrics

    return validate
