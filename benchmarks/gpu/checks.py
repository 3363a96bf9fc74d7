"""The tests of ``tests/gpu``, each an answer of its own, so that one that hangs loses none of those before it.

python -m benchmarks.gpu.checks [PYTEST'S ARGUMENTS]
"""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.gpu.parts import Line, answering


class Recorder:
    """A plugin of pytest that answers when a test begins and when it has ended."""

    def __init__(self, answer: Callable[[Line], None]) -> None:
        self._answer = answer
        self._phases: list[Any] = []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._phases = []
        self._answer({"begun": nodeid})

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A phase of a test is over: its setup, the test, or the teardown, with which it ends."""
        self._phases.append(report)
        if report.when == "teardown":
            odd = next((phase for phase in self._phases if phase.failed), None)
            odd = odd or next((phase for phase in self._phases if phase.skipped), self._phases[0])
            seconds = sum(phase.duration for phase in self._phases)
            self._answer(_test(report.nodeid, odd, round(seconds, 2)))

    def pytest_collectreport(self, report: Any) -> None:
        """A file was read; one that cannot be is a test that failed."""
        if report.failed:
            self._answer(_test(report.nodeid, report, 0.0))


def _test(name: str, report: Any, seconds: float) -> Line:
    return {"test": name, "outcome": report.outcome, "why": _why(report), "seconds": seconds}


def _why(report: Any) -> str:
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):  # (file, line, "Skipped: why")
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else report.longreprtext).strip().splitlines()
    return lines[0][:300] if lines else ""


def main(answer: Callable[[Line], None], *words: str) -> int:
    """The exit code of pytest."""
    return int(pytest.main(["-p", "no:cacheprovider", *words], plugins=[Recorder(answer)]))


if __name__ == "__main__":
    sys.exit(main(answering(), "--share", "0", "tests/gpu"))
