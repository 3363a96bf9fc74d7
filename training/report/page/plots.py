"""The charts of a page, drawn by Bokeh where it is installed: its script is written into the page, so it opens offline.

Bokeh and its models are asked for by name, since they are optional and without types that mypy reads in good time.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.report.page.answers import OfClass
from training.report.page.curves import FOUR_DIGITS, Chart, Series
from training.report.page.history import History

HOW_TO_INSTALL = "Charts need Bokeh: pip install bokeh, and write the page again. The tables have the same figures."

PAIR = ("#1f6f8b", "#d9822b")
"""The two colours of one run: training, and whatever is beside it."""

PALETTE = ("#1f6f8b", "#d9822b", "#7b4f9e", "#3a7d44", "#c5332b", "#8a6d3b", "#d16ba5", "#4f5d66")
"""The colours of several runs or kinds, which most people can tell apart, also in print."""

_DASHES = ("solid", "dashed", "dotted", "dotdash")
_INK, _LINE = "#4a5760", "#e3e9ec"


def has_bokeh() -> bool:
    """Whether charts can be drawn here."""
    try:
        importlib.import_module("bokeh.plotting")
    except ImportError:
        return False
    return True


def colours(charts: Sequence[Chart], runs: int) -> dict[tuple[str, str], tuple[str, str]]:
    """(chart's key, series' name) → (colour, dash)."""
    found = {}
    for chart in charts:
        for number, one in enumerate(chart.series):
            if runs == 1:
                found[chart.key, one.name] = ((*PAIR, *PALETTE[2:])[number % len(PALETTE)], "solid")
            else:
                before = sum(other.run == one.run for other in chart.series[:number])
                dash = _DASHES[(before + one.run // len(PALETTE)) % len(_DASHES)]
                found[chart.key, one.name] = (PALETTE[one.run % len(PALETTE)], dash)
    return found


class Plots:
    """Collects figures of Bokeh, which share the horizontal axis, and answers the scripts that draw them."""

    def __init__(self, histories: Sequence[History], looks: dict[tuple[str, str], tuple[str, str]]) -> None:
        self._models: Any = importlib.import_module("bokeh.models")
        self._figure: Any = importlib.import_module("bokeh.plotting").figure
        self._looks = looks
        self._places: dict[str, Any] = {}
        self._range: Any = None
        starts = [start for history in histories for start in history.starts]
        columns = {"epoch": [start.epoch for start in starts], "hours": [start.hours for start in starts]}
        self._starts = columns | {"x": columns["epoch"], "attempt": [start.attempt for start in starts]}

    def draw(self, chart: Chart) -> str:
        """Draw a chart; the id of the element that it will appear in."""
        figure = self._new(chart.axis, 130 + 30 * bool(chart.axis) if chart.categories else 250)
        if self._range is None:
            self._range = figure.x_range
        figure.x_range = self._range
        figure.xaxis.axis_label, figure.xaxis.name = "epochs", "time axis"
        lines = [self._draw(figure, chart, number, one) for number, one in enumerate(chart.series)]
        if self._starts["x"]:
            source = self._models.ColumnDataSource(self._starts, tags=["time"])
            figure.vspan(x="x", source=source, line_color=_INK, line_dash=[4, 4], line_alpha=0.7)
        if chart.categories:
            figure.yaxis.ticker = list(range(len(chart.categories)))
            figure.yaxis.major_label_overrides = dict(enumerate(chart.categories))
            figure.y_range = self._models.Range1d(len(chart.categories) - 0.5, -0.5)
            value = "@word"
        else:
            figure.yaxis.formatter = self._models.NumeralTickFormatter(format="0,0.[00000]")
            value = "@raw{%0.4g}" if chart.digits == FOUR_DIGITS else f"@raw{{%0.{chart.digits}f}}"
        tooltips = [
            ("", "$name"),
            ("epoch", "@epoch{0,0.00}"),
            ("hours", "@hours{0,0.00}"),
            (chart.axis or "limit", value),
        ]
        if any(one.low.tolist() != one.high.tolist() for one in chart.series):
            ends = value.replace("raw", "low"), value.replace("raw", "high")
            tooltips.append(("least and greatest", " to ".join(ends)))
        formatters = {f"@{column}": "printf" for column in ("raw", "low", "high")}
        self._hover(figure, lines, tooltips, formatters)
        return self._place(chart.key, figure)

    def draw_classes(self, key: str, classes: Sequence[OfClass]) -> str:
        """Draw the accuracy of each class with its interval, from the lowest to the highest."""
        figure = self._new("acc@1, percent", 250)
        figure.xaxis.axis_label = "classes, the lowest first"
        figure.y_range = self._models.Range1d(-3, 103)
        names = ("name", "images", "acc1", "low", "high")
        columns: dict[str, Any] = {name: [getattr(row, name) for row in classes] for name in names}
        source = self._models.ColumnDataSource(columns | {"x": list(range(1, len(classes) + 1))})
        figure.segment(x0="x", y0="low", x1="x", y1="high", source=source, line_color="#b9ccd4", line_width=1.5)
        points = figure.scatter(x="x", y="acc1", source=source, color=PAIR[0], size=6)
        interval = "@low{0.0} to @high{0.0}"
        tooltips = [("class", "@name"), ("acc@1", "@acc1{0.00}"), ("95 % interval", interval), ("photos", "@images")]
        self._hover(figure, [points], tooltips, {}, mode="mouse")
        return self._place(key, figure)

    def scripts(self) -> str:
        """Bokeh's script, the figures as data, and the page's own script that draws them; "" without figures."""
        if not self._places:
            return ""
        embed: Any = importlib.import_module("bokeh.embed.util")
        resources: Any = importlib.import_module("bokeh.resources")
        document: Any = importlib.import_module("bokeh.document").Document()
        for figure in self._places.values():
            document.add_root(figure)
        documents, [item] = embed.standalone_docs_json_and_render_items(document.roots)
        places = {figure.ref["id"]: f"plot-{key}" for key, figure in self._places.items()}
        items = [{"docid": item.docid, "roots": places, "root_ids": list(places)}]
        data = json.dumps({"documents": documents, "items": items}).replace("<", "\\u003c")
        library = "\n".join(resources.Resources(mode="inline", components=["bokeh"]).js_raw)
        own = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
        library = library.replace("</script", "<\\/script")
        return (
            f"<script>{library}</script>\n"
            f'<script type="application/json" id="plots">{data}</script>\n<script>{own}</script>'
        )

    def _new(self, axis: str, height: int) -> Any:
        figure = self._figure(
            height=height, sizing_mode="stretch_width", tools="xbox_zoom,xpan,reset", toolbar_location="above"
        )
        figure.toolbar.logo = None
        figure.toolbar.active_drag = None  # on a phone, drawing a finger over a chart scrolls the page
        figure.yaxis.axis_label = axis or None
        figure.outline_line_color = None
        figure.grid.grid_line_color = _LINE
        for line in (*figure.xaxis, *figure.yaxis):
            line.axis_line_color = line.major_tick_line_color = "#b9c4ca"
            line.minor_tick_line_color = None
            line.major_label_text_color = line.axis_label_text_color = _INK
            line.axis_label_text_font_style, line.axis_label_text_font_size = "normal", "12px"
        return figure

    def _draw(self, figure: Any, chart: Chart, number: int, one: Series) -> Any:
        colour, dash = self._looks[chart.key, one.name]
        columns = {name: getattr(one, name).astype("float32") for name in ("epoch", "hours", "low", "high")}
        columns |= {"x": columns["epoch"], "raw": one.mean.astype("float32"), "y": one.mean.astype("float32")}
        if chart.categories:
            columns["word"] = [chart.categories[int(value)] for value in one.mean]
        tags = ["time", *(["noisy"] if one.is_noisy else [])]
        source = self._models.ColumnDataSource(columns, tags=tags)
        look = {"x": "x", "source": source, "color": colour}
        drawn = []  # what the box of the legend shows and hides; the line is the last
        if one.is_noisy and len(one.mean) > 1:
            drawn.append(figure.varea(y1="low", y2="high", fill_alpha=0.13, **look))
        if chart.categories:
            drawn.append(figure.scatter(y="y", marker="square", size=7, **look))
        else:
            if len(one.mean) <= 40:
                drawn.append(figure.scatter(y="y", size=5, **look))
            drawn.append(figure.line(y="y", line_width=2, line_dash=dash, **look))
        for renderer in drawn:
            renderer.name, renderer.tags = one.name, [f"{chart.key}-{number}"]
        return drawn[-1]

    def _hover(self, figure: Any, lines: list[Any], tooltips: Any, formatters: Any, mode: str = "vline") -> None:
        hover = self._models.HoverTool(renderers=lines, tooltips=tooltips, formatters=formatters, mode=mode)
        figure.add_tools(hover)

    def _place(self, key: str, figure: Any) -> str:
        self._places[key] = figure
        return f"plot-{key}"
