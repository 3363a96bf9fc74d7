"""What cannot be printed costs nothing."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from training.report.console import Console
from training.report.output import put, put_error, unfailing

PROGRAM = """
import sys
from training.report.output import never_fail, put_error
never_fail()
for _ in range(2000):
    print("a line that is long enough \\u2192")
put_error("an error")
print("half a line", end="")
sys.exit(7)
"""


@pytest.mark.parametrize("ending", ["> /dev/full", "2> /dev/full > /dev/full", ">&- 2>&-", "| true", "< /dev/null"])
def test_a_program_ends_as_if_all_were_printed(ending: str, tmp_path: Path) -> None:
    script = f'"$0" -c "$1" {ending}; echo "${{PIPESTATUS[0]}}" > "$2"'
    process = subprocess.run(
        ["bash", "-c", script, sys.executable, PROGRAM, str(tmp_path / "code")],
        cwd=PROJECT, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
    assert (tmp_path / "code").read_text() == "7\n"
    assert process.stderr in ("", "an error\n"), process.stderr


def test_a_console_without_an_output(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    full = io.TextIOWrapper(open("/dev/full", "wb", buffering=0), write_through=True)  # noqa: SIM115
    for stream in (closed, None, full, io.TextIOWrapper(io.BytesIO(), "ascii")):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        console = Console(enabled=True)
        console.say("one → two")
        console.progress("three")
        console.end_progress()
        put("four")
        put_error("five")
    monkeypatch.undo()


def test_text_is_written_line_by_line_whole_and_with_escapes() -> None:
    read, write = os.pipe()
    stream = unfailing(write, "ascii")
    print("one", "two →", file=stream)
    print("half", end="", file=stream)
    assert os.read(read, 1000) == b"one two \\u2192\n"
    stream.flush()
    assert os.read(read, 1000) == b"half"
    os.close(read)
    print("nobody reads this", file=stream)
    os.close(write)
    print("nor this", file=stream)
