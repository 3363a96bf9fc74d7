"""Mean average precision: how well the samples of a class are ranked before all others, of the mean over classes."""

import torch

from training.processes.collectives import gather_objects


class Ranking:
    """Collects the logits and the classes of the samples of a validation, on the CPU; nothing unless ``enabled``."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, logits: torch.Tensor, truth: torch.Tensor) -> None:
        """A batch: logits [n, classes], truth bool [n, classes]."""
        if self._enabled:
            self._batches.append((logits.float().cpu(), truth.cpu()))

    def mean_ap(self) -> float | None:
        """Return it in percent over the samples of all ranks, the same on each; None if nothing is ranked."""
        if not self._enabled:
            return None
        batches = [batch for batches in gather_objects(self._batches) for batch in batches]
        logits, truth = (torch.cat(parts) for parts in zip(*batches, strict=True))
        return min(100.0, 100 * mean_average_precision(logits, truth))


def mean_average_precision(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """Over the classes that have a sample, of scores float [n, classes] and truth bool [n, classes]; 0 without any.

    Of a class it is scikit-learn's ``average_precision_score``: the sum over the thresholds, of which each is a score,
    of the precision there times the recall that it adds.
    """
    values = [
        average_precision(scores[:, number], truth[:, number])
        for number in range(scores.shape[1])
        if bool(truth[:, number].any())
    ]
    return sum(values) / len(values) if values else 0.0


def average_precision(scores: torch.Tensor, truth: torch.Tensor) -> float:
    """Compute it for one class with at least one sample: scores float [n], truth bool [n]."""
    ranked, order = scores.sort(descending=True, stable=True)
    hits = truth[order]
    # The samples of equal scores are above the same threshold, whose precision is that at the last of them.
    ends = torch.cat([ranked[1:] != ranked[:-1], torch.ones(1, dtype=torch.bool)]).nonzero()[:, 0]
    found = hits.cumsum(0)[ends].double()
    added = torch.diff(found, prepend=found.new_zeros(1))
    return float((added * found / (ends + 1)).sum() / found[-1])
