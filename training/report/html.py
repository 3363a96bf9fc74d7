"""The frame, the tables and the style of the pages that this project writes: each is one file that opens offline."""

from collections.abc import Iterable
from html import escape

from sources.text import visible

_NO_NETWORK = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
"""What a browser allows such a page: its own text alone. Nothing is ever fetched."""

_STYLE = """
:root { color-scheme: light; --ink: #24313a; --soft: #5b6972; --line: #dde4e8; --blue: #1f6f8b; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1.2rem 4rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; }
p { margin: .35rem 0; max-width: 60rem; overflow-wrap: anywhere; }
.verdict { padding: .7rem 1rem; border-radius: .4rem; font-weight: 600; }
.ok { background: #e6f4ea; } .bad { background: #fde8e6; } .busy { background: #e4f0f5; }
.soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; margin: .4rem 0; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; min-width: 5rem; }
td.number, th.number { text-align: right; }
figure { margin: 0; }
figcaption { font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; }
.sheet { display: flex; flex-wrap: wrap; gap: .6rem; align-items: flex-start; }
.sheet figure { width: 7rem; } .sheet img { display: block; max-width: 100%; border-radius: .2rem; }
.sheet figcaption { font-size: .7rem; line-height: 1.3; }
summary { cursor: pointer; color: var(--blue); }
"""


def document(title: str, parts: Iterable[str], style: str = "") -> str:
    """A whole page; ``parts`` are HTML, and ``style`` is CSS beside the common one."""
    head = [
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{text(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{_NO_NETWORK}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}{style}</style>\n</head>\n<body>\n<main>\n<h1>{text(title)}</h1>",
    ]
    return "\n".join([*head, *parts, "</main>\n</body>\n</html>\n"])


def table(heads: Iterable[str], rows: Iterable[Iterable[str]], numbers: int = 0, label: str = "") -> str:
    """A table of which the last ``numbers`` columns hold numbers; ``label`` names it for a screen reader."""
    heads = list(heads)

    def row(cells: Iterable[str], tag: str) -> str:
        kinds = [' class="number"' if place >= len(heads) - numbers else "" for place in range(len(heads))]
        scope = ' scope="col"' if tag == "th" else ""
        made = (f"<{tag}{scope}{kind}>{text(cell)}</{tag}>" for cell, kind in zip(cells, kinds, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    name = f' aria-label="{text(label)}"' if label else ""
    return f'<div class="wide" tabindex="0"><table{name}>{row(heads, "th")}\n{body}</table></div>'


def text(words: str) -> str:
    """Words from anywhere, as text or as the value of an attribute."""
    return escape(visible(words))
