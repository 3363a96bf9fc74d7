"""The files of a run directory, for everybody who reads them; importing this does not import torch."""

import errno
import io
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MARK = "# imagenet-ais"
"""What config.yaml begins with, and tells a run directory by."""

REPORT = "report.html"
"""The page of a run."""

LOGGERS = "loggers.json"
"""How far other loggers of the run have come."""

OF_EVALUATIONS = ("per_class.csv", "confusion.csv", "predictions.csv", "predictions.parquet")
"""Tables that an evaluation writes beside its summary."""

ENTRIES = (
    *("config.yaml", "environment.json", "metrics.jsonl", "replaced.jsonl", "stream.bin", "summary.json"),
    *("PREEMPTED", "checkpoints", "tensorboard", "profile", REPORT, LOGGERS, "wandb", *OF_EVALUATIONS),
)
"""All that a run writes into its directory."""

OF_JOBS = ("submitted", "logs")
"""What jobs keep in it: configurations and job scripts as they were submitted, and logs. Never removed."""

FETCHED = "mirror.tmp"
"""The folder in which files of a mirror wait until all are there."""


def is_run_directory(path: Path) -> bool:
    """Whether a directory is recognisably a run of this trainer."""
    return is_recorded(path / "config.yaml")


def is_recorded(path: Path) -> bool:
    """Whether a configuration file was written by this trainer."""
    try:
        return path.read_text(encoding="utf-8").startswith(MARK)
    except (OSError, UnicodeDecodeError):
        return False


def open_new(path: Path) -> io.FileIO:
    """A file that is written from the beginning, in the place of whatever lies there; a link is never followed.

    Raises OSError.
    """
    path.unlink(missing_ok=True)
    return open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, "wb")


def open_own(path: Path, flags: int, mode: str) -> io.FileIO:
    """A file of a run directory, unbuffered. Raises OSError, also for a link that somebody has put in its place."""
    try:
        return io.FileIO(os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path.name} is a symbolic link, which is not written through") from None
        raise


def remove(path: Path, names: Iterable[str]) -> None:
    """Remove files and folders of a directory, those that are there. Raises OSError."""
    for name in names:
        if (path / name).is_dir() and not (path / name).is_symlink():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)


def read_object(path: Path) -> dict[str, Any]:
    """A file with a JSON object; empty if the file is missing or holds something else."""
    try:
        return _json_object(path.read_bytes())
    except FileNotFoundError:
        return {}


def read_lines(path: Path, last_bytes: int = 0) -> list[dict[str, Any]]:
    """The JSON objects of a file with one a line, without what is half-written; none if the file is missing.

    ``last_bytes``: only those that begin in so much of the file's end.
    """
    try:
        with open(path, "rb") as file:
            start = max(0, path.stat().st_size - last_bytes) if last_bytes else 0
            file.seek(start)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    whole = lines[1:-1] if start else lines[:-1]
    return [line for line in map(_json_object, whole) if line]


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
