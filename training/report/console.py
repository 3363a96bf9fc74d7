"""What a person sees: one live line for each epoch on a terminal, plain lines otherwise."""

import sys
from typing import TYPE_CHECKING

from sources.text import visible
from training.report.output import put

if TYPE_CHECKING:
    from training.report.metrics import Metrics, Tally


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
        """A line of its own."""
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


def train_line(epoch: tuple[int, int], step: tuple[int, int], tally: "Tally", lr: float, eta_s: float) -> str:
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


def format_duration(seconds: float) -> str:
    """As 45s, 3m10s, 2h05m or 3d04h."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if hours == 0:
        return f"{minutes}m{seconds % 60:02d}s"
    return f"{hours}h{minutes % 60:02d}m" if days == 0 else f"{days}d{hours % 24:02d}h"
