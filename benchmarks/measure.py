"""CPU time and memory of processes, the photos, and rounds of ways to do the same, each in a session of its own."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.results import Row, why

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
REST_S = 5
"""How long a session may take to come to rest."""


class NotMeasuredError(Exception):
    """A peer that failed, in the words of its own process."""


def session_processes(session: int = 0) -> Iterator[tuple[int, list[str]]]:
    """(id, fields of /proc/PID/stat from the state on) of all live processes of a session; 0: of this process's."""
    session = session or os.getsid(0)
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
    """Run ``python -m module arguments`` in a session of its own, which answers once with ``reply``.

    Raises NotMeasuredError with the last line of its errors.
    """
    session = Session(module, *arguments)
    try:
        return session.measure()
    finally:
        session.close()


class Session:
    """``python -m module arguments`` in a session of its own, which measures on request with ``reply``.

    Between two requests all its processes are stopped, and take nothing from those that are measured meanwhile.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # close closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            start_new_session=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.pid = self._process.pid

    def measure(self) -> dict[str, Any]:
        """The figures. Raises NotMeasuredError with the last line of its errors, if it ends instead."""
        assert self._process.stdin and self._process.stdout
        self._signal(signal.SIGCONT)
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its errors say why
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            said = [line for line in self._errors.read().splitlines() if line.strip()]
            raise NotMeasuredError(said[-1] if said else f"exit code {code}")
        self._signal(signal.SIGSTOP)
        figures: dict[str, Any] = json.loads(line)
        return figures

    def close(self) -> None:
        """Let it end by itself, so that it leaves no shared memory behind; after half a minute it is killed."""
        assert self._process.stdin and self._process.stdout
        self._signal(signal.SIGCONT)
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _signal(self, number: int) -> None:
        if self._process.poll() is None:
            os.killpg(self.pid, number)


def reply(measurements: Iterator[Mapping[str, Any]]) -> None:
    """Print the next of ``measurements`` for each line of the standard input, as ``Session`` asks for them.

    It answers when the session's processes have come to rest: they may have batches to make ready for the next time.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer
    for _ in sys.stdin:
        figures = next(measurements)
        rest()
        print(json.dumps(figures), file=answers, flush=True)


def rest() -> None:
    """Wait until the session's processes have nothing to do, for ``REST_S`` at most."""
    before, deadline = -1.0, time.monotonic() + REST_S
    while time.monotonic() < deadline and session_cpu_s() - before > 1.5 / TICKS_PER_S:
        before = session_cpu_s()
        time.sleep(0.2)  # receiving alone takes two ticks of CPU time meanwhile


def cpu_and_wall(batches: Iterator[Any], count: int, batch_size: int, ready: int) -> Iterator[dict[str, float]]:
    """CPU and wall milliseconds per image over ``count`` batches, again and again.

    Each time ``ready`` batches and one more go before: as many as may lie ready when the workers have come to rest.
    """

    def moment(after: int) -> tuple[float, float]:
        for _ in range(after):
            next(batches)
        return session_cpu_s(), time.perf_counter()

    while True:
        (cpu_s, wall_s), (end_cpu_s, end_wall_s) = moment(ready + 1), moment(count)
        images = count * batch_size
        yield {"cpu_ms": 1e3 * (end_cpu_s - cpu_s) / images, "wall_ms": 1e3 * (end_wall_s - wall_s) / images}


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
    kinds: Sequence[str], repeats: int, command: Callable[[str], Sequence[str]], peers: Mapping[str, str]
) -> dict[str, list[Row]]:
    """The rows of each figure that the sessions of ``command(kind)`` answer, in interleaved rounds.

    ``peers``: the package of each kind that may fail; it is named then, with the reason. Any other failure is an error.
    """
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    failed: dict[str, str] = {}
    sessions: dict[str, Session] = {}
    with ExitStack() as stack:
        for kind in [kind for _ in range(repeats) for kind in kinds]:
            if kind in failed:
                continue
            if kind not in sessions:
                sessions[kind] = Session(*command(kind))
                stack.callback(sessions[kind].close)
            try:
                for figure, value in sessions[kind].measure().items():
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
