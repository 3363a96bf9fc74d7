"""What a person sees: one live line for each epoch on a terminal, plain lines otherwise."""

import sys
import time
from typing import TYPE_CHECKING

from sources.text import format_duration, visible
from training.report.output import put

if TYPE_CHECKING:
    from training.report.metrics import IntervalMetrics, Metrics


AVERAGED = {"model": "", "ema": " (averaged weights)"}
"""What is said behind a figure, by the weights that it is of."""


class Console:
    """Prints on rank 0; silent elsewhere."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        try:
            self.live = enabled and sys.stdout is not None and sys.stdout.isatty()
        except ValueError:  # it is closed
            self.live = False
        self._dirty = False

    def say(self, text: str) -> None:
        """Print a line."""
        if self.enabled:
            put(("\r\x1b[K" if self._dirty else "") + visible(text))
            self._dirty = False

    def progress(self, text: str) -> None:
        """The state within an epoch: replaces the live line, or adds a plain one."""
        if self.live:
            put(f"\r\x1b[K{visible(text)}", end="")
            self._dirty = True
        else:
            self.say(text)

    def end_progress(self) -> None:
        """Keep what the live line says, and go on below it."""
        if self._dirty:
            put("")
            self._dirty = False


class Pace:
    """Tells how far a validation is: about twice a second on a terminal, and once a minute elsewhere."""

    def __init__(self, console: Console, batches: int) -> None:
        self._console, self._batches = console, batches
        self._begin = time.monotonic()
        self._every_s = 0.5 if console.live else 60.0
        self._due = self._begin + self._every_s

    def done(self, batches: int) -> None:
        """Take note that so many batches are done."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._every_s
        left_s = (now - self._begin) * (self._batches - batches) / batches
        self._console.progress(f"validation  batch {batches:,}/{self._batches:,}  ETA {format_duration(left_s)}")


def train_line(epoch: tuple[int, int], step: tuple[int, int], tally: "IntervalMetrics", lr: float, eta_s: float) -> str:
    """The progress line of training, in the words of pytorch/examples' log.

    ``epoch`` and ``step``: how many are done or begun, of how many.
    """
    return (
        f"epoch {epoch[0]}/{epoch[1]}  step {step[0]}/{step[1]}  {format_metrics(tally.metrics)}  lr {lr:.4g}  "
        f"{tally.img_per_s:,.0f} img/s  data wait {100 * tally.data_wait:.0f} %  ETA {format_duration(eta_s)}"
    )


def format_metrics(metrics: "Metrics") -> str:
    """Loss and accuracies in fixed width, and the mean average precision, where there is one."""
    ranked = "" if metrics.mean_ap is None else f"  mAP {metrics.mean_ap:6.2f}"
    return f"loss {metrics.loss:6.4f}  acc@1 {metrics.acc1:6.2f}  acc@5 {metrics.acc5:6.2f}{ranked}"
