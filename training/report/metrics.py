"""Loss and accuracy as sums: on the device while steps go on, on the CPU when somebody wants to know."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from training.processes.collectives import gather_objects, sum_over_ranks
from training.report.answered import Answered

_NEVER = 1 << 62


@dataclass(frozen=True)
class Metrics:
    """Means over ``count`` samples, accuracies in percent; and what the samples were, where that is known."""

    loss: float
    acc1: float
    acc5: float
    count: int
    fingerprint: str = ""
    mean_ap: float | None = None
    """Mean average precision in percent, where a sample may have several classes; it is then what counts."""

    @property
    def figures(self) -> dict[str, Any]:
        """Return the figures by name; the mean average precision only if there is one."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def decisive(self) -> float:
        """The figure by which the best weights are chosen, in percent."""
        return self.acc1 if self.mean_ap is None else self.mean_ap

    @property
    def headline(self) -> str:
        """Return the figure that decides, with its name, such as "acc@1 76.13"."""
        return f"acc@1 {self.acc1:.2f}" if self.mean_ap is None else f"mAP {self.mean_ap:.2f}"


class DeviceSums:
    """DeviceSums of loss, top-1 hits, top-5 hits and samples, float64 [4] on the device: adding never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._values = torch.zeros(4, dtype=torch.float64, device=device)
        self._bad_step = torch.full((), _NEVER, device=device)
        self._norms = torch.zeros(2, dtype=torch.float64, device=device)
        self._bad_norm_step = torch.full((), _NEVER, device=device)
        self.batches = 0
        """Added and not taken yet."""

    @torch.no_grad()
    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, step: int = 0) -> None:
        """One batch: its mean loss (scalar), logits [n, classes] and labels int64 [n], or bool [n, classes] of several.

        Of several classes any one is a hit.
        """
        self.batches += 1
        n = len(labels)
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = top == labels[:, None] if labels.dim() == 1 else labels.gather(1, top)
        count = torch.full((), n, device=loss.device)
        self._values += torch.stack([loss.detach().double() * n, hits[:, 0].sum(), hits.any(1).sum(), count])
        self._bad_step = torch.where(torch.isfinite(loss), self._bad_step, self._bad_step.clamp(max=step))

    @torch.no_grad()
    def add_norm(self, norm: torch.Tensor, step: int) -> None:
        """The norm of a step's gradients, a scalar, which every rank has; one that is not finite is not summed."""
        finite = torch.isfinite(norm)
        self._norms += torch.stack([torch.where(finite, norm, 0).double(), finite.double()])
        self._bad_norm_step = torch.where(finite, self._bad_norm_step, self._bad_norm_step.clamp(max=step))

    def take_norms(self) -> tuple[float, int, int | None]:
        """(sum of the finite norms, how many they are, first step with another one); starts again from zero."""
        total, count = self._norms.tolist()
        first = int(self._bad_norm_step.item())
        self._norms = torch.zeros_like(self._norms)
        self._bad_norm_step = torch.full_like(self._bad_norm_step, _NEVER)
        return total, round(count), first if first != _NEVER else None

    def take(self) -> torch.Tensor:
        """The sums over all ranks, on the CPU; starts again from zero. Waits for the device."""
        values = sum_over_ranks(self._values).cpu()
        self._values = torch.zeros_like(self._values)
        self.batches = 0
        return values

    def first_bad_step(self) -> int:
        """The first step with a loss that was not finite, on any rank."""
        return min(gather_objects(int(self._bad_step.item())))


@dataclass
class IntervalMetrics:
    """DeviceSums over an interval or an epoch, with its seconds and those of them spent waiting for data."""

    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    seconds: float = 0.0
    wait_s: float = 0.0
    fingerprint: str = ""
    """The fingerprint of the samples, if it is known."""
    norm_sum: float = 0.0
    """The sum of the norms of the gradients of ``norms`` steps."""
    norms: int = 0

    def add_norms(self, total: float, count: int) -> None:
        """Add the norms of the gradients of further steps."""
        self.norm_sum += total
        self.norms += count

    @property
    def grad_norm(self) -> float:
        """Mean norm of a step's gradients before clipping; 0 of no step."""
        return self.norm_sum / max(1, self.norms)

    def add(self, sums: torch.Tensor, seconds: float, wait_s: float) -> None:
        """Add the sums of another part of the interval."""
        self.sums = self.sums + sums
        self.seconds += seconds
        self.wait_s += wait_s

    @property
    def metrics(self) -> Metrics:
        """Means over the samples so far."""
        loss, top1, top5, count = self.sums.tolist()
        n = max(1.0, count)
        return Metrics(loss / n, 100 * top1 / n, 100 * top5 / n, round(count), self.fingerprint)

    @property
    def img_per_s(self) -> float:
        """Samples a second, over all processes."""
        return self.sums[3].item() / max(self.seconds, 1e-9)

    @property
    def data_wait(self) -> float:
        """Share of the time, 0 to 1, that this process waited for data."""
        return min(1.0, self.wait_s / max(self.seconds, 1e-9))


@dataclass
class Validation(IntervalMetrics):
    """The sums of a validation of the model, and the figures of its averaged weights, if it has any."""

    ema: Metrics | None = None
    mean_ap: float | None = None
    photos: list[Answered] = field(default_factory=list)
    """A few, for loggers to show."""

    @property
    def metrics(self) -> Metrics:
        """Return the means of ``IntervalMetrics``, and the mean average precision."""
        return replace(super().metrics, mean_ap=self.mean_ap)

    @property
    def best(self) -> tuple[float, str]:
        """The better acc@1, or mean average precision, and which weights have it: "model" or "ema"."""
        own = self.metrics.decisive
        return (self.ema.decisive, "ema") if self.ema and self.ema.decisive > own else (own, "model")

    @property
    def ema_figures(self) -> dict[str, float]:
        """Return the figures of the averaged weights, by the names that records use."""
        names = ("loss", "acc1", "acc5", *(["mean_ap"] if self.mean_ap is not None else []))
        return {f"ema_{name}": getattr(self.ema, name) for name in names} if self.ema else {}
