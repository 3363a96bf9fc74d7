"""Many GETs at a time from one thread, received straight into the memory where the bytes belong.

A loop over epoll: connections are kept, requests to a host and in all are bounded, and each has a deadline. What is to
be asked is decided when there is room for it (``begin``), and what an answer means when it has come (``done``).

A connection is used again only if its former answers were what was asked for, and if nothing lies in it unread. Before
requests whose answers are proved that is looked at once for all, as a proof shows whatever comes later; before others
each time. The token goes to the cluster's own hosts alone, wherever a redirect leads.
"""

import heapq
import itertools
import math
import select
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from aistore_data.client.access import Access
from aistore_data.client.addresses import Addresses
from aistore_data.client.answer import Get
from aistore_data.client.connection import SCRATCH_BYTES, Connection
from aistore_data.client.credentials import tls_context
from aistore_data.client.http_head import parse_location
from sources.errors import ObjectError, out_of_step

PER_HOST = 8
"""Requests to one host at a time, of one process."""

TOTAL = 32
"""Requests at a time, of one process."""

_AWAY_S = 0.25
"""A process that did not listen for longer was stopped or busy: no server is late for that."""

_REDIRECTS = (301, 302, 307, 308)
_MOST_REDIRECTS = 4


class Task(Protocol):
    """Something that takes one GET after the other until it is done."""

    host: str
    """The host that its next request goes to."""


T = TypeVar("T", bound=Task)


class Fetcher(Generic[T]):
    """The connections of one process. Not for two threads, nor for a forked child.

    ``hosts`` are those of the cluster's nodes, ``host:port`` each: beside the endpoint, they alone see the token.
    """

    def __init__(self, access: Access, per_host: int = PER_HOST, total: int = TOTAL, hosts: Iterable[str] = ()) -> None:
        endpoint = urlsplit(access.endpoint)
        self._scheme = endpoint.scheme
        self._tls = tls_context() if endpoint.scheme == "https" else None
        self._token = access.credentials()
        self._per_host, self._total = per_host, total
        self._poll = select.epoll()
        self._idle = defaultdict[str, list[Connection]](list)
        self._busy: dict[int, tuple[Connection, T]] = {}
        self._queues = defaultdict[str, deque[T]](deque)
        self._ready: dict[str, None] = {}  # hosts with something queued and room for it, in turn
        self._active = defaultdict[str, int](int)
        self._addresses = Addresses(443 if self._tls else 80)
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._listened = 0.0
        self._soonest = math.inf  # no answer is due before
        self.reconnects = 0
        self.proxy = endpoint.netloc
        self._trusted = {spelt for host in (self.proxy, *hosts) for spelt in (host, host.lower())}

    def run(self, tasks: Iterable[T], begin: Callable[[T], Get], done: Callable[[T, Get], float | None]) -> None:
        """Work on all tasks until each is done.

        ``begin`` answers a task's next request. ``done`` is told its outcome, and answers None, or in how many seconds
        the task goes on. What they raise ends the work on all.
        """
        source, queued, later = iter(tasks), 0, list[tuple[float, int, T]]()
        order, exhausted = itertools.count(), False
        for fd, _ in self._poll.poll(0):  # since the last call
            self._forget_idle(fd)
        self._listened = time.monotonic()
        try:
            while True:
                while later and later[0][0] <= time.monotonic():
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

    def _enqueue(self, task: T) -> None:
        self._queues[task.host].append(task)
        if self._active[task.host] < self._per_host:
            self._ready[task.host] = None

    def _startable(self) -> Iterator[T]:
        """Tasks for which there is room, one of each host in turn."""
        while self._ready and len(self._busy) < self._total:
            host = next(iter(self._ready))
            del self._ready[host]
            queue = self._queues[host]
            yield queue.popleft()
            if queue and self._active[host] < self._per_host:
                self._ready[host] = None

    def _start(self, task: T, get: Get, finished: list[tuple[T, Get]], redirects: int = 0) -> None:
        """Send a request on a kept connection, or on a new one."""
        now = time.monotonic()
        get.took_s -= now
        get.deadline = get.deadline or now + get.timeout_s
        try:
            connection = None if get.fresh else self._kept(get.host, get.stated is not None)
            connection = connection or self._connect(get.host)
        except OSError as error:
            self._finish(task, get, error, finished)
            return
        connection.ask(get, self._token.current() if get.host in self._trusted else "", redirects)
        self._busy[connection.fd] = (connection, task)
        self._active[get.host] += 1
        if (due := get.deadline if connection.connected else connection.due()) < self._soonest:
            self._soonest = due
        if connection.connected:
            self._advance(connection, task, finished)

    def _kept(self, host: str, proved: bool) -> Connection | None:
        """A kept connection, and unless the answer will be ``proved`` one in which nothing lies; others are closed."""
        idle = self._idle.get(host)
        while idle:
            connection = idle.pop()
            if proved or connection.is_quiet():
                return connection
            self._close(connection)
        return None

    def _connect(self, host: str) -> Connection:
        sock, address = self._addresses.connect(host)
        self._poll.register(sock.fileno(), select.EPOLLOUT)
        return Connection(sock, host, address, self._tls)

    def _wait(self, until: float | None, finished: list[tuple[T, Get]]) -> None:
        """Handle what happens until something has finished, a deadline is over, or it is time for something else."""
        busy, now = self._busy, time.monotonic()
        while not finished:
            end = self._soonest if busy else math.inf
            if until is not None and until < end:
                end = until
            wait_s = max(0.0, end - now) if end < math.inf else 0.0
            events = self._poll.poll(wait_s)
            woken = time.monotonic()
            suspended = woken - now > wait_s + _AWAY_S  # when within the wait, nobody knows: maybe all along
            away_s = (woken if suspended else now) - self._listened
            if away_s > _AWAY_S:
                self._excuse(away_s, woken)
            self._listened = woken
            for fd, _ in events:
                pair = busy.get(fd)
                if pair is not None:
                    self._advance(*pair, finished)
                else:
                    self._forget_idle(fd)
            now = time.monotonic()
            if now >= self._soonest:
                self._give_up_late(now, finished)
            if (until is not None and now >= until) or (not busy and until is None):
                return
            if self._ready and len(busy) < self._total:
                return

    def _give_up_late(self, now: float, finished: list[tuple[T, Get]]) -> None:
        """End the requests whose deadlines are over."""
        for connection, task in [pair for pair in self._busy.values() if pair[0].due() <= now]:
            get = connection.get
            self._release(connection, keep=False)
            other = not connection.reached and self._addresses.failed(connection.host, connection.address)
            if other and now < get.deadline:
                self._again(connection, task, finished)
                continue
            what = "no answer" if connection.connected else "no connection"
            limit_s = get.timeout_s if connection.connected else min(get.timeout_s, get.connect_timeout_s)
            self._finish(task, get, TimeoutError(f"{what} within {limit_s:g} s"), finished)
        self._soonest = min((connection.due() for connection, _ in self._busy.values()), default=math.inf)

    def _excuse(self, away_s: float, now: float) -> None:
        """Give answers the time in which this process could not have taken them: it was suspended, or busy."""
        for connection, _ in self._busy.values():
            get = connection.get
            lost_s = min(away_s, now - (get.deadline - get.timeout_s))
            get.deadline += lost_s
            get.took_s -= lost_s
            connection.began += lost_s

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
        get, was_reached = connection.get, connection.reached
        try:
            complete = connection.advance(self._poll, self._scratch)
            if connection.reached and not was_reached:
                self._addresses.worked(connection.host)
        except (OSError, ObjectError) as error:
            self._release(connection, keep=False)
            if connection.reused and not connection.heard and not isinstance(error, ObjectError):
                self.reconnects += 1
                self._again(connection, task, finished)  # closed meanwhile, as servers do after some idle seconds
            elif not connection.reached and self._addresses.failed(connection.host, connection.address):
                self._again(connection, task, finished)
            else:
                self._finish(task, get, error, finished)
            return
        if complete:
            self._complete(connection, task, finished)

    def _complete(self, connection: Connection, task: T, finished: list[tuple[T, Get]]) -> None:
        """An answer has come: what it means, and what becomes of its connection."""
        get, target = connection.get, None
        problem: ObjectError | None = None
        if connection.status in _REDIRECTS and connection.redirects < _MOST_REDIRECTS:
            try:
                target = parse_location(get.headers.get("location", ""), self._scheme)
                problem = out_of_step("more has come than a redirect") if connection.surplus else None
            except ObjectError as error:
                problem = error
        else:
            problem = connection.problem(self._token)
        in_step = not connection.surplus and not (problem is not None and problem.out_of_step)
        self._release(connection, keep=connection.keep and in_step)
        get.status = connection.status
        if target is not None and problem is None:
            get.host, get.path = target[0] or get.host, target[1]
            if get.follow:
                self._again(connection, task, finished, redirects=1)
                return
        if connection.status == 401 and connection.token and self._token.renewed(connection.token):
            self._again(connection, task, finished)  # it was replaced meanwhile
            return
        self._finish(task, get, problem, finished)

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
        """Free the connection after its request is over."""
        host = connection.host
        del self._busy[connection.fd]
        self._active[host] = active = self._active[host] - 1
        if active < self._per_host and self._queues.get(host):
            self._ready[host] = None
        if keep:
            connection.reused = True
            self._idle[host].append(connection)
        else:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        self._poll.unregister(connection.fd)
        connection.sock.close()
