"""What a benchmark measured: tables on the console, and one JSON file that plots and documentation are made of.

The file: {"benchmark", "command", "date", "machine", "versions", "tables"}; a table: {"name", "title", "unit",
"better", "baseline", "rows"}; a row: {"name", "values", "median", "times_better", "note", "failed", "series", "x"}.
``values`` holds every repeat. A row that could not be measured has no values, and ``failed`` says why.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

PACKAGES = (
    "torch", "torchvision", "timm", "numpy", "pillow", "imagenet-ais-native", "aistore", "fastapi", "uvicorn",
    "simplejpeg", "torchcodec", "nvidia-dali-cuda120", "spdl", "ffcv", "webdataset", "mosaicml-streaming",
)  # fmt: skip
"""Distributions whose versions belong to a figure, where they are installed."""

NOT_INSTALLED = Path(sys.prefix) / "not-installed.json"
"""Written by ``benchmarks.environment``: the packages that could not be installed, and why."""


@dataclass(frozen=True)
class Row:
    """One thing that was measured: the figure of every repeat, or why there is none."""

    name: str
    values: Sequence[float] = ()
    note: str = ""
    failed: str = ""
    series: str = ""
    x: float | None = None
    """Where the row lies on the axis of a line plot, which has a line for each ``series``."""

    @property
    def median(self) -> float | None:
        """None where nothing was measured."""
        return statistics.median(self.values) if self.values else None


@dataclass(frozen=True)
class Table:
    """Rows in one ``unit``. ``baseline`` names the row that others are compared with; it may be empty."""

    name: str
    title: str
    unit: str
    rows: Sequence[Row]
    baseline: str = ""
    better: Literal["less", "more"] = "less"

    def times_better(self, row: Row) -> float | None:
        """How many times better than the baseline a row's median is; None where one of them is missing or 0."""
        reference = next((other.median for other in self.rows if other.name == self.baseline), None)
        if not row.median or not reference:
            return None
        return reference / row.median if self.better == "less" else row.median / reference

    def __str__(self) -> str:
        """The table for the console."""
        width = max(len(row.name) for row in self.rows)
        lines = [f"\n{self.title} ({self.unit}; {self.better} is better)"]
        lines.append(f"{'':<{width}}  {'median':>9}  {'(min–max)':<19}" + ("  times better" if self.baseline else ""))
        for row in self.rows:
            if row.median is None:
                lines.append(f"{row.name:<{width}}  not measured: {row.failed}")
                continue
            spread = f"({min(row.values):.4g}–{max(row.values):.4g})"
            ratio = self.times_better(row)
            times = f"  {ratio:12.2f}" if ratio else ""
            lines.append(f"{row.name:<{width}}  {row.median:9.4g}  {spread:<19}{times}  {row.note}".rstrip())
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The table for the JSON file."""
        fields = dataclasses.asdict(self)
        for row, entry in zip(self.rows, fields["rows"], strict=True):
            entry |= {"values": list(row.values), "median": row.median, "times_better": self.times_better(row)}
        return fields


@dataclass
class Result:
    """The tables of one benchmark, and what they belong to. ``add`` prints a table and keeps it."""

    benchmark: str
    command: str
    json_file: Path | None = None
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).date().isoformat())
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    versions: dict[str, str] = field(default_factory=lambda: versions())
    tables: list[Table] = field(default_factory=list)

    def add(self, table: Table) -> None:
        """Print a table; the file is written anew with it, so that what was measured is never lost."""
        print(table, flush=True)
        self.tables.append(table)
        if self.json_file:
            self.json_file.parent.mkdir(parents=True, exist_ok=True)
            self.json_file.write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")

    def as_dict(self) -> dict[str, Any]:
        """The content of the file."""
        kept = ("benchmark", "command", "date", "machine", "versions")
        return {name: getattr(self, name) for name in kept} | {"tables": [table.as_dict() for table in self.tables]}


def parser(description: str | None, **defaults: str | float | bool) -> argparse.ArgumentParser:
    """The command line that every benchmark has: its docstring, and an option for each of its ``defaults``.

    ``--one WAY …`` has a process measure one way alone and answer by ``measure.reply``.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    made.add_argument("--one", nargs="+", metavar="WAY", help=argparse.SUPPRESS)
    for name, value in defaults.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            made.add_argument(option, action="store_true")
        else:
            made.add_argument(option, type=type(value), default=value, help="default: %(default)s")
    return made


def alone(options: argparse.Namespace, *where: object) -> Callable[[str], Sequence[str]]:
    """Answers the module and its arguments by which this benchmark measures one way alone, with the same options."""
    given = {name: value for name, value in vars(options).items() if name not in ("json", "one") and value is not False}
    words = [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]
    return lambda way: (f"benchmarks.{Path(sys.argv[0]).stem}", *words, "--one", way, *map(str, where))


def begin(options: argparse.Namespace) -> Result:
    """The result of the benchmark that this process runs, without tables yet; prints machine and versions."""
    name = Path(sys.argv[0]).stem
    words = list(sys.argv[1:])
    if options.json:
        place = next(place for place, word in enumerate(words) if word.startswith("--json"))
        del words[place : place + (1 if "=" in words[place] else 2)]
    result = Result(name, shlex.join(["python", "-m", f"benchmarks.{name}", *words]), options.json)
    print(f"{result.machine['cpu']}, {result.machine['cores']} cores, {result.machine['system']}, {result.date}")
    print(", ".join(f"{package} {version}" for package, version in result.versions.items()), flush=True)
    return result


def rows(values: Mapping[str, Sequence[float]], notes: Mapping[str, str] | None = None) -> list[Row]:
    """Rows by name."""
    return [Row(name, tuple(figures), (notes or {}).get(name, "")) for name, figures in values.items()]


def why(error: BaseException, package: str = "") -> str:
    """One line that says why something could not be measured: the installation's, if ``package`` is not there."""
    kept = json.loads(NOT_INSTALLED.read_text()) if NOT_INSTALLED.exists() else {}
    if package in kept:
        return f"not installed: {kept[package]}"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:160]


def machine() -> dict[str, Any]:
    """What a figure depends on besides versions."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = found[0] if found else model
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}"
    return {"cpu": model, "cores": cores, "memory_gb": round(memory_gb, 1), "system": system}


def versions() -> dict[str, str]:
    """Of Python and of those of PACKAGES that are installed."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
