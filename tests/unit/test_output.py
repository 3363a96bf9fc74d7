"""What cannot be printed costs nothing."""

import io
import os
import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from training.console import Console
from training.output import Unfailing, put, put_error

PROGRAM = """
import sys
from training.output import never_fail, put_error
never_fail()
for _ in range(2000):
    print("a line that is long enough \\u2192")
put_error("an error")
print("half a line", end="")
sys.exit(7)
"""


@pytest.mark.parametrize("ending", ["> /dev/full", "2> /dev/full > /dev/full", ">&- 2>&-", "| true", "< /dev/null"])
def test_a_program_ends_as_if_all_were_printed(ending: str) -> None:
    script = f'"$0" -c "$1" {ending}; echo "${{PIPESTATUS[0]}}" > /proc/$$/fd/9'
    read, write = os.pipe()
    os.dup2(write, 9)
    process = subprocess.run(
        ["bash", "-c", script, sys.executable, PROGRAM],
        cwd=PROJECT, pass_fds=[9], capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
    os.close(9)
    os.close(write)
    assert os.read(read, 100) == b"7\n"
    os.close(read)
    assert process.stderr in ("", "an error\n"), process.stderr


def test_a_console_without_an_output(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    with open("/dev/full", "w") as full:
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
        if full.buffer:
            full.detach()


def test_text_is_written_line_by_line_whole_and_with_escapes() -> None:
    read, write = os.pipe()
    stream = Unfailing(write, "ascii")
    print("one", "two →", file=stream)
    print("half", end="", file=stream)
    assert os.read(read, 1000) == b"one two \\u2192\n"
    stream.flush()
    assert os.read(read, 1000) == b"half"
    os.close(read)
    print("nobody reads this", file=stream)
    os.close(write)
    print("nor this", file=stream)
