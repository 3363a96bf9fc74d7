"""The page of a run, or of several side by side, in the order in which one reads it."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sources.disk import cause
from sources.errors import UserError
from training.report import html
from training.report.html import text
from training.report.page import about, evaluated, plots
from training.report.page.answers import read_answers
from training.report.page.curves import Chart, charts
from training.report.page.history import read_history
from training.report.page.subject import LIVES, Subject
from training.run_dir.run_record import RunRecord

REFRESH_S = 30
"""Seconds between two readings of a page that is kept up to date."""

_STYLE = Path(__file__).with_name("page.css")

_REFRESH = """<script>
(() => {
  const box = document.getElementById("refresh");
  box.checked = sessionStorage.getItem("imagenet-ais refresh") !== "false";
  box.addEventListener("input", () => sessionStorage.setItem("imagenet-ais refresh", box.checked));
  setInterval(() => { if (box.checked) location.reload(); }, SECONDS * 1000);
})();
</script>"""


def page(paths: Sequence[Path], *, live: bool = False) -> str:
    """The whole page of the runs in these directories.

    ``live``: the page offers to load itself again as long as one of the runs goes on. Raises UserError for a directory
    that cannot be read.
    """
    subjects = [_subject(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    title = f"Run {subjects[0].name}" if len(subjects) == 1 else f"{len(subjects)} runs: {_listed(subjects)}"
    drawn = _Drawn(subjects)
    body = [
        *_overview(subjects),
        *(_refresh() if live and any(subject.record.state in LIVES for subject in subjects) else ()),
        *about.recipes(subjects),
        *drawn.curves(),
        *evaluated.sections(subjects, drawn.plots),
        *about.machines(subjects),
    ]
    return html.document(title, [*body, drawn.scripts()], _STYLE.read_text(encoding="utf-8"))


def _subject(path: Path, name: str) -> Subject:
    try:
        record = RunRecord(path, time.time())
        return Subject(name, record, read_history(record), read_answers(record))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {cause(error)}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} holds a record or a table that is damaged ({type(error).__name__}: {error}): fetch the run again, "
            "or evaluate again."
        ) from None


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path where these differ, else the whole paths."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _listed(subjects: Sequence[Subject]) -> str:
    shown = ", ".join(subject.name for subject in subjects[:4])
    return shown + (", …" if len(subjects) > 4 else "")


def _overview(subjects: Sequence[Subject]) -> Iterator[str]:
    for subject in subjects:
        kind = {"done": "ok", "died": "bad"}.get(subject.record.state, "busy")
        before = f"{subject.name}: " if len(subjects) > 1 else ""
        yield f'<p class="verdict {kind}">{text(before + subject.verdict)}</p>'
    if len(subjects) > 1:
        heads = ["run", *subjects[0].cards]
        rows = [[subject.name, *subject.cards.values()] for subject in subjects]
        yield html.table(heads, rows, numbers=len(heads) - 1, label="The runs side by side")
        return
    known = {name: value for name, value in subjects[0].cards.items() if value != "-"}
    cards = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in known.items())
    yield f'<dl class="cards">{cards}</dl>'


def _refresh() -> Iterator[str]:
    yield '<div class="controls"><label><input type="checkbox" id="refresh" checked> '
    yield f"Load this page again every {REFRESH_S} s while the run goes on</label></div>"
    yield _REFRESH.replace("SECONDS", str(REFRESH_S))


class _Drawn:
    """The charts of the runs, with their words, legends and tables; drawn where Bokeh is installed."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self._subjects = [subject for subject in subjects if not subject.is_evaluation]
        histories = [subject.history for subject in self._subjects]
        self._charts = charts([subject.name for subject in self._subjects], histories)
        self._looks = plots.colours(self._charts, len(self._subjects))
        self.plots = plots.Plots(histories, self._looks) if plots.has_bokeh() else None

    def curves(self) -> Iterator[str]:
        """The sections of curves, of speed, and of faults; none for evaluations alone."""
        if not self._charts:
            yield "<h2>Curves</h2><p>No step has been recorded yet.</p>" if self._subjects else ""
            return
        yield "<h2>Curves</h2>"
        if self.plots is None:
            yield f'<p class="soft">{text(plots.HOW_TO_INSTALL)}</p>'
        else:
            yield (
                '<div class="controls"><label>Smoothing <input type="range" id="smoothing" min="0" max="0.98" '
                'step="0.02" value="0"></label><output id="smoothing-shown" for="smoothing">0.00</output>'
                '<label>Horizontal axis <select id="time-axis"><option value="epoch">epoch</option>'
                '<option value="hours">hours</option></select></label></div>'
            )
        yield from self._section("loss", "accuracy", "lr", "norm")
        yield "<h2>Speed</h2>"
        yield from (f"<p>{text(sentence)}</p>" for subject in self._subjects for sentence in subject.speed())
        yield from self._section("speed", "wait", "limits")
        yield "<h2>Faults, restarts and attempts</h2>"
        yield from (f"<p>{text(sentence)}</p>" for subject in self._subjects for sentence in subject.faults())
        yield from self._section("faults")

    def scripts(self) -> str:
        """What draws the charts, for the end of the page."""
        return self.plots.scripts() if self.plots else ""

    def _section(self, *keys: str) -> Iterator[str]:
        yield '<div class="charts">'
        for chart in self._charts:
            if chart.key in keys:
                yield self._figure(chart)
        yield "</div>"

    def _figure(self, chart: Chart) -> str:
        words = " ".join(chart.words())
        note = f'<p class="soft">{text(chart.note)}</p>' if chart.note else ""
        plot = ""
        if self.plots:
            plot = f'<div class="plot" id="{self.plots.draw(chart)}"></div>{self._legend(chart)}'
        heads = ["epoch", *(one.name for one in chart.series)]
        rows = html.table(heads, chart.rows(), numbers=len(heads), label=f"{chart.title} by epoch")
        return (
            f'<section class="chart"><h3>{text(chart.title)}</h3>{note}{plot}'
            f"<details><summary>{text(chart.title)} in words and numbers</summary><p>{text(words)}</p>{rows}</details>"
            "</section>"
        )

    def _legend(self, chart: Chart) -> str:
        if len(chart.series) == 1 and len(self._subjects) == 1:
            return ""
        entries = []
        for number, one in enumerate(chart.series):
            colour, dash = self._looks[chart.key, one.name]
            strokes = {"solid": "", "dashed": "6 3", "dotted": "2 3", "dotdash": "6 3 2 3"}[dash]
            line = (
                f'<svg viewBox="0 0 26 12" aria-hidden="true"><path d="M0 6H26" stroke="{colour}" stroke-width="3" '
                f'stroke-dasharray="{strokes}"/></svg>'
            )
            box = f'<input type="checkbox" data-series="{chart.key}-{number}" checked>'
            entries.append(f"<label>{box}{line}{text(one.name)}</label>")
        return f'<div class="legend" role="group" aria-label="Lines of {text(chart.title)}">{"".join(entries)}</div>'
