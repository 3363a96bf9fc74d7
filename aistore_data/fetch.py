"""Many GETs at a time from one thread, received straight into the memory where the bytes belong.

A loop over epoll: connections are kept, requests to a host and in all are bounded, and each has a deadline. What is to
be asked is decided when there is room for it (``begin``), and what an answer means when it has come (``done``).
"""

import errno
import heapq
import itertools
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from aistore_data.credentials import Token, tls_context
from aistore_data.errors import ObjectError
from aistore_data.http_reader import Access, server_message

PER_HOST = 8
"""Requests to one host at a time, of one process."""

TOTAL = 32
"""Requests at a time, of one process."""

_AWAY_S = 0.25
"""A process that did not listen for longer was stopped or busy: no server is late for that."""

_REDIRECTS = (301, 302, 307, 308)
_SCRATCH_BYTES = 1 << 18
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


class Task(Protocol):
    """Something that takes one GET after the other until it is done."""

    host: str
    """Where its next request goes."""


T = TypeVar("T", bound=Task)


class Fetcher(Generic[T]):
    """The connections of one process. Not for two threads, nor for a forked child."""

    def __init__(self, access: Access, per_host: int = PER_HOST, total: int = TOTAL) -> None:
        self._access = access
        self._tls = tls_context() if urlsplit(access.endpoint).scheme == "https" else None
        self._token = access.credentials()
        self._per_host, self._total = per_host, total
        self._poll = select.epoll()
        self._idle: dict[str, list[_Connection]] = {}
        self._busy: dict[int, tuple[_Connection, T]] = {}
        self._queues: dict[str, deque[T]] = {}
        self._ready: dict[str, None] = {}  # hosts with something queued and room for it, in turn
        self._active: dict[str, int] = {}
        self._addresses: dict[str, list[tuple[int, tuple[object, ...]]]] = {}
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._listened = 0.0
        self.proxy = urlsplit(access.endpoint).netloc

    def run(self, tasks: Iterable[T], begin: Callable[[T], Get], done: Callable[[T, Get], float | None]) -> None:
        """Work on all tasks until each is done.

        ``begin`` answers a task's next request. ``done`` is told its outcome, and answers None, or in how many seconds
        the task goes on. What they raise ends the work on all.
        """
        source, queued, later = iter(tasks), 0, list[tuple[float, int, T]]()
        order, exhausted = itertools.count(), False
        self._listened = time.monotonic()
        try:
            while True:
                now = time.monotonic()
                while later and later[0][0] <= now:
                    self._enqueue(heapq.heappop(later)[2])
                    queued += 1
                while not exhausted and queued + len(self._busy) < self._total:
                    task = next(source, None)
                    if task is None:
                        exhausted = True
                    else:
                        self._enqueue(task)
                        queued += 1
                finished: list[tuple[T, Get]] = []
                for task in self._startable():
                    queued -= 1
                    self._start(task, begin(task), finished)
                if exhausted and not (queued or self._busy or later or finished):
                    return
                self._wait(later[0][0] if later else None, finished)
                for task, get in finished:
                    delay = done(task, get)
                    if delay is not None:
                        heapq.heappush(later, (time.monotonic() + delay, next(order), task))
        finally:
            self._queues.clear()
            self._ready.clear()
            for connection, _ in list(self._busy.values()):
                self._release(connection, keep=False)

    def close(self) -> None:
        """Close all connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.sock.close()
        self._idle.clear()
        self._poll.close()

    def _enqueue(self, task: T) -> None:
        self._queues.setdefault(task.host, deque()).append(task)
        self._note(task.host)

    def _startable(self) -> Iterator[T]:
        """Tasks for which there is room, one of each host in turn."""
        while self._ready and len(self._busy) < self._total:
            host = next(iter(self._ready))
            del self._ready[host]
            yield self._queues[host].popleft()
            self._note(host)

    def _note(self, host: str) -> None:
        """Whether a task waits for this host that may start."""
        if self._queues.get(host) and self._active.get(host, 0) < self._per_host:
            self._ready[host] = None

    def _start(self, task: T, get: Get, finished: list[tuple[T, Get]], redirects: int = 0) -> None:
        """Send a request on a kept connection, or on a new one."""
        get.took_s -= time.monotonic()
        idle = self._idle.get(get.host)
        try:
            connection = idle.pop() if idle else self._connect(get.host)
        except OSError as error:
            self._finish(task, get, error, finished)
            return
        token = self._token.current()
        connection.ask(get, _request(get, token), token, redirects)
        self._busy[connection.fd] = (connection, task)
        self._active[get.host] = self._active.get(get.host, 0) + 1
        if connection.connected:
            self._advance(connection, task, finished)

    def _connect(self, host: str) -> "_Connection":
        family, address = self._resolve(host)
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(code, f"{host}: {errno.errorcode.get(code, code)}")
        self._poll.register(sock.fileno(), select.EPOLLOUT)
        return _Connection(sock, host, self._tls)

    def _resolve(self, host: str) -> tuple[int, tuple[object, ...]]:
        """The address of a host; the last known one where it cannot be looked up any more."""
        if host not in self._addresses:
            parts = urlsplit(f"//{host}")
            port = parts.port or (443 if self._tls else 80)
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
            self._addresses[host] = [(family, address) for family, _, _, _, address in found]
        addresses = self._addresses[host]
        addresses.append(addresses.pop(0))  # the next one, the next time
        return addresses[-1]

    def _wait(self, until: float | None, finished: list[tuple[T, Get]]) -> None:
        """Handle what happens until something has finished, a deadline is over, or it is time for something else."""
        while not finished:
            now = time.monotonic()
            deadlines = [connection.deadline for connection, _ in self._busy.values()]
            end = min([*deadlines, *([until] if until is not None else [])], default=now)
            wait_s = max(0.0, end - now)
            events = self._poll.poll(wait_s)
            woken = time.monotonic()
            suspended = woken - now > wait_s + _AWAY_S  # when within the wait, nobody knows: maybe all along
            self._excuse((woken if suspended else now) - self._listened, woken)
            self._listened = woken
            for fd, _ in events:
                if fd in self._busy:
                    connection, task = self._busy[fd]
                    self._advance(connection, task, finished)
                else:
                    self._forget_idle(fd)
            now = time.monotonic()
            if not events:
                for connection, task in [pair for pair in self._busy.values() if pair[0].deadline <= now]:
                    get = connection.get
                    self._release(connection, keep=False)
                    what = "no answer" if connection.connected else "no connection"
                    self._finish(task, get, TimeoutError(f"{what} within {get.timeout_s:g} s"), finished)
            if (until is not None and now >= until) or (not self._busy and until is None):
                return
            if self._ready and len(self._busy) < self._total:
                return

    def _excuse(self, away_s: float, now: float) -> None:
        """Give answers the time in which this process could not have taken them: it was suspended, or busy."""
        if away_s > _AWAY_S:
            for connection, _ in self._busy.values():
                began = connection.deadline - connection.get.timeout_s
                lost_s = min(away_s, now - began)
                connection.deadline += lost_s
                connection.get.took_s -= lost_s

    def _forget_idle(self, fd: int) -> None:
        """An idle connection that says something has been closed by the server."""
        for connections in self._idle.values():
            for connection in connections:
                if connection.fd == fd:
                    connections.remove(connection)
                    self._close(connection)
                    return

    def _advance(self, connection: "_Connection", task: T, finished: list[tuple[T, Get]]) -> None:
        """Send and receive what can be; hand over what is complete."""
        get = connection.get
        try:
            complete = connection.advance(self._poll, self._scratch)
        except (OSError, ObjectError) as error:
            self._release(connection, keep=False)
            if connection.reused and not connection.heard and not isinstance(error, ObjectError):
                self._again(connection, task, finished)  # closed meanwhile, as servers do after some idle seconds
                return
            self._finish(task, get, error, finished)
            return
        if not complete:
            return
        self._release(connection, keep=connection.keep)
        if connection.status in _REDIRECTS and connection.redirects < 4:
            location = urlsplit(connection.headers.get("location", ""))
            get.host, get.path = location.netloc or get.host, f"{location.path}?{location.query}"
            self._again(connection, task, finished, redirects=1)
            return
        if connection.status == 401 and self._token.current() != connection.token:  # it was replaced meanwhile
            self._again(connection, task, finished)
            return
        get.headers = connection.headers
        self._finish(task, get, connection.problem(self._token), finished)

    def _again(self, was: "_Connection", task: T, finished: list[tuple[T, Get]], redirects: int = 0) -> None:
        """Send what ``was`` carried once more, to where its ``get`` says now; ``redirects`` more have led there."""
        was.get.body.clear()
        was.get.took_s += time.monotonic()
        self._start(task, was.get, finished, was.redirects + redirects)

    def _finish(self, task: T, get: Get, error: ObjectError | OSError | None, finished: list[tuple[T, Get]]) -> None:
        get.error = error
        get.took_s += time.monotonic()
        finished.append((task, get))

    def _release(self, connection: "_Connection", keep: bool) -> None:
        """The connection's request is over."""
        del self._busy[connection.fd]
        self._active[connection.host] -= 1
        self._note(connection.host)
        if keep:
            connection.reused = True
            self._idle.setdefault(connection.host, []).append(connection)
        else:
            self._close(connection)

    def _close(self, connection: "_Connection") -> None:
        self._poll.unregister(connection.fd)
        connection.sock.close()


def _request(get: Get, token: str) -> bytes:
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    head = f"GET {get.path} HTTP/1.1\r\nHost: {get.host}\r\n{authorization}Accept-Encoding: identity\r\n\r\n"
    return head.encode()


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


class _Connection:
    """A connection and the answer that it is receiving."""

    def __init__(self, sock: socket.socket, host: str, tls: ssl.SSLContext | None) -> None:
        self.sock, self.host, self.fd = sock, host, sock.fileno()
        self.tls = tls
        self.connected = False
        self.reused = False
        self.watched = select.EPOLLOUT

    def ask(self, get: Get, request: bytes, token: str, redirects: int) -> None:
        """Begin a request, which was made with ``token``."""
        self.get, self.token, self.redirects = get, token, redirects
        self.deadline = time.monotonic() + get.timeout_s
        self.unsent = memoryview(request)
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
