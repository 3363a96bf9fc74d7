"""Plots of what benchmarks found: ``python -m benchmarks.plots FOLDER`` draws FOLDER/NAME.png of each FOLDER/NAME.json.

Tables become horizontal bars, one for each row, with the median and how many times better than the baseline it is; a
thin line spans all repeats. Tables whose rows have an ``x`` become lines, one for each series.
"""

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

OURS, BASELINE, PEER = "#1f6f8b", "#8d8d8d", "#cfd8dc"
INK = "#333333"


def is_ours(name: str) -> bool:
    """Whether a row is this project's."""
    return name.startswith(("imagenet-ais", "etl.transform", "data=", "data.transform=", "train.py"))


def bars(axes: Any, table: dict[str, Any]) -> None:
    """Draw the rows of a table, the first on top."""
    rows = list(reversed(table["rows"]))
    top = max((max(row["values"]) for row in rows if row["values"]), default=1.0)
    for place, row in enumerate(rows):
        if row["median"] is None:
            axes.text(0.01 * top, place, f"not measured: {row['failed'][:60]}", va="center", color=INK, fontsize=7.5)
            continue
        kind = BASELINE if row["name"] == table["baseline"] else OURS if is_ours(row["name"]) else PEER
        axes.barh(place, row["median"], color=kind, height=0.66)
        axes.plot([min(row["values"]), max(row["values"])], [place, place], color=INK, linewidth=0.8)
        times = row["times_better"]
        median = row["median"]
        label = f"{median:,.0f}" if abs(median) >= 1000 else f"{median:.3g}"
        if table["baseline"]:
            label += "   baseline" if row["name"] == table["baseline"] else f"   {times:.2f}×"
        axes.text(max(row["values"]) + 0.015 * top, place, label, va="center", color=INK, fontsize=8.5)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8.5)
    axes.set_xlim(min(0.0, *(min(row["values"], default=0.0) for row in rows)), 1.22 * top)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    times = ", ×: times better than the baseline" if table["baseline"] else ""
    axes.set_xlabel(f"{table['unit']} ({table['better']} is better{times})", fontsize=8.5, loc="left", color=INK)


def lines(axes: Any, table: dict[str, Any]) -> None:
    """Draw a line for each series over the rows' ``x``, from zero on; shares in percent up to 100."""
    found = [row for row in table["rows"] if row["median"] is not None]
    for series in dict.fromkeys(row["series"] for row in found):
        mine = [row for row in found if row["series"] == series]
        colour = OURS if is_ours(series) else BASELINE
        axes.plot([row["x"] for row in mine], [row["median"] for row in mine], "o-", color=colour, label=series)
    ticks = sorted({row["x"] for row in found})
    if ticks[0] > 0 and ticks != list(range(int(ticks[0]), int(ticks[-1]) + 1)):
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], fontsize=8)
    medians = [row["median"] for row in found]
    axes.set_ylim(*(10 * (min(medians) // 10), 100) if table["unit"].startswith("%") else (0, 1.15 * max(medians)))
    axes.set_ylabel(table["unit"], fontsize=8.5)
    if len({row["series"] for row in found}) > 1:
        axes.legend(frameon=False, fontsize=8)


def draw(result: dict[str, Any], file: Path) -> None:
    """One PNG with all tables of a benchmark: bars one below the other, lines two by two."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tables = result["tables"]
    lined = [all(row["x"] is not None for row in table["rows"]) for table in tables]
    columns = 2 if all(lined) else 1
    heights = [
        2.2 if by_lines else 0.9 + 0.26 * len(table["rows"])
        for table, by_lines in list(zip(tables, lined, strict=True))[::columns]
    ]
    figure, grid = pyplot.subplots(
        len(heights),
        columns,
        figsize=(8.5, sum(heights) + 0.5),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axes, table, by_lines in zip(grid.flat, tables, lined, strict=False):
        (lines if by_lines else bars)(axes, table)
        axes.set_title(textwrap.fill(table["title"], 70 if columns == 1 else 50), loc="left", fontsize=10, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, length=3 if by_lines else 0, labelsize=8.5)
    for axes in list(grid.flat)[len(tables) :]:
        axes.remove()
    machine = result["machine"]
    foot = f"{machine['cpu']}, {machine['cores']} cores; {result['date']}; {result['command']}"
    figure.supxlabel(foot, fontsize=7, color=INK, x=0.01, ha="left")
    figure.savefig(file, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def main(folder: Path) -> None:
    """Draw all of a folder."""
    for file in sorted(folder.glob("*.json")):
        draw(json.loads(file.read_text()), file.with_suffix(".png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
