"""CPU time and memory of processes, the photos, and rounds of ways to do the same, each in a process of its own."""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.results import Row, why

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class NotMeasuredError(Exception):
    """A peer that failed, in the words of its own process."""


def session_processes() -> Iterator[tuple[int, list[str]]]:
    """(id, fields of /proc/PID/stat from the state on) of all live processes of this process's session."""
    session = os.getsid(0)
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            if int(fields[3]) == session:
                yield int(path.name), fields


def session_cpu_s() -> float:
    """CPU seconds, user and system, of the session's live processes, and of those they waited for."""
    return sum(sum(map(int, fields[11:15])) for _, fields in session_processes()) / TICKS_PER_S


def session_pss_mb() -> float:
    """Memory of the session's processes together in MB, a page that n of them share counted as n-ths."""
    return sum(rollup_mb(pid, "Pss:") for pid, _ in session_processes())


def rollup_mb(pid: int, *fields: str) -> float:
    """The sum of fields of /proc/PID/smaps_rollup, by how their lines begin, in MB; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(fields)) * 1024 / 1e6


def heap_mb(pid: int) -> float:
    """A process's anonymous memory in MB (Pss_Anon): a page that n forked processes share counts as an n-th.

    Neither code nor batches on their way, which lie in shared memory.
    """
    return rollup_mb(pid, "Pss_Anon:")


def in_own_session(module: str, *arguments: str) -> dict[str, Any]:
    """Run ``python -m module arguments`` in a session of its own; answers the JSON object of its last line.

    Raises NotMeasuredError with the last line of its errors.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            check=False,
        )
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()]
    if process.returncode:
        raise NotMeasuredError(said[-1] if said else f"exit code {process.returncode}")
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def cpu_and_wall(batches: Iterator[Any], count: int, batch_size: int) -> dict[str, float]:
    """CPU and wall milliseconds per image over ``count`` batches, from the fifth on, when the workers are up."""
    moments = []
    for number, _ in enumerate(batches):
        if number in (4, 4 + count):
            moments.append((session_cpu_s(), time.perf_counter()))
        if len(moments) == 2:
            break
    cpu_s, wall_s = (after - before for before, after in zip(*moments, strict=True))
    return {"cpu_ms": 1e3 * cpu_s / (count * batch_size), "wall_ms": 1e3 * wall_s / (count * batch_size)}


@contextmanager
def photo_folder() -> Iterator[Path]:
    """The 1,000 photos of IMAGENET_TRAINER_DATA as an ImageFolder, in both splits. Exits with 2 without them."""
    data = os.environ.get("IMAGENET_TRAINER_DATA")
    if not data or not (Path(data) / "imagenet-sample.tar").exists():
        print("error: set IMAGENET_TRAINER_DATA to the folder that holds imagenet-sample.tar", file=sys.stderr)
        raise SystemExit(2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with tarfile.open(Path(data) / "imagenet-sample.tar") as tar:
            tar.extractall(root / "photos", filter="data")
        for path in sorted((root / "photos").rglob("*.JPEG")):
            for split in ("train", "val"):
                (root / split / path.name.split("_")[0]).mkdir(parents=True)
                (root / split / path.name.split("_")[0] / path.name).symlink_to(path)
        yield root


def compare(
    kinds: Sequence[str], repeats: int, measure: Callable[[str], dict[str, float]], peers: Mapping[str, str]
) -> dict[str, list[Row]]:
    """Interleaved rounds: ``measure(kind)`` answers figures by name, and this the rows of each figure.

    ``peers``: the package of each kind that may fail; it is named then, with the reason. Any other failure is an error.
    """
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    failed: dict[str, str] = {}
    for _ in range(repeats):
        for kind in kinds:
            if kind in failed:
                continue
            try:
                for figure, value in measure(kind).items():
                    values[figure][kind].append(value)
            except NotMeasuredError as error:
                if kind not in peers:
                    raise
                failed[kind] = why(error, peers[kind]).removeprefix("NotMeasuredError: ")
    missing = [Row(kind, failed=reason) for kind, reason in failed.items()]
    return {
        figure: [Row(kind, tuple(found)) for kind, found in by_kind.items() if kind not in failed] + missing
        for figure, by_kind in values.items()
    }
