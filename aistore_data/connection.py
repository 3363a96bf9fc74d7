"""One kept connection: a GET goes out, and its answer comes straight into the memory where its bytes belong.

Nothing here waits: what can be sent or received now is, and whoever polls says when to go on.
"""

import errno
import select
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

from aistore_data.credentials import Token
from aistore_data.errors import ObjectError
from aistore_data.http_reader import server_message

SCRATCH_BYTES = 1 << 18
"""Of the memory that a caller lends for what cannot go where it belongs at once."""

_ERROR_BYTES = 1 << 16
_HEAD_BYTES = 512
_AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(slots=True)
class Get:
    """A GET and what came of it: ``error``, or the body in ``row``, which it fills exactly, or else in ``body``."""

    path: str
    host: str
    timeout_s: float
    row: memoryview | None = None
    body: bytearray = field(default_factory=bytearray)
    headers: Mapping[str, str] = field(default_factory=dict)
    error: ObjectError | OSError | None = None
    took_s: float = 0.0


class Connection:
    """A connection and the answer that it is receiving."""

    def __init__(self, sock: socket.socket, host: str, tls: ssl.SSLContext | None) -> None:
        self.sock, self.host, self.fd = sock, host, sock.fileno()
        self.tls = tls
        self.connected = False
        self.reused = False
        self.watched = select.EPOLLOUT

    def ask(self, get: Get, token: str, redirects: int) -> None:
        """Begin a request with ``token``, to which ``redirects`` redirects have led."""
        self.get, self.token, self.redirects = get, token, redirects
        self.deadline = time.monotonic() + get.timeout_s
        self.unsent = memoryview(_request(get, token))
        self.heard = False
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.rest = b""
        self.received = 0
        self.left: int | None = None  # bytes to the end of the body, or of the chunk
        self.chunked = False
        self.keep = False

    def advance(self, poll: select.epoll, scratch: memoryview) -> bool:
        """Whether the answer is complete. Raises OSError, or ObjectError for an answer that is none."""
        if not self.connected and not self._finish_connecting(poll):
            return False
        if self.unsent:
            with suppress(*_AGAIN):
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
            self._watch(poll, select.EPOLLIN | select.EPOLLOUT if self.unsent else select.EPOLLIN)
            return False  # what there is to send or to receive now, epoll tells
        while True:
            start = len(self.rest)
            direct = self._row_for_all_that_is_left() if not start else None
            # Of what comes with the head little, so that most of a body of known length needs no copy.
            end = start + _HEAD_BYTES if self.left is None and not self.chunked else len(scratch)
            try:
                count = self.sock.recv_into(direct if direct is not None else scratch[start:end])
            except _AGAIN:
                return False
            if count == 0:
                raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection before its answer ended")
            self.heard = True
            if direct is not None:
                assert self.left is not None
                self.received += count
                self.left -= count
                if self.left == 0:
                    return True
                continue
            scratch[:start] = self.rest
            if self._take(scratch[: start + count]):
                return True

    def problem(self, token: Token) -> ObjectError | None:
        """What is wrong with the complete answer, without the token."""
        if self.status != 200:
            return ObjectError(self.status, token.hide(server_message(bytes(self.get.body))))
        if self.get.row is not None and self.received != len(self.get.row):
            return ObjectError(200, f"the answer ended after {self.received} of {len(self.get.row)} bytes")
        return None

    def _watch(self, poll: select.epoll, events: int) -> None:
        if events != self.watched:
            poll.modify(self.fd, events)
            self.watched = events

    def _finish_connecting(self, poll: select.epoll) -> bool:
        if code := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, f"{self.host}: {errno.errorcode.get(code, code)}")
        if self._is_connecting():
            return False
        if self.tls and not isinstance(self.sock, ssl.SSLSocket):  # its descriptor stays the same
            name = urlsplit(f"//{self.host}").hostname
            self.sock = self.tls.wrap_socket(self.sock, server_hostname=name, do_handshake_on_connect=False)
        if isinstance(self.sock, ssl.SSLSocket):
            try:
                self.sock.do_handshake()
            except ssl.SSLWantReadError:
                self._watch(poll, select.EPOLLIN)
                return False
            except ssl.SSLWantWriteError:
                self._watch(poll, select.EPOLLOUT)
                return False
        self.connected = True
        self._watch(poll, select.EPOLLIN)
        return True

    def _is_connecting(self) -> bool:
        try:
            self.sock.getpeername()
        except OSError:
            return True
        return False

    def _row_for_all_that_is_left(self) -> memoryview | None:
        """Where the rest of a body of known length goes, without a copy."""
        if self.get.row is None or self.status != 200 or self.chunked or not self.left:
            return None
        return self.get.row[self.received : self.received + self.left]

    def _take(self, data: memoryview) -> bool:
        """Use what has come; keep what cannot be used yet. Whether the answer is complete."""
        at = 0
        if self.left is None and not self.chunked:
            text = bytes(data)
            end = text.find(b"\r\n\r\n")
            if end < 0:
                if len(text) > _ERROR_BYTES:
                    raise ObjectError(0, "the answer has no head: this is no HTTP server")
                self.rest = text
                return False
            self._read_head(text[:end])
            at = end + 4
        self.rest = b""
        if not self.chunked:
            assert self.left is not None
            if len(data) - at > self.left:
                raise ObjectError(self.status, "the answer is longer than it says")
            self._keep(data[at:])
            self.left -= len(data) - at
            return self.left == 0
        return self._take_chunks(data, at)

    def _take_chunks(self, data: memoryview, at: int) -> bool:
        while True:
            if self.left:
                piece = data[at : at + self.left]
                self._keep(piece)
                self.left -= len(piece)
                at += len(piece)
                if self.left:
                    return False
            head = bytes(data[at : at + 32])
            begin = 0 if self.left is None else 2  # the line end after a chunk
            end = head.find(b"\r\n", begin)
            if end < 0:
                if len(head) >= 32:
                    raise ObjectError(self.status, "the answer's chunks are not those of HTTP")
                self.rest = bytes(data[at:])
                return False
            try:
                size = int(head[begin:end].split(b";")[0], 16)
            except ValueError:
                raise ObjectError(self.status, "the answer's chunks are not those of HTTP") from None
            if size == 0:
                if len(data) < at + end + 4:
                    self.rest = bytes(data[at:])
                    return False
                return True
            self.left = size
            at += end + 2

    def _read_head(self, text: bytes) -> None:
        self.status, self.headers, self.keep, self.chunked, length = _parse_head(text)
        if not self.chunked:
            if length is None:
                raise ObjectError(self.status, "the answer does not say how long it is")
            self.left = length
            row = self.get.row
            if self.status == 200 and row is not None and length != len(row):
                raise ObjectError(200, f"the answer is of {length} bytes, not of {len(row)}")

    def _keep(self, piece: memoryview) -> None:
        get = self.get
        if self.status != 200:
            get.body += piece[: max(0, _ERROR_BYTES - len(get.body))]
        elif get.row is None:
            get.body += piece
        else:
            end = self.received + len(piece)
            if end > len(get.row):
                raise ObjectError(200, f"the answer is longer than the expected {len(get.row)} bytes")
            get.row[self.received : end] = piece
        self.received += len(piece)


class _Head(NamedTuple):
    """What the head of an answer says."""

    status: int
    headers: Mapping[str, str]
    keep: bool
    chunked: bool
    length: int | None


@lru_cache(maxsize=64)  # a server's answers to one sort of request have the same head, within a second
def _parse_head(text: bytes) -> _Head:
    first, *lines = text.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise ObjectError(0, "the answer has no head: this is no HTTP server")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = headers.get("content-length", "")
    return _Head(
        int(words[1]),
        MappingProxyType(headers),
        words[0] != "HTTP/1.0" and headers.get("connection", "").lower() != "close",
        "chunked" in headers.get("transfer-encoding", "").lower(),
        int(length) if length.isdecimal() else None,
    )


def _request(get: Get, token: str) -> bytes:
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"GET {get.path} HTTP/1.1\r\nHost: {get.host}\r\n{authorization}Accept-Encoding: identity\r\n\r\n"
    return head.encode()
