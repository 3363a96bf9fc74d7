"""A part of the check: a process with a limit of its own, which answers lines of JSON as it goes on.

A line is a row, ``{"row": …}`` with a table of this row alone; a test, ``{"test": …, "outcome": …}``; or the beginning
of one, ``{"begun": …}``. What a part had answered when it failed, or when its time was over, is kept.
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.measure import session_processes
from benchmarks.results import Row, Table

Line = dict[str, Any]

_END_S = 10
"""How long a killed process may take to end, in a call of a driver for example."""


@dataclass(frozen=True)
class Settings:
    """What the parts measure with."""

    photos: str
    """A folder with train/ and val/, each with a folder for each class."""
    about_photos: str
    """Which photos these are."""
    endpoints: tuple[str, ...]
    """Servers of ready samples."""
    batch: int
    steps: int
    """Of a turn, which is one measurement."""
    seconds: float
    """Each way is measured for so long, and for one turn at least."""
    workers: int | Literal["auto"]
    """Loader processes, as data.workers."""
    precision: str

    @classmethod
    def of(cls, text: str) -> "Settings":
        """From a part's command line."""
        fields = json.loads(text)
        return cls(**fields | {"endpoints": tuple(fields["endpoints"])})

    def __str__(self) -> str:
        return json.dumps(dataclasses.asdict(self))


@dataclass(frozen=True)
class Part:
    """``python -m words settings``."""

    name: str
    words: Sequence[str]
    least_s: float
    """It is left out where fewer seconds are left."""
    limit_s: float
    """It has failed where it takes longer."""

    @property
    def file(self) -> str:
        """What the names of its files begin with."""
        return re.sub(r"[^\w.]+", "-", self.name).lower()


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    name: str
    state: Literal["done", "failed", "cut short", "left out"]
    why: str = ""
    seconds: float = 0.0


def run_part(part: Part, settings: Settings, deadline: float, folder: Path) -> tuple[Outcome, list[Line]]:
    """What became of a part, and what it answered; ``deadline``: of ``time.monotonic``, when the whole check ends.

    What it prints lies in ``folder`` in a file of its own.
    """
    begin = time.monotonic()
    left = deadline - begin
    if left < part.least_s:
        why = f"{max(0, left):.0f} s were left, and it takes {part.least_s:.0f} s or more"
        return Outcome(part.name, "left out", why), []
    answers, log = folder / f"{part.file}.jsonl", folder / f"{part.file}.log"
    command = [sys.executable, "-m", *part.words, str(settings)]
    with open(answers, "w") as out, open(log, "w") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True)
        try:
            code: int | None = process.wait(min(left, part.limit_s))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end_session(process.pid)
            process.wait()
    found = lines_of(answers.read_text())
    took = time.monotonic() - begin
    if code == 0:
        return Outcome(part.name, "done", seconds=took), found
    if code is not None:
        why = f"{_last_words(log) or f'exit code {code}'} ({log})"
        return Outcome(part.name, "failed", why, took), found
    if left < part.limit_s:
        return Outcome(part.name, "cut short", "the time for all parts was over", took), found
    return Outcome(part.name, "failed", f"it had not ended after {took:.0f} s ({log})", took), found


def _end_session(session: int) -> None:
    """Kill all processes of a part, and those that they start meanwhile."""
    deadline = time.monotonic() + _END_S
    while time.monotonic() < deadline:
        alive = [pid for pid, fields in session_processes(session) if fields[0] not in "ZX"]
        if not alive:
            return
        for pid in alive:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def lines_of(text: str) -> list[Line]:
    """What a part answered. A last line that was being written when it was killed does not count."""
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


def _last_words(log: Path) -> str:
    said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return said[-1][:300] if said else ""


def answering() -> Callable[[Line], None]:
    """In a part's process: answers a line. Whatever else is printed from here on goes to the log."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(line: Line) -> None:
        print(json.dumps(line), file=answers, flush=True)

    return answer


def row_of(table: Table) -> Line:
    """A table of one row as a line."""
    assert len(table.rows) == 1
    return {"row": dataclasses.asdict(table)}


def tables_of(lines: Iterable[Line]) -> list[Table]:
    """The tables of all rows, each with those that were given for its name."""
    tables: dict[str, Table] = {}
    for line in lines:
        if "row" in line:
            fields: dict[str, Any] = line["row"]
            table = Table(**fields | {"rows": [Row(**row) for row in fields["rows"]]})
            rows = [*tables[table.name].rows, *table.rows] if table.name in tables else table.rows
            tables[table.name] = dataclasses.replace(table, rows=rows)
    return list(tables.values())


def ended_tests(lines: Iterable[Line], part: Outcome) -> list[Line]:
    """The tests that ended, and those that began and have not, which ``part`` was ended in."""
    given = list(lines)
    ended = [line for line in given if "test" in line]
    names = {line["test"] for line in ended}
    begun = [line["begun"] for line in given if line.get("begun", "") not in ("", *names)]
    state = "cut short" if part.state == "cut short" else "failed"
    return ended + [{"test": name, "outcome": state, "why": part.why, "seconds": 0.0} for name in begun]
