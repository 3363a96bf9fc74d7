"""What is printed for a person: a line that cannot be printed costs a run nothing.

A terminal is closed, ``| head`` has seen enough, the ``tee`` that also got the ctrl-C is gone, a log's disk is full:
the text is dropped, and the program goes on.
"""

import io
import os
import select
import sys
from typing import Any, TextIO

from sources.text import visible

_WAIT_S = 1.0
"""Seconds to wait for a pipe that is full."""


def put(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print to ``file``, by default standard output, at once, or not at all."""
    file = sys.stdout if file is None else file
    try:
        print(text, end=end, file=file, flush=True)
    except UnicodeEncodeError as error:
        put(text.encode(error.encoding, "backslashreplace").decode(error.encoding), file, end)
    except (OSError, ValueError):  # ValueError: a file that is closed
        return


def put_error(text: str) -> None:
    """Print to standard error, at once, or not at all; control characters are shown, not sent to the terminal."""
    if sys.stderr is not None:
        put(visible(text), sys.stderr)


class _Descriptor(io.FileIO):
    """A descriptor of which writing never fails, not even when the interpreter ends: the rest is dropped."""

    def write(self, content: Any) -> int:
        """All of ``content``, or as much as is taken."""
        left = memoryview(content)
        try:
            while left:
                try:
                    left = left[os.write(self.fileno(), left) :]
                except BlockingIOError:
                    if not select.select([], [self], [], _WAIT_S)[1]:
                        break
        except (OSError, ValueError):
            pass
        return len(content)


def unfailing(descriptor: int, encoding: str = "utf-8") -> TextIO:
    """A text stream to such a descriptor, line by line; what the encoding lacks is written as an escape."""
    raw: Any = _Descriptor(descriptor, "wb", closefd=False)
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=True)


def never_fail() -> None:
    """Make standard output and error such streams; called once, when a program begins."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the next file that is opened would be taken for it
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) or stream is None:
            descriptor, encoding = {"stdout": 1, "stderr": 2}[name], getattr(stream, "encoding", "utf-8")
            setattr(sys, name, unfailing(descriptor, encoding))
