"""One answer: what a GET asks for, and its bytes as they come, put where they belong.

What is not HTTP to the letter, is longer than it may be, or may belong to another request is an error, never a sample.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from aistore_data.client.access import server_message
from aistore_data.client.credentials import Token
from aistore_data.client.http_head import Chunks, Head, parse_head
from etl.request import PROOF_BYTES, label, proof
from sources.errors import ObjectError, out_of_step

MOST_BYTES = 1 << 28
"""The most bytes of an answer whose length the caller does not know."""

_ERROR_BYTES = 1 << 16
"""The bytes that are read of the body of an error."""
_HEAD_BYTES = 1 << 16
_INTERIM = 5
"""Answers 1xx that may come before the one."""


@dataclass(slots=True)
class Get:
    """A GET and what came of it: ``error``, or the body in ``row``, which it fills exactly, or else in ``body``."""

    path: str
    host: str
    timeout_s: float
    """Seconds until the answer must be complete, redirects included."""
    row: memoryview | None = None
    stated: bytes | None = None
    """``etl.request.statement`` of a request whose answer has a proof of it."""
    most: int = MOST_BYTES
    """The most bytes of the body, without the proof, if there is no row to read it into."""
    check: "Callable[[Get], str] | None" = None
    """What shows that an answer is that to another request, or ""; of one that is not refused."""
    part: tuple[int, int] | None = None
    """The first byte of the object that is wanted and the one behind the last; the answer is then 206 and not 200."""
    fresh: bool = False
    """Whether it takes new connections, on which nothing has been before."""
    follow: bool = True
    """Whether a redirect is followed; else it is the answer, and ``host`` and ``path`` say where it leads."""
    connect_timeout_s: float = math.inf
    least_rate: float = 0.0
    """Bytes/s: ``timeout_s`` is longer by the time that what has come takes at this rate; 0: it is not."""
    body: bytearray = field(default_factory=bytearray)
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    """The headers by their names in lower case."""
    error: ObjectError | OSError | None = None
    took_s: float = 0.0
    deadline: float = 0.0
    """The time by which it must be complete, by ``time.monotonic``; 0 before the request has begun."""


class Lead(NamedTuple):
    """What came before the content of an answer into a row: most often the next one begins with the same bytes."""

    text: bytes
    """The head, and the first chunk's line."""
    head: Head
    total: int
    """Bytes of the row and the proof."""
    first: int
    """Bytes of the content that follow, or of its first chunk, and have room in the row."""
    left: int
    """Bytes to the end of the body, or of its first chunk."""


class Answer:
    """The answer that is being received, without the socket that it comes by."""

    __slots__ = (
        *("chunks", "get", "head", "interim", "keep", "label", "lead", "left", "proof", "received", "rest", "room"),
        *("seen", "status", "surplus", "to_close", "total", "wanted"),
    )

    def __init__(self) -> None:
        self.lead: Lead | None = None  # with which the next answer probably begins, as the last two did
        self.seen: Lead | None = None

    def expect(self, get: Get) -> None:
        """What comes from now on is the answer to ``get``."""
        self.get = get
        self.wanted = 200 if get.part is None else 206
        self.keep = self.surplus = self.to_close = False
        self.head: Head | None = None
        self.label: bytes | None = None
        self.chunks: Chunks | None = None
        self.rest = self.proof = b""
        self.status = self.interim = 0
        self.received = 0  # bytes of the body, with the proof, of which the answer has ``total`` at most
        self.left = 0  # bytes to the end of the body, or of the chunk
        self.room = 0 if get.row is None else len(get.row)
        self.total = (get.most if get.row is None else self.room) + (0 if get.stated is None else PROOF_BYTES)

    def problem(self, token: Token) -> ObjectError | None:
        """What is wrong with the complete answer, without the token."""
        get = self.get
        if self.status != self.wanted:
            return ObjectError(self.status, token.hide(server_message(bytes(get.body))))
        if get.row is not None and self.received != self.total:
            return ObjectError(200, f"the answer ended after {self.received} of {self.total} bytes")
        if get.stated is not None:
            if get.row is None:
                self.proof = bytes(get.body[-PROOF_BYTES:])
                del get.body[-PROOF_BYTES:]
            if proof(get.stated, get.body if get.row is None else get.row) != self.proof:
                return out_of_step("the answer is one to another request")
            if self.label is not None and self.label != label(get.stated):
                return out_of_step("the answer is one for another sample")
        elif self.surplus:  # one of two answers, and who knows to what
            return out_of_step("more has come than the answer")
        if get.check is not None and (found := get.check(get)):
            return out_of_step(found)
        return None

    def _have_in_place(self, count: int, room: int, after: memoryview) -> bool:
        """Of ``count`` received bytes of the body, the first ``room`` lie in the row and the others in ``after``."""
        size = count if count < room else room
        self.received += size
        self.left -= size
        count -= size
        if self.chunks is not None:
            return self._take(after[:count]) if count else False
        if count and count == self.left:  # the proof, as it should be
            self.left = 0
            self.received += count
            self.proof += after[:count]
            return True
        return self._take_known(after[:count]) if count else self.left == 0

    def _see(self, text: bytes) -> None:
        """Note how an answer began; two that began alike are probably followed by a third one."""
        head = self.head
        if head is None or self.status != self.wanted or self.label is not None or self.interim or not self.left:
            return
        lead = Lead(text, head, self.total, min(self.left, self.room), self.left)
        self.lead = lead if lead == self.seen else None
        self.seen = lead

    def _take(self, data: memoryview) -> bool:
        """Use what has come; keep what cannot be used yet. Whether the answer is complete."""
        at = begun = 0
        while self.head is None:
            text = bytes(data[at : at + _HEAD_BYTES + 4])
            end = text.find(b"\r\n\r\n")
            if end < 0:
                if len(text) > _HEAD_BYTES:
                    raise ObjectError(0, "the answer has no head: this is not an HTTP server")
                self.rest = bytes(data[at:])
                return False
            self._begin(text[:end])
            begun = at = at + end + 4
        self.rest = b""
        if self.chunks is None:
            if begun and self.room:
                self._see(bytes(data[:begun]))
            return self._take_known(data[at:])
        while True:
            if self.left:
                piece = data[at : at + self.left]
                self._keep(piece)
                self.left -= len(piece)
                at += len(piece)
                if self.left:
                    return self._is_enough()
            size, at = self.chunks.next(data, at)
            if size is None:
                self.rest = bytes(data[at:])
                return self._is_enough()
            if size == 0:
                self.surplus = at < len(data)
                return True
            self._allow(self.received + size)
            self.left = size
            if begun and self.room:
                self._see(bytes(data[:at]))
            begun = 0

    def _take_known(self, data: memoryview) -> bool:
        if len(data) > self.left:
            self.surplus = True
            data = data[: self.left]
        self._keep(data)
        self.left -= len(data)
        return self.left == 0 or self._is_enough()

    def _begin(self, text: bytes) -> None:
        """Read the head of an answer; one of 1xx is followed by another."""
        head, self.label = parse_head(text)
        if head.status < 200:
            self.interim += 1
            if self.interim > _INTERIM or head.status == 101 or head.chunked or head.length:
                raise ObjectError(head.status, "the answer is none")
            return
        self.head, self.status, self.keep = head, head.status, head.keep
        self.get.headers = head.headers
        if head.status == 200 and self.wanted == 206:
            raise out_of_step("the answer is the whole object, and not the part that was asked for")
        if head.chunked:
            self.chunks = Chunks(head.status)
            return
        self.to_close = head.length is None and head.status >= 400  # an error's words are not worth more care
        if head.length is None and not self.to_close:
            raise ObjectError(self.status, "the answer does not say how long it is")
        self.keep = self.keep and not self.to_close
        self.left = _ERROR_BYTES + 1 if head.length is None else head.length
        if self.status == self.wanted:
            if self.get.row is not None and head.length != self.total:
                raise out_of_step(f"the answer is of {head.length} bytes, not of {self.total}")
            self._allow(self.left)

    def _allow(self, length: int) -> None:
        """Raises ObjectError for a body of so many bytes, or more, if that is more than it may have."""
        if length > self.total and self.status == self.wanted:
            raise out_of_step(f"the answer is longer than the expected {self.total} bytes")

    def _is_enough(self) -> bool:
        """Whether the rest is not wanted: an error has been told at length."""
        if self.status == self.wanted or self.received < _ERROR_BYTES:
            return False
        self.keep = False
        return True

    def _keep(self, piece: memoryview) -> None:
        get = self.get
        if self.status != self.wanted or get.row is None:
            get.body += piece
            self.received += len(piece)
            return
        begin = self.received
        self.received = end = begin + len(piece)
        if end <= self.room:
            get.row[begin:end] = piece
            return
        room = max(0, self.room - begin)
        get.row[begin : begin + room] = piece[:room]
        self.proof += piece[room:]
