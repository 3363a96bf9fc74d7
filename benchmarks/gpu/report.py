"""What the check has found, on the console and in files."""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.parts import Line, Outcome, ended_tests, tables_of
from benchmarks.results import Result


class Report:
    """What was found so far, on the console and in two files; written anew after each part."""

    def __init__(self, folder: Path, device: str, command: str) -> None:
        self._folder, self._device, self._text = folder, device, ""
        self._result = Result("gpu", command)
        self._lines: list[Line] = []
        self.outcomes: list[Outcome] = []
        self.tests: list[Line] = []
        machine = self._result.machine
        self.say(
            f"{device}; {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {self._result.date}"
        )
        self.say(", ".join(f"{package} {version}" for package, version in self._result.versions.items()))

    def say(self, text: str) -> None:
        """Print it, and keep it."""
        print(text, flush=True)
        self._text += f"{text}\n"

    def add(self, outcome: Outcome, lines: Sequence[Line]) -> None:
        """What became of a part, and what it answered."""
        self.outcomes.append(outcome)
        self._lines += lines
        self._result.tables = tables_of(self._lines)
        tests = ended_tests(lines, outcome)
        self.tests += tests
        for test in tests:
            why = f": {test['why']}" if test["why"] else ""
            self.say(f"{test['outcome']:<9} {test['seconds']:5.1f} s  {test['test']}{why}")
        for table in tables_of(lines):
            self.say(str(table))
        self.say(
            f"{outcome.name}: {outcome.state}{f', {outcome.why}' if outcome.why else ''} ({outcome.seconds:.0f} s)"
        )
        self.write()

    def write(self) -> None:
        """Both files, as far as things have come."""
        content = self._result.as_dict() | {
            "device": self._device,
            "parts": [vars(outcome) for outcome in self.outcomes],
            "tests": self.tests,
        }
        (self._folder / "gpu-check.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        (self._folder / "gpu-check.txt").write_text(self._text)

    def end(self, minutes: float) -> int:
        """Say all tables together, and what failed or did not fit; the exit code, 1 also where no part was done."""
        self.say("\n== Altogether")
        for table in self._result.tables:
            self.say(str(table))
        states = ("passed", "failed", "skipped", "cut short")
        counts = {state: sum(test["outcome"] == state for test in self.tests) for state in states}
        if self.tests:
            self.say("\ntests: " + ", ".join(f"{count} {state}" for state, count in counts.items() if count))
        failed = [outcome.name for outcome in self.outcomes if outcome.state == "failed"]
        failed += [test["test"] for test in self.tests if test["outcome"] == "failed"]
        missing = [outcome.name for outcome in self.outcomes if outcome.state in ("left out", "cut short")]
        if missing:
            self.say(f"did not fit into {minutes:g} minutes: {'; '.join(missing)} (--minutes, or --parts)")
        if failed:
            self.say(f"failed: {'; '.join(failed)}")
        self.write()
        return 1 if failed or not any(outcome.state == "done" for outcome in self.outcomes) else 0
