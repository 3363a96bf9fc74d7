"""The chunks of an HTTP answer: ``SIZE CRLF data CRLF … 0 CRLF CRLF``, to the letter."""

import re

from sources.errors import ObjectError

_LONGEST = 64
"""Bytes of the line before a chunk."""

_FIRST = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t -~]{0,40})?\r\n").match
_NEXT = re.compile(rb"\r\n([0-9A-Fa-f]{1,8})(?:;[\t -~]{0,40})?\r\n").match


class Chunks:
    """Reads the lines between the data of an answer with ``status``; ``begun``: that before the first has been read."""

    __slots__ = ("_begun", "_status")

    def __init__(self, status: int, begun: bool = False) -> None:
        self._status = status
        self._begun = begun

    def next(self, data: memoryview, at: int) -> tuple[int | None, int]:
        """(size of the next chunk, where its data begin); size 0 after the last one, None if more must come first.

        Raises ObjectError for what is no chunk.
        """
        match = (_NEXT if self._begun else _FIRST)(data, at)
        if match is None:
            self._want_more(bytes(data[at : at + _LONGEST]))
            return None, at
        size, end = int(match[1], 16), match.end()
        if size:
            self._begun = True
            return size, end
        last = bytes(data[end : end + 2])
        if last == b"\r\n":
            return 0, end + 2
        if b"\r\n".startswith(last):
            return None, at
        raise self._wrong()  # trailers too: nobody asked for them

    def _want_more(self, line: bytes) -> None:
        """Raises ObjectError unless ``line`` may be the beginning of one that is right."""
        lead = b"\r\n" if self._begun else b""
        if len(line) >= _LONGEST or not line.startswith(lead[: len(line)]):
            raise self._wrong()
        line = line[len(lead) :]
        if line and not re.fullmatch(rb"[0-9A-Fa-f]{1,8}(?:;[\t -~]{0,40})?\r?", line):
            raise self._wrong()

    def _wrong(self) -> ObjectError:
        return ObjectError(self._status, "the answer's chunks are not those of HTTP")
