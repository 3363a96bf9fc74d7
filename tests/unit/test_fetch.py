"""Many GETs from one thread: every way in which an answer can come, or not."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from aistore_data.client.access import Access
from aistore_data.client.answer import Get
from aistore_data.client.fetch import Fetcher
from sources.errors import ObjectError

BODY = os.urandom(70_000)
LENGTH = f"Content-Length: {len(BODY)}\r\n\r\n".encode()


def chunked(body: bytes, sizes: list[int]) -> bytes:
    parts, at = [], 0
    while at < len(body):
        piece = body[at : at + sizes[len(parts) % len(sizes)]]
        parts.append(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        at += len(piece)
    return b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(parts) + b"0\r\n\r\n"


OK = b"HTTP/1.1 200 OK\r\n"
PAUSE = b"until the test says so"
ANSWERS: dict[str, list[bytes]] = {
    "/length": [OK + LENGTH + BODY],
    "/pieces": [(OK + LENGTH + BODY)[at : at + 997] for at in range(0, len(BODY) + 200, 997)],
    "/chunked": [OK + chunked(BODY, [32768])],
    "/chunks": [OK + chunked(BODY, [1, 2, 3, 4095, 17])],
    "/chunks-in-pieces": [
        whole[at : at + 13] for whole in [OK + chunked(BODY, [700, 5])] for at in range(0, len(whole), 13)
    ],
    "/close": [b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + LENGTH + BODY],
    "/http10": [b"HTTP/1.0 200 OK\r\n" + LENGTH + BODY],
    "/moved": [b"HTTP/1.1 301 Moved\r\nLocation: /length?a=b\r\nContent-Length: 3\r\n\r\nabc"],
    "/error": [b'HTTP/1.1 500 Oh\r\nContent-Length: 17\r\n\r\n{"message":"bad"}'],
    "/error-chunked": [b"HTTP/1.1 404 No\r\n" + chunked(b'{"message":"none"}', [5])],
    "/empty": [OK + b"Content-Length: 0\r\n\r\n"],
    "/short": [OK + chunked(BODY[:-1], [32768])],
    "/short-length": [OK + f"Content-Length: {len(BODY) - 1}\r\n\r\n".encode() + BODY[:-1]],
    "/long": [OK + chunked(BODY + b"x", [32768])],
    "/cut": [OK + LENGTH + BODY[:1000], b""],
    "/cut-chunk": [OK + chunked(BODY, [32768])[:40000], b""],
    "/nothing": [b""],
    "/no-http": [b"SSH-2.0-OpenSSH_9.2\r\n\r\n"],
    "/no-length": [OK + b"\r\n" + BODY],
    "/bad-chunk": [OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
    "/silent": [],
    "/when-asked": [(OK + LENGTH + BODY)[:1000], PAUSE, (OK + LENGTH + BODY)[1000:]],
    "/loop": [b"HTTP/1.1 301 Moved\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n"],
}
"""What is sent for a path, piece by piece; an empty piece closes the connection, ``PAUSE`` waits for ``Server.go_on``."""
GOOD = [
    *("/length", "/pieces", "/chunked", "/chunks", "/chunks-in-pieces", "/close", "/http10", "/moved"),
]
BAD: dict[str, type[Exception]] = {
    **dict.fromkeys(("/error", "/error-chunked", "/empty", "/short", "/short-length", "/long"), ObjectError),
    **dict.fromkeys(("/no-http", "/no-length", "/bad-chunk", "/loop"), ObjectError),
    **dict.fromkeys(("/cut", "/cut-chunk", "/nothing"), ConnectionResetError),
    "/silent": TimeoutError,
}


class Server:
    """Sends ``ANSWERS``; closes a connection after ``per_connection`` answers without saying so."""

    def __init__(self, per_connection: int = 1000) -> None:
        self.per_connection = per_connection
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.connections = self.most = self.now = 0
        self.lock, self.paused, self.go_on = threading.Lock(), threading.Event(), threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionResetError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = connection.makefile("rb")
            for _ in range(self.per_connection):
                path = reader.readline().split(b" ")[1:2]
                while reader.readline() not in (b"\r\n", b""):
                    pass
                if not path:
                    return
                with self.lock:
                    self.now += 1
                    self.most = max(self.most, self.now)
                pieces = ANSWERS[path[0].decode().partition("?")[0]]
                for piece in pieces:
                    if not piece:
                        return
                    if piece is PAUSE:
                        self.paused.set()
                        self.go_on.wait()
                        continue
                    connection.sendall(piece)
                    if len(pieces) > 1 and len(pieces) < 100:
                        time.sleep(0.001)
                with self.lock:
                    self.now -= 1
                if not pieces:
                    time.sleep(30)


class Task:
    def __init__(self, path: str, host: str) -> None:
        self.path, self.host = path, host
        self.row = bytearray(len(BODY))
        self.get: Get | None = None


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def call(**options: int) -> Server:
        servers.append(Server(**options))
        return servers[-1]

    yield call
    for server in servers:
        server.listener.close()


def fetch(server: Server, paths: list[str], limit_s: float = 0.5, **limits: int) -> list[Task]:
    fetcher = Fetcher[Task](Access(f"http://{server.host}"), **limits)
    tasks = [Task(path, server.host) for path in paths]

    def begin(task: Task) -> Get:
        return Get(task.path, task.host, limit_s, memoryview(task.row))

    def done(task: Task, get: Get) -> None:
        task.get = get

    fetcher.run(tasks, begin, done)
    return tasks


@pytest.mark.parametrize("path", GOOD)
def test_good_answers(serve: Callable[..., Server], path: str) -> None:
    for task in fetch(serve(), [path] * 5, per_host=2):
        assert task.get is not None and task.get.error is None and bytes(task.row) == BODY


@pytest.mark.parametrize("path", BAD)
def test_bad_answers_spoil_no_other(serve: Callable[..., Server], path: str) -> None:
    tasks = fetch(serve(), ["/chunked", path, "/length", path, "/pieces"], per_host=1)
    for task in tasks:
        assert task.get is not None
        if task.path == path:
            assert type(task.get.error) is BAD[path], task.get.error
        else:
            assert task.get.error is None and bytes(task.row) == BODY


def test_errors_have_the_servers_words(serve: Callable[..., Server]) -> None:
    error, missing = (task.get.error for task in fetch(serve(), ["/error", "/error-chunked"]) if task.get)
    assert str(error) == "bad (status 500)" and str(missing) == "none (status 404)"


def test_connections_that_were_closed_meanwhile(serve: Callable[..., Server]) -> None:
    server = serve(per_connection=1)
    assert all(task.get and task.get.error is None for task in fetch(server, ["/chunked"] * 20, per_host=2))
    assert server.connections == 20


def test_requests_are_bounded_and_connections_kept(serve: Callable[..., Server]) -> None:
    server = serve()
    assert all(task.get and task.get.error is None for task in fetch(server, ["/pieces"] * 60, per_host=3))
    assert server.most <= 3 and server.connections <= 3


def test_a_task_may_go_on_later_and_elsewhere(serve: Callable[..., Server]) -> None:
    first, second = serve(), serve()
    fetcher = Fetcher[Task](Access(f"http://{first.host}"))
    task, seen, begun = Task("/nothing", first.host), list[str](), time.monotonic()

    def begin(task: Task) -> Get:
        return Get(task.path, task.host, 1, memoryview(task.row))

    def done(task: Task, get: Get) -> float | None:
        seen.append(type(get.error).__name__)
        if get.error is None:
            return None
        task.path, task.host = "/chunked", second.host
        return 0.2

    fetcher.run([task], begin, done)
    assert seen == ["ConnectionResetError", "NoneType"] and bytes(task.row) == BODY
    assert time.monotonic() - begun >= 0.2


FETCH = """
import json, sys, types
from tests.unit.test_fetch import fetch
get = fetch(types.SimpleNamespace(host=sys.argv[1]), ["/when-asked"], limit_s=1)[0].get
print(json.dumps([repr(get.error), get.took_s]))
"""


def test_a_process_that_was_suspended_blames_no_server(serve: Callable[..., Server]) -> None:
    server = serve()
    with subprocess.Popen([sys.executable, "-c", FETCH, server.host], stdout=subprocess.PIPE, text=True) as child:
        assert server.paused.wait(30)
        child.send_signal(signal.SIGSTOP)
        time.sleep(1.7)
        child.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        server.go_on.set()
        error, took_s = json.loads(child.communicate()[0])
    assert error == "None" and 0 < took_s < 1


def test_what_was_made_meanwhile_blames_no_server(serve: Callable[..., Server]) -> None:
    server = serve()
    fetcher, errors = Fetcher[Task](Access(f"http://{server.host}")), list[Exception | None]()

    def done(task: Task, get: Get) -> None:
        errors.append(get.error)
        if task.path == "/length":
            assert server.paused.wait(10)
            time.sleep(1.7)
            threading.Timer(0.1, server.go_on.set).start()

    tasks = [Task("/when-asked", server.host), Task("/length", server.host)]
    fetcher.run(tasks, lambda task: Get(task.path, task.host, 1, memoryview(task.row)), done)
    assert errors == [None, None]
    assert [bytes(task.row) for task in tasks] == [BODY, BODY]


def test_what_done_raises_ends_all_and_the_fetcher_goes_on(serve: Callable[..., Server]) -> None:
    server = serve()
    fetcher = Fetcher[Task](Access(f"http://{server.host}"))

    def begin(task: Task) -> Get:
        return Get(task.path, task.host, 1, memoryview(task.row))

    def fail(task: Task, get: Get) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        fetcher.run([Task("/chunked", server.host) for _ in range(20)], begin, fail)
    tasks = [Task("/chunked", server.host) for _ in range(20)]
    fetcher.run(tasks, begin, lambda task, get: None)
    assert all(bytes(task.row) == BODY for task in tasks)
