"""The report as one page of HTML that opens offline, and the findings as lines of CSV."""

import base64
import csv
import io
from collections.abc import Iterable, Iterator
from html import escape

from scripts.inspect.findings import KINDS, STOP, Finding, by_kind
from scripts.inspect.pictures import MOST_BYTES, Picture, odd, of_classes
from scripts.inspect.plots import HOW_TO_INSTALL, plots
from scripts.inspect.summary import Counts, Sizes, formats, reach, verdict
from scripts.inspect.survey import Survey
from sources.text import visible

_ROWS = 20
"""Findings of a kind that the page lists."""

_CLASSES = 2000
"""Rows of the table of classes, at most."""

_NAMES = {"stop": "Training stops", "warning": "Warning", "note": "Note"}

_STYLE = """
:root { color-scheme: light; --ink: #24313a; --soft: #64727c; --line: #dde4e8; --blue: #1f6f8b; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1.2rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; }
p { margin: .35rem 0; max-width: 60rem; }
.verdict { padding: .7rem 1rem; border-radius: .4rem; font-weight: 600; }
.ok { background: #e6f4ea; } .bad { background: #fde8e6; }
.badge { font-size: .75rem; font-weight: 600; padding: .1rem .5rem; border-radius: 1rem; margin-right: .5rem;
  white-space: nowrap; background: #eef2f4; color: var(--soft); }
.badge.stop { background: #c5332b; color: #fff; } .badge.warning { background: #f7d58a; color: #5a4200; }
.soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; margin: .4rem 0; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; min-width: 5rem; }
td.number, th.number { text-align: right; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } .plots img { width: 100%; height: auto; }
figcaption { font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; }
.sheet { display: flex; flex-wrap: wrap; gap: .6rem; align-items: flex-start; }
.sheet figure { width: 7rem; } .sheet img, .class img { display: block; max-width: 100%; border-radius: .2rem; }
.sheet figcaption { font-size: .7rem; line-height: 1.3; }
.classes { display: flex; flex-wrap: wrap; gap: .9rem 1.4rem; }
.class div { display: flex; flex-wrap: wrap; gap: .2rem; }
summary { cursor: pointer; color: var(--blue); }
"""


def page(found: Survey, counts: Counts, sizes: Sizes) -> str:
    """The whole report."""
    title = f"Health of {visible(found.data.where)}"
    parts = [
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style>\n<h1>{escape(title)}</h1>",
        *_overview(found, counts, sizes),
        *_plots(counts, sizes),
        *_findings(found.findings),
        *_pictures(found),
        *_classes(counts),
    ]
    return "\n".join(parts) + "\n</html>\n"


def lines(findings: Iterable[Finding]) -> str:
    """CSV with a line for each finding, in their order."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("level", "kind", "split", "class", "file", "what", "equals", "trainer"))
    for f in findings:
        cells = (f.level, KINDS[f.kind].title, f.split, f.label, f.photo, f.what, f.other, f.trainer)
        writer.writerow([visible(cell, keep="") for cell in cells])
    return buffer.getvalue()


def _overview(found: Survey, counts: Counts, sizes: Sizes) -> Iterator[str]:
    stops = any(finding.level == STOP for finding in found.findings)
    yield f'<p class="verdict {"bad" if stops else "ok"}">{_text(verdict(found.findings))}</p>'
    yield from (f"<p>{_text(sentence)}</p>" for sentence in (*counts.sentences(), *sizes.sentences()))
    yield f'<p class="soft">{_text(reach(found.deep))}</p>'
    rows = [(kind, f"{count:,}") for kind, count in formats(found).items()]
    if rows:
        yield "<h2>Formats and modes</h2>" + _table(("format and mode", "photos"), rows, numbers=1)


def _plots(counts: Counts, sizes: Sizes) -> Iterator[str]:
    yield "<h2>Plots</h2>"
    drawn = plots(counts, sizes)
    if drawn is None:
        yield f'<p class="soft">{HOW_TO_INSTALL}</p>'
        return
    yield '<div class="plots">'
    for title, png in drawn.items():
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        yield f'<figure><figcaption>{_text(title)}</figcaption><img src="{source}" alt="{_text(title)}"></figure>'
    yield "</div>"


def _findings(findings: list[Finding]) -> Iterator[str]:
    yield "<h2>What was found, and what the trainer does with it</h2>"
    if not findings:
        yield "<p>Nothing.</p>"
    for kind, some in by_kind(findings).items():
        about = KINDS[kind]
        badge = f'<span class="badge {about.level}">{_NAMES[about.level]}</span>'
        yield f"<h3>{badge}{_text(about.title)}: {len(some):,}</h3>"
        for trainer in dict.fromkeys(finding.trainer for finding in some):
            yield f"<p>{_text(trainer)}</p>"
        if not some[0].photo:
            yield "<ul>" + "".join(f"<li>{_text(finding.what)}</li>" for finding in some[:_ROWS]) + "</ul>"
        else:
            other = any(finding.other for finding in some)
            rows = [_row(finding)[: 4 if other else 3] for finding in some[:_ROWS]]
            yield _table(("file", "class", "what", "equals")[: 4 if other else 3], rows)
        if len(some) > _ROWS:
            yield f'<p class="soft">files.csv lists the other {len(some) - _ROWS:,}.</p>'


def _row(finding: Finding) -> tuple[str, ...]:
    name = f"{finding.split}/{finding.photo}" if finding.split else finding.photo
    return name, finding.label, finding.what, finding.other


def _pictures(found: Survey) -> Iterator[str]:
    room = MOST_BYTES
    kinds = list(odd(found))
    if kinds:
        yield "<h2>Odd photos</h2>"
    for title, pictures in kinds:
        shown = [picture for picture in pictures if (room := room - len(picture.source)) > 0]
        yield f'<h3>{_text(title)}</h3><div class="sheet">' + "".join(map(_figure, shown)) + "</div>"
    yield '<h2>A few photos of each class</h2><p class="soft">They lie as training sees them, without the rotation by '
    yield 'EXIF.</p><div class="classes">'
    left_out = 0
    for name, pictures in of_classes(found):
        room -= sum(len(picture.source) + len(picture.title) + 80 for picture in pictures)
        left_out += room <= 0
        if room > 0:
            images = "".join(
                f'<img src="{p.source}" alt="{_text(p.title)}" title="{_text(p.title)}">' for p in pictures
            )
            yield f'<figure class="class"><figcaption>{_text(name)}</figcaption><div>{images}</div></figure>'
    yield "</div>"
    if left_out:
        yield f'<p class="soft">{left_out:,} more classes have no room here.</p>'


def _figure(picture: Picture) -> str:
    words = f"<br>{_text(picture.words)}" if picture.words else ""
    image = f'<img src="{picture.source}" alt="{_text(picture.title)}">'
    return f"<figure>{image}<figcaption>{_text(picture.title)}{words}</figcaption></figure>"


def _classes(counts: Counts) -> Iterator[str]:
    splits = list(counts.by_split)
    rows = [
        (str(number), name, *(f"{counts.by_split[split][number]:,}" for split in splits))
        for number, name in enumerate(counts.classes[:_CLASSES])
    ]
    yield "<h2>Classes by their numbers</h2><details><summary>"
    yield f"{len(counts.classes):,} classes</summary>"
    yield _table(("number", "class", *(split or "photos" for split in splits)), rows, numbers=len(splits))
    if len(counts.classes) > _CLASSES:
        yield f'<p class="soft">The first {_CLASSES:,} are listed.</p>'
    yield "</details>"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]], numbers: int = 0) -> str:
    """Of which the last ``numbers`` columns hold numbers."""
    heads = list(heads)

    def row(cells: Iterable[str], tag: str) -> str:
        kinds = [' class="number"' if place >= len(heads) - numbers else "" for place in range(len(heads))]
        made = (f"<{tag}{kind}>{_text(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return f'<div class="wide"><table>{row(heads, "th")}\n{body}</table></div>'


def _text(text: str) -> str:
    return escape(visible(text))
