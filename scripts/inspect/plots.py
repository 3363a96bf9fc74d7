"""Plots of a data set as PNG files, by matplotlib where it is installed."""

import io
from typing import Any

import numpy as np

from scripts.inspect.summary import Counts, Sizes

HOW_TO_INSTALL = "Plots need matplotlib: pip install matplotlib, and run the same command again."
_COLOURS = ("#1f6f8b", "#d98f2b")
_INK = "#333333"
_NAMED = 40
"""Classes up to which each bar has its name."""


def plots(counts: Counts, sizes: Sizes) -> dict[str, bytes] | None:
    """Title → PNG; None without matplotlib. The same bytes for the same figures and version of matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    made = {"Photos of each class": _draw(_classes, counts, height=_height(len(counts.classes)))}
    if len(sizes.width):
        made["Width and height in pixels"] = _draw(_sides, sizes)
        made["Width by height"] = _draw(_ratios, sizes)
        made["Size of the files in kB"] = _draw(_bytes, sizes)
    return made


def _draw(into: Any, figures: Any, height: float = 3.2) -> bytes:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.6, height), layout="constrained")
    try:
        into(axes, figures)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK, labelsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=144, metadata={"Software": None})
    finally:
        pyplot.close(figure)
    return buffer.getvalue()


def _height(classes: int) -> float:
    return 3.2 if classes > _NAMED else max(1.6, 0.8 + 0.3 * classes)


def _classes(axes: Any, counts: Counts) -> None:
    """Bars by name for few classes; for many, the counts from the largest class to the smallest."""
    many = len(counts.classes) > _NAMED
    wide = 0.8 / max(1, len(counts.by_split))
    for number, (split, found) in enumerate(counts.by_split.items()):
        label, colour = split or "photos", _COLOURS[number % 2]
        if many:
            axes.step(range(1, len(found) + 1), np.sort(found)[::-1], where="mid", color=colour, label=label)
        else:
            places = np.arange(len(found)) + (number - (len(counts.by_split) - 1) / 2) * wide
            axes.barh(places, found, height=wide, color=colour, label=label)
    if many:
        axes.set_ylim(bottom=0)
        axes.set_xlabel("classes, the largest first", fontsize=8, color=_INK)
        axes.set_ylabel("photos", fontsize=8, color=_INK)
    else:
        axes.set_yticks(range(len(counts.classes)), [_plain(name) for name in counts.classes])
        axes.invert_yaxis()
    if len(counts.by_split) > 1:
        axes.figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)


def _sides(axes: Any, sizes: Sizes) -> None:
    axes.scatter(sizes.width, sizes.height, s=6, alpha=0.35, color=_COLOURS[0], linewidths=0, rasterized=True)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _whole_numbers(axes.xaxis)
    _whole_numbers(axes.yaxis)
    axes.set_xlabel("width", fontsize=8, color=_INK)
    axes.set_ylabel("height", fontsize=8, color=_INK)


def _ratios(axes: Any, sizes: Sizes) -> None:
    _histogram(axes, sizes.ratio)
    axes.set_xlabel("width by height (below 1: upright)", fontsize=8, color=_INK)


def _bytes(axes: Any, sizes: Sizes) -> None:
    _histogram(axes, sizes.size / 1000)
    axes.set_xlabel("kB", fontsize=8, color=_INK)


def _histogram(axes: Any, values: Any) -> None:
    low, high = float(values.min()), float(values.max())
    edges = np.geomspace(low, high, 41) if high > low > 0 else np.array([low * 0.9, high * 1.1 + 1e-9])
    axes.hist(values, bins=edges, color=_COLOURS[0])
    axes.set_xscale("log")
    _whole_numbers(axes.xaxis)
    axes.set_ylabel("photos", fontsize=8, color=_INK)


def _whole_numbers(axis: Any) -> None:
    """Beside a logarithmic axis, and not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _plain(name: str) -> str:
    """A name of a class without what matplotlib takes for mathematics."""
    short = name if len(name) <= 28 else f"{name[:27]}…"
    return short.replace("$", r"\$")
