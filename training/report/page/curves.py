"""What the charts of a page show, as plain numbers: series thinned to a screen's width, in words and in tables."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from training.report.limits import limited_by
from training.report.page.history import Floats, History

MOST_POINTS = 400
"""The most points of a series. A longer one is binned, by equal numbers of lines, to mean, minimum and maximum."""

_ALL_POINTS = 12_000
"""The most points of all series of a page together, so that the page stays small with many runs."""

FOUR_DIGITS = -1
"""The value of ``Chart.digits`` for significant digits, for figures of any size."""

_ROWS = 60
"""The most rows of a chart's table."""

LIMIT_NAMES = {"model": "the model", "cpus": "this machine's CPUs", "etl": "the ETL", "faults": "faults of the ETL"}

_FAULTS = {
    "retries": "requests sent again",
    "fallbacks": "samples made here for the ETL",
    "replaced": "samples replaced",
    "opened": "nodes that counted as broken",
}


@dataclass(frozen=True)
class Series:
    """A line of a chart: float64 [n] each. ``low`` and ``high`` bound what a bin holds; ``run`` numbers the run."""

    name: str
    run: int
    epoch: Floats
    hours: Floats
    mean: Floats
    low: Floats
    high: Floats
    is_noisy: bool = False
    """Whether smoothing makes it easier to read: what is measured over a few steps is."""
    is_second: bool = False
    """Whether it is drawn in the second colour: the validation beside the training."""


@dataclass(frozen=True)
class Chart:
    """``key`` names it in the page; ``digits`` are those behind the point.

    ``categories`` are the words for 0, 1, … where the values are no numbers.
    """

    key: str
    title: str
    axis: str
    digits: int
    series: Sequence[Series]
    note: str = ""
    categories: Sequence[str] = ()

    def words(self) -> Iterator[str]:
        """A sentence for each series: what it begins and ends with, and its extremes."""
        for one in self.series:
            if self.categories:
                counts = np.bincount(one.mean.astype(int), minlength=len(self.categories))
                said = (
                    f"{word} in {count:,} of {len(one.mean):,} epochs"
                    for word, count in zip(self.categories, counts, strict=True)
                    if count
                )
                yield f"{one.name}: {', '.join(said)}."
            elif len(one.mean) == 1:
                yield f"{one.name}: {self.format(one.mean[0])}."
            else:
                extremes = {"lowest": int(one.mean.argmin()), "highest": int(one.mean.argmax())}
                said = (
                    f"{word} {self.format(one.mean[n])} at epoch {one.epoch[n]:.4g}" for word, n in extremes.items()
                )
                ends = f"from {self.format(one.mean[0])} to {self.format(one.mean[-1])}"
                yield f"{one.name}: {ends}; {', '.join(said)}."

    def rows(self) -> list[list[str]]:
        """The table of the chart: an epoch, and the mean of each series in it; some epochs of very many."""
        ends = [math.ceil(one.epoch[-1] - 1e-9) for one in self.series]
        epochs = np.unique(np.linspace(1, max(1, *ends), _ROWS).round().astype(int)).tolist()
        return [[str(epoch), *(self._cell(one, epoch) for one in self.series)] for epoch in epochs]

    def format(self, value: float) -> str:
        """A value as text."""
        if self.categories:
            return self.categories[int(value)]
        is_small = self.digits == 0 and 0 < abs(value) < 10
        return f"{value:.4g}" if is_small or self.digits == FOUR_DIGITS else f"{value:,.{self.digits}f}"

    def _cell(self, one: Series, epoch: int) -> str:
        inside = one.mean[(one.epoch > epoch - 1 + 1e-9) & (one.epoch <= epoch + 1e-9)]
        return self.format(inside[-1] if self.categories else inside.mean()) if len(inside) else ""


def charts(names: Sequence[str], histories: Sequence[History]) -> list[Chart]:
    """Every chart for which one of the runs has figures."""
    several = len(histories) > 1
    most = max(20, min(MOST_POINTS, _ALL_POINTS // (12 * max(1, len(histories)))))

    def label(run: int, what: str) -> str:
        return f"{names[run]} · {what}" if several and what else names[run] if several else what

    def steps(figure: str, what: str = "", scale: float = 1) -> Iterator[Series]:
        for run, history in enumerate(histories):
            columns = history.steps
            yield from thin(label(run, what), run, columns["epoch"], columns["hours"], scale * columns[figure], most)

    def ends(figure: str, what: str, lines: str = "validations") -> Iterator[Series]:
        for run, history in enumerate(histories):
            found = [line for line in getattr(history, lines) if math.isfinite(line.get(figure, math.nan))]
            yield from _of_lines(label(run, what), run, found, [line[figure] for line in found], most)

    made = (
        Chart(
            "loss",
            "Loss",
            "loss",
            4,
            [*steps("loss", "training"), *ends("loss", "validation"), *ends("ema_loss", "averaged weights")],
        ),
        Chart(
            "accuracy",
            "Accuracy",
            "percent",
            2,
            [
                *steps("acc1", "training acc@1"),
                *ends("acc1", "validation acc@1"),
                *ends("acc5", "validation acc@5"),
                *ends("ema_acc1", "averaged weights acc@1"),
                *ends("mean_ap", "validation mAP"),
            ],
        ),
        Chart("lr", "Learning rate", "learning rate", FOUR_DIGITS, list(steps("lr", "learning rate"))),
        Chart("norm", "Gradient norm", "mean norm before clipping", 3, list(steps("grad_norm", "gradient norm"))),
        Chart("speed", "Throughput", "images a second", 0, list(steps("img_per_s", "training"))),
        Chart(
            "wait",
            "Data wait",
            "percent of the time",
            1,
            list(steps("data_wait", "waiting for data", 100)),
            "The share of the time in which a step waited for its samples. Near 0 the model sets the pace.",
        ),
        _limits(label, histories, most),
        _faults(label, histories, most),
    )
    return [chart for chart in made if chart.series]


def thin(name: str, run: int, epoch: Floats, hours: Floats, values: Floats, most: int) -> Iterator[Series]:
    """One series of at most so many points, of the values that are finite; none where no value is."""
    finite = np.isfinite(values) & np.isfinite(epoch)
    epoch, hours, values = epoch[finite], np.nan_to_num(hours[finite]), values[finite]
    if not len(values):
        return
    bins = np.unique(np.linspace(0, len(values), min(most, len(values)) + 1).astype(int))
    first, size = bins[:-1], np.diff(bins)

    def mean(column: Floats) -> Floats:
        return np.add.reduceat(column, first) / size

    low, high = np.minimum.reduceat(values, first), np.maximum.reduceat(values, first)
    yield Series(name, run, mean(epoch), mean(hours), mean(values), low, high, is_noisy=True)


def _of_lines(
    name: str, run: int, lines: Sequence[dict[str, float]], values: Sequence[float], most: int
) -> Iterator[Series]:
    epoch, hours = (np.array([line[column] for line in lines]) for column in ("epoch", "hours"))
    for one in thin(name, run, epoch, hours, np.array(values, np.float64), most):
        yield Series(name, run, one.epoch, one.hours, one.mean, one.low, one.high, is_second=True)


def _limits(label: Callable[[int, str], str], histories: Sequence[History], most: int) -> Chart:
    """What limited each epoch."""
    keys, series = list(LIMIT_NAMES), []
    for run, history in enumerate(histories):
        lines = [line for line in history.epochs if math.isfinite(line.get("data_wait", math.nan))]
        limits = [float(keys.index(limited_by(counts_of(line), line["data_wait"]))) for line in lines]
        every = lines[:: -(-len(lines) // most)] if lines else []
        places = limits[:: -(-len(lines) // most)] if lines else []
        series += list(_of_lines(label(run, "limit"), run, every, places, most))
    return Chart("limits", "What limited each epoch", "", 0, series, categories=list(LIMIT_NAMES.values()))


def _faults(label: Callable[[int, str], str], histories: Sequence[History], most: int) -> Chart:
    """Chart the kinds of faults that happened, in each epoch."""
    series: list[Series] = []
    for run, history in enumerate(histories):
        for name, words in _FAULTS.items():
            values = [line.get(f"data_{name}", 0.0) for line in history.epochs]
            series += _of_lines(label(run, words), run, history.epochs, values, most) if any(values) else ()
    return Chart("faults", "Faults that the run dealt with", "in an epoch", 0, series)


def counts_of(line: dict[str, float]) -> dict[str, float]:
    """What a line about an epoch says of its samples, by the names of ``sources.batch.Counts``."""
    return {name.removeprefix("data_"): value for name, value in line.items() if name.startswith("data_")}
