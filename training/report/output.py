"""What is printed for a person: a line that cannot be printed costs a run nothing.

A terminal is closed, ``| head`` has seen enough, the ``tee`` that also got the ctrl-C is gone, a log's disk is full:
the text is dropped, and the program goes on.
"""

import io
import os
import select
import sys
from typing import TextIO

from sources.text import visible

_WAIT_S = 1.0
"""For a pipe that takes nothing now and is not to be waited for."""


def put(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print to ``file``, by default standard output, at once, or not at all."""
    file = sys.stdout if file is None else file
    try:
        print(text, end=end, file=file, flush=True)
    except UnicodeEncodeError as error:
        put(text.encode(error.encoding, "backslashreplace").decode(error.encoding), file, end)
    except (OSError, ValueError):  # ValueError: a file that is closed
        return


def put_error(text: str, end: str = "\n") -> None:
    """Print to standard error, at once, or not at all; control characters are shown, not sent to the terminal."""
    if sys.stderr is not None:
        put(visible(text), sys.stderr, end)


class Unfailing(io.TextIOBase):
    """A text stream to a descriptor of which writing never fails, not even when the interpreter ends."""

    def __init__(self, descriptor: int, encoding: str = "utf-8") -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._line = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """By which text becomes bytes; what it lacks is written as an escape."""
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What becomes of characters that the encoding lacks."""
        return "backslashreplace"

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Keep what does not end a line until it is flushed."""
        self._line += text
        if "\n" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what was kept, or drop it."""
        content, self._line = self._line.encode(self._encoding, "backslashreplace"), ""
        try:
            while content:
                try:
                    content = content[os.write(self._descriptor, content) :]
                except BlockingIOError:
                    if not select.select([], [self._descriptor], [], _WAIT_S)[1]:
                        return
        except (OSError, ValueError):
            return


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
            setattr(sys, name, Unfailing(descriptor, encoding))
