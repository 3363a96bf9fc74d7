"""Write a page for a run, or for several side by side: one HTML file that opens offline.

    python -m scripts.report runs/demo --open
    python -m scripts.report runs/first runs/second --out compared.html
    python -m scripts.report runs/first runs/evaluated        curves of the one, and what the other confuses
    python -m scripts.report runs/first --watch               written again every 30 s while the run goes on

Each RUN is a run directory, or a folder of them. The page has the result and the options beside the recipe's, curves,
speed and what limited it, faults and restarts, what an evaluation has found, the machine, and the command to repeat.
It is RUN/report.html, or ./report.html for several runs. Charts need Bokeh: pip install bokeh. Nothing of the run is
changed. The exit code is 0, 1 where something cannot be read or written, and 2 for a folder without runs.
"""

import argparse
import sys
import time
import webbrowser
from pathlib import Path

from sources.command_line import answer, command
from sources.disk import cause
from sources.errors import UserError
from sources.text import visible
from training.report.output import put
from training.report.page.plots import HOW_TO_INSTALL, has_bokeh
from training.report.page.run_page import REFRESH_S, page
from training.report.page.subject import LIVES
from training.run_dir.files import REPORT
from training.run_dir.run_record import RunRecord, find


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = command("scripts.report", __doc__)
    parser.add_argument("run", nargs="+", type=Path, metavar="RUN", help="the directory of a run, or a folder of them")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page; default: RUN/report.html")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--watch", action="store_true", help=f"write it again every {REFRESH_S} s while a run goes on")
    options = parser.parse_args(arguments)
    return answer(lambda: _run(options), "stopped. The page is as it was written last.", 0)


def _run(options: argparse.Namespace) -> int:
    """Raises UserError."""
    paths = [path for argument in options.run for path in find(argument)]
    out = options.out or (paths[0] / REPORT if len(paths) == 1 else Path(REPORT))
    _write(out, page(paths, live=options.watch))
    how = "" if options.open else " Open it in a browser, or add --open."
    put(visible(f"{out} is written ({out.stat().st_size / 1e6:.1f} MB).{how}"))
    if not has_bokeh():
        put(HOW_TO_INSTALL)
    if options.open and not webbrowser.open(out.resolve().as_uri()):
        put(visible(f"No browser could be started here: open {out} yourself."))
    while options.watch and any(RunRecord(path, time.time()).state in LIVES for path in paths):
        time.sleep(REFRESH_S)
        _write(out, page(paths, live=True))
    return 0


def _write(out: Path, content: str) -> None:
    temporary = out.with_name(f"{out.name}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {cause(error)}. Choose another place with --out.") from None


if __name__ == "__main__":
    sys.exit(main())
