"""The report as one page of HTML that opens offline, and the findings as lines of CSV."""

import base64
import csv
import io
from collections.abc import Iterable, Iterator

from scripts.inspect.findings import KINDS, STOP, Finding, by_kind
from scripts.inspect.pictures import MOST_BYTES, Picture, odd, of_classes
from scripts.inspect.plots import HOW_TO_INSTALL, plots
from scripts.inspect.summary import Counts, Sizes, formats, reach, verdict
from scripts.inspect.survey import Survey
from sources.text import visible
from training.report.html import document, table, text

_ROWS = 20
"""Findings of a kind that the page lists."""

_CLASSES = 2000
"""Rows of the table of classes, at most."""

_NAMES = {"stop": "Training stops", "warning": "Warning", "note": "Note"}

_STYLE = """
.badge { font-size: .75rem; font-weight: 600; padding: .1rem .5rem; border-radius: 1rem; margin-right: .5rem;
  white-space: nowrap; background: #eef2f4; color: var(--soft); }
.badge.stop { background: #c5332b; color: #fff; } .badge.warning { background: #f7d58a; color: #5a4200; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(27rem, 100%), 1fr)); gap: 1rem; }
.plots img { width: 100%; height: auto; }
.class img { display: block; max-width: 100%; border-radius: .2rem; }
.classes { display: flex; flex-wrap: wrap; gap: .9rem 1.4rem; }
.class div { display: flex; flex-wrap: wrap; gap: .2rem; }
"""


def page(found: Survey, counts: Counts, sizes: Sizes) -> str:
    """Return the whole report as HTML."""
    parts = (
        *_overview(found, counts, sizes),
        *_plots(counts, sizes),
        *_findings(found.findings),
        *_pictures(found),
        *_classes(counts),
    )
    return document(f"Health of {visible(found.data.where)}", parts, _STYLE)


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
    yield f'<p class="verdict {"bad" if stops else "ok"}">{text(verdict(found.findings))}</p>'
    yield from (f"<p>{text(sentence)}</p>" for sentence in (*counts.sentences(), *sizes.sentences()))
    yield f'<p class="soft">{text(reach(found.deep))}</p>'
    rows = [(kind, f"{count:,}") for kind, count in formats(found).items()]
    if rows:
        yield "<h2>Formats and modes</h2>" + table(("format and mode", "photos"), rows, numbers=1)


def _plots(counts: Counts, sizes: Sizes) -> Iterator[str]:
    yield "<h2>Plots</h2>"
    drawn = plots(counts, sizes)
    if drawn is None:
        yield f'<p class="soft">{HOW_TO_INSTALL}</p>'
        return
    yield '<div class="plots">'
    for title, png in drawn.items():
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        yield f'<figure><figcaption>{text(title)}</figcaption><img src="{source}" alt="{text(title)}"></figure>'
    yield "</div>"


def _findings(findings: list[Finding]) -> Iterator[str]:
    yield "<h2>What was found, and what the trainer does with it</h2>"
    if not findings:
        yield "<p>Nothing.</p>"
    for kind, some in by_kind(findings).items():
        about = KINDS[kind]
        badge = f'<span class="badge {about.level}">{_NAMES[about.level]}</span>'
        yield f"<h3>{badge}{text(about.title)}: {len(some):,}</h3>"
        for trainer in dict.fromkeys(finding.trainer for finding in some):
            yield f"<p>{text(trainer)}</p>"
        if not some[0].photo:
            yield "<ul>" + "".join(f"<li>{text(finding.what)}</li>" for finding in some[:_ROWS]) + "</ul>"
        else:
            other = any(finding.other for finding in some)
            rows = [_row(finding)[: 4 if other else 3] for finding in some[:_ROWS]]
            yield table(("file", "class", "what", "equals")[: 4 if other else 3], rows)
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
        yield f'<h3>{text(title)}</h3><div class="sheet">' + "".join(map(_figure, shown)) + "</div>"
    yield '<h2>A few photos of each class</h2><p class="soft">They lie as training sees them, without the rotation by '
    yield 'EXIF.</p><div class="classes">'
    left_out = 0
    for name, pictures in of_classes(found):
        room -= sum(len(picture.source) + len(picture.title) + 80 for picture in pictures)
        left_out += room <= 0
        if room > 0:
            images = "".join(f'<img src="{p.source}" alt="{text(p.title)}" title="{text(p.title)}">' for p in pictures)
            yield f'<figure class="class"><figcaption>{text(name)}</figcaption><div>{images}</div></figure>'
    yield "</div>"
    if left_out:
        yield f'<p class="soft">{left_out:,} more classes have no room here.</p>'


def _figure(picture: Picture) -> str:
    words = f"<br>{text(picture.words)}" if picture.words else ""
    image = f'<img src="{picture.source}" alt="{text(picture.title)}">'
    return f"<figure>{image}<figcaption>{text(picture.title)}{words}</figcaption></figure>"


def _classes(counts: Counts) -> Iterator[str]:
    splits = list(counts.by_split)
    rows = [
        (str(number), name, *(f"{counts.by_split[split][number]:,}" for split in splits))
        for number, name in enumerate(counts.classes[:_CLASSES])
    ]
    yield "<h2>Classes by their numbers</h2><details><summary>"
    yield f"{len(counts.classes):,} classes</summary>"
    yield table(("number", "class", *(split or "photos" for split in splits)), rows, numbers=len(splits))
    if len(counts.classes) > _CLASSES:
        yield f'<p class="soft">The first {_CLASSES:,} are listed.</p>'
    yield "</details>"
