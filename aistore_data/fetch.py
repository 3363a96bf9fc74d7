"""Many GETs at a time from one thread, received straight into the memory where the bytes belong.

A loop over epoll: connections are kept, requests to a host and in all are bounded, and each has a deadline. What is to
be asked is decided when there is room for it (``begin``), and what an answer means when it has come (``done``).
"""

import errno
import heapq
import itertools
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from aistore_data.connection import SCRATCH_BYTES, Connection, Get
from aistore_data.credentials import tls_context
from aistore_data.errors import ObjectError
from aistore_data.http_reader import Access

PER_HOST = 8
"""Requests to one host at a time, of one process."""

TOTAL = 32
"""Requests at a time, of one process."""

_AWAY_S = 0.25
"""A process that did not listen for longer was stopped or busy: no server is late for that."""

_REDIRECTS = (301, 302, 307, 308)


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
        self._idle: dict[str, list[Connection]] = {}
        self._busy: dict[int, tuple[Connection, T]] = {}
        self._queues: dict[str, deque[T]] = {}
        self._ready: dict[str, None] = {}  # hosts with something queued and room for it, in turn
        self._active: dict[str, int] = {}
        self._addresses: dict[str, list[tuple[int, tuple[object, ...]]]] = {}
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
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
        connection.ask(get, token, redirects)
        self._busy[connection.fd] = (connection, task)
        self._active[get.host] = self._active.get(get.host, 0) + 1
        if connection.connected:
            self._advance(connection, task, finished)

    def _connect(self, host: str) -> Connection:
        family, address = self._resolve(host)
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(code, f"{host}: {errno.errorcode.get(code, code)}")
        self._poll.register(sock.fileno(), select.EPOLLOUT)
        return Connection(sock, host, self._tls)

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

    def _advance(self, connection: Connection, task: T, finished: list[tuple[T, Get]]) -> None:
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

    def _again(self, was: Connection, task: T, finished: list[tuple[T, Get]], redirects: int = 0) -> None:
        """Send what ``was`` carried once more, to where its ``get`` says now; ``redirects`` more have led there."""
        was.get.body.clear()
        was.get.took_s += time.monotonic()
        self._start(task, was.get, finished, was.redirects + redirects)

    def _finish(self, task: T, get: Get, error: ObjectError | OSError | None, finished: list[tuple[T, Get]]) -> None:
        get.error = error
        get.took_s += time.monotonic()
        finished.append((task, get))

    def _release(self, connection: Connection, keep: bool) -> None:
        """The connection's request is over."""
        del self._busy[connection.fd]
        self._active[connection.host] -= 1
        self._note(connection.host)
        if keep:
            connection.reused = True
            self._idle.setdefault(connection.host, []).append(connection)
        else:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._poll.unregister(connection.fd)
        connection.sock.close()
