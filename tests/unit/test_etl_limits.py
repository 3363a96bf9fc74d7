"""What a client can make an ETL read, hold and wait for: bounded, and whatever is refused is refused with an answer."""

import json
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

import etl.protocol
import etl.server
from etl.limits import Limits
from etl.request import BadRequest, Request, encode
from etl.server import TrainETL
from etl.spec import Key, Spec
from tests.conftest import readable
from tests.support.fuzz import mutated
from tests.unit.test_etl_server import (
    DATA,
    MOUNTPATH,
    SAMPLE,
    Held,
    Serve,
    answered,
    ask,
    environment,
    path,
    raw,
    serve,
    stored,
)

__all__ = ["environment", "serve"]

PUT = "HTTP/1.1\r\nHost: pod\r\nContent-Length:"


def limited(monkeypatch: pytest.MonkeyPatch, etl_class: type[TrainETL] = TrainETL, **limits: str) -> TrainETL:
    for name, value in limits.items():
        monkeypatch.setenv(f"IMAGENET_AIS_MAX_{name.upper()}", value)
    return etl_class()


def detail(answer: tuple[Any, ...]) -> tuple[int, str]:
    return answer[0], json.loads(answer[3])["detail"]


def to_the_end(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


OTHER_FILES = (
    "etl_fqn=/etc/passwd",
    "etl_args={}&etl_fqn=%252Fetc%252Fpasswd",
    "etl_args={}&etl_fqn=/etc/passwd&etl_fqn={own}",
    "etl_fqn={own}&etl_fqn=/etc/passwd",
    "etl_fqn={own}&x=1&etl_fqn=",
    "etl_fqn={other}",
    "etl_args=&etl_fqn={own}%00",
    "etl_fqn=%00",
)


@pytest.mark.parametrize("pipeline", [False, True])
def test_other_files_are_refused(serve: Serve, pipeline: bool) -> None:
    """Also where the SDK's application would read them."""
    own, other = stored("photos/own"), stored("secret/own")
    encoded = {"own": str(own).replace("%", "%2525"), "other": str(other).replace("%", "%2525")}
    headers = {"Ais-Node-Url": "http://127.0.0.1:9"} if pipeline else {}
    port = serve(TrainETL())
    for query in OTHER_FILES:
        url = "/photos/own?" + query.replace("{}", "%7B%7D").format(**encoded)
        status, text = detail(ask(port, "PUT", url, headers=headers))
        assert status == 400 and text.startswith("BadRequest: ") and "root:" not in text


def test_what_is_no_photo_file_is_refused_at_once(serve: Serve) -> None:
    port = serve(TrainETL())
    pipe = stored("odd/pipe")
    pipe.unlink()
    os.mkfifo(pipe)
    (pipe.parent / "zero").unlink(missing_ok=True)
    (pipe.parent / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        for _ in range(4):
            status, text = detail(ask(port, "PUT", path(f"odd/{name}", MOUNTPATH / f"@ais/odd/%ob/{name}")))
            assert (status, text) == (400, "BadRequest: etl_fqn is not a regular file")
    assert ask(port, "PUT", path())[3] == SAMPLE


ABSURD = {
    '{"size":2049,"wire":"info"}': "size=2049 is over this ETL's limit of 2048",
    '{"size":2049}': "IMAGENET_AIS_MAX_SIZE",
    '{"size":4097}': "size must be from 1 to",
    f'{{"scale":[1,{"9" * 400}]}}': "scale must be two numbers that a float can hold, not (1, 9999",
    f'{{"ratio":[{"9" * 4000},1]}}': "ratio must be two numbers that a float can hold, not (9999",
    f'{{"size":{"9" * 400}}}': "size must be from 1 to 4096 pixels, not 9999",
    f'{{"seed":{"9" * 4000}}}': "Key.seed must be an integer from 0 to 2**63 - 1, not 9999",
    f'{{"tag":{"9" * 4000}}}': "tag must be from 0 to 2^63 - 1, not 9999",
    f'{{"v":{"9" * 4000}}}': "this ETL speaks version 1, not 9999",
    f'{{"quality":{"9" * 4000}}}': "quality must be from 1 to 100, not 9999",
    f'{{"wire":"{"x" * 4000}"}}': "wire must be raw, jpeg, info or index, not 'xxxx",
    f'{{"scale":"{"x" * 4000}"}}': "scale must be of type list, not 'xxxx",
    f'{{"interpolation":"{"x" * 4000}"}}': "interpolation must be one of",
    f'{{"{"x" * 4000}":1}}': "unknown field 'xxxx",
    f'{{"quality":{"9" * 5000}}}': "",
    "[" * 9000: "etl_args is not JSON",
    '{"scale":[[[1]],2]}': "",
    '{"scale":[null,{}]}': "",
    '{"size":32,"scale":[1e-320,1e-320],"seed":-1}': "",
    '{"ratio":[1e-320,1e308]}': "",
}


def test_absurd_arguments(serve: Serve) -> None:
    port = serve(TrainETL())
    for args, words in ABSURD.items():
        status, text = detail(ask(port, "PUT", path(args=args)))
        assert status == 400 and text.startswith("BadRequest: ") and words in text, (args[:50], status, text)
        assert len(text) < 260, text


def test_an_operator_sets_the_limits(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = limited(monkeypatch, size="16", object_mb="1")
    assert server.limits == Limits(16, 1 << 20, 256 << 20, 1024)
    port = serve(server)
    assert detail(ask(port, "PUT", path()))[1].endswith(
        "size=32 is over this ETL's limit of 16: its operator sets IMAGENET_AIS_MAX_SIZE"
    )
    large = stored("photos/large", DATA + bytes(1 << 20))
    status, text = detail(ask(port, "PUT", path("photos/large", large, args='{"size":8}')))
    assert status == 400 and f"has {len(DATA) + (1 << 20)} bytes, and this ETL reads {1 << 20} at most" in text
    with pytest.raises(BadRequest, match="resize=17"):
        server.limits.check(Request(Spec.val(8, 17)))
    for value in ("many", "-1", "0", "1e3", "9" * 400, "²"):
        monkeypatch.setenv("IMAGENET_AIS_MAX_REQUESTS", value)
        with pytest.raises(ValueError, match="IMAGENET_AIS_MAX_REQUESTS"):
            TrainETL()


@pytest.mark.parametrize("length", [f"{PUT} {4 << 20}", "HTTP/1.1\r\nHost: pod\r\nTransfer-Encoding: chunked"])
@pytest.mark.parametrize("header", ["", "\r\nAis-Node-Url: http://127.0.0.1:9"])
def test_a_body_that_is_too_large(serve: Serve, monkeypatch: pytest.MonkeyPatch, length: str, header: str) -> None:
    server = limited(monkeypatch, object_mb="1")
    with raw(serve(server), f"PUT {path(fqn='')} {length}{header}") as connection:
        threading.Thread(target=_send_all, args=(connection, 4, "chunked" in length), daemon=True).start()
        answer = b""
        while b"1048576" not in answer:
            part = connection.recv(1 << 16)
            assert part, answer
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")


def _send_all(connection: socket.socket, megabytes: int, chunked: bool) -> None:
    try:
        for _ in range(16 * megabytes):
            connection.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n" if chunked else bytes(1 << 16))
    except OSError:
        pass  # refused meanwhile


def test_bodies_are_bounded_together(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whoever does not end his, the last one is refused; and what they held is free again when they go."""
    server = limited(monkeypatch, memory_mb="1")
    port = serve(server)
    with ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(raw(port, f"PUT {path(fqn='')} {PUT} {1 << 20}"))
            connection.sendall(bytes(300 << 10))
        wait_until(lambda: server.held == 900 << 10)
        assert ask(port, "PUT", path(fqn=""), DATA[:1] + bytes(200 << 10))[0] == 503
        assert ask(port, "PUT", path())[3] == SAMPLE
    wait_until(lambda: server.held == 0)
    assert ask(port, "PUT", path(fqn=""), DATA)[3] == SAMPLE


def test_slow_bodies_end(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etl.server, "BODY_S", 0.2)
    with raw(serve(TrainETL()), f"PUT {path(fqn='')} {PUT} 100") as connection:
        connection.sendall(b"x")
        answer = to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"connection: close" in answer


def test_answers_that_nobody_reads_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited for longest loses his; others are served."""
    server = limited(monkeypatch, memory_mb="24")
    port = serve(server)
    request = path(args=encode(Request(Spec.train(2048), Key(0, 0, 0))))
    held = []
    with ExitStack() as stack:
        for _ in range(8):  # 12.6 MB each, of which the kernel takes some
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(30)
            connection.connect(("127.0.0.1", port))
            connection.sendall(f"PUT {request} {PUT} 0\r\n\r\n".encode())
            assert connection.recv(1, socket.MSG_PEEK)
            held.append(sum(transport.get_write_buffer_size() for transport in list(server.unread._transports)))
            assert ask(port, "PUT", path())[3] == SAMPLE
        assert 0 < max(held) <= 24 << 20
        assert len(answered(connection)) == 2048 * 2048 * 3  # the last one has his


def test_requests_that_wait_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = limited(monkeypatch, Held, requests="3")
    assert isinstance(server, Held)
    large = stored("photos/large", DATA + bytes(1 << 20))
    with ExitStack() as stack:
        port = serve(server)
        url = path("photos/large", large)
        waiting = [stack.enter_context(raw(port, f"PUT {url} {PUT} 0")) for _ in range(3)]
        wait_until(lambda: server._waiting == 3)
        assert detail(ask(port, "PUT", url)) == (
            503,
            "this ETL has as many requests waiting as it may: ask again later",
        )
        assert ask(port, "GET", "/health")[3] == b"Running"
        server.let_go.set()
        assert [answered(connection) for connection in waiting] == [b"photos/large"] * 3
        assert ask(port, "PUT", url)[3] == b"photos/large"


def test_heads_that_never_end(serve: Serve, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The connections are uvicorn's own where another application lies before ours: a proxy's business."""
    if request.node.callspec.params["serve"] == "asgi":
        pytest.skip("only the protocol sees heads")
    port = serve(TrainETL())
    for start in (b"PUT /b/o HTTP/1.1\r\nX: ", b"GET /", b"PUT /b/o?etl_fqn="):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            sent = 0
            try:
                connection.sendall(start)
                while sent < 10 << 20:
                    connection.sendall(b"x" * (1 << 16))
                    sent += 1 << 16
            except OSError:
                pass
            assert sent < 10 << 20
    monkeypatch.setattr(etl.protocol, "HEAD_S", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"PUT /b/o HTTP/1.1\r\nX: ")
        assert to_the_end(connection).startswith(b"HTTP/1.1 400 ")
    with raw(port, "GET /health HTTP/1.1\r\nHost: pod") as connection:
        assert answered(connection) == b"Running"
        time.sleep(0.3)  # a connection that idles stays
        connection.sendall(f"PUT {path()} {PUT} 0\r\n\r\n".encode())
        assert answered(connection) == SAMPLE


class Unlucky(TrainETL):
    def quick(self, source: bytes | str, at: Any = None) -> bytes | None:
        raise ValueError("no luck")


def test_whatever_fails_has_an_answer(serve: Serve) -> None:
    port = serve(Unlucky())
    for _ in range(2):
        assert detail(ask(port, "PUT", path())) == (500, "Processing error: no luck")
    assert ask(port, "GET", "/health")[3] == b"Running"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for name in ("pipe", "zero"):
        (MOUNTPATH / "@ais/odd/%ob" / name).unlink(missing_ok=True)


def etl_messages() -> list[bytes]:
    """Requests as nodes and others send them."""
    body = f"PUT {path(fqn='')} HTTP/1.1\r\nHost: pod"
    chunked = f"{body}\r\nTransfer-Encoding: chunked\r\n\r\n{len(DATA):x}\r\n".encode()
    return [
        f"PUT {path()} {PUT} 0\r\n\r\n".encode(),
        f"PUT {path(args='')} {PUT} 0\r\n\r\n".encode(),
        f"GET {path('ais/@#/photos/a.jpg')} HTTP/1.1\r\nHost: pod\r\n\r\n".encode(),
        f"{body}\r\nContent-Length: {len(DATA)}\r\n\r\n".encode() + DATA,
        chunked + DATA + b"\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: pod\r\n\r\n",
        f"PUT {path()} HTTP/1.1\r\nHost: pod\r\nAis-Node-Url: ,\r\nContent-Length: 0\r\n\r\n".encode(),
        b"GET /ws HTTP/1.1\r\nHost: pod\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n",
    ]


@pytest.mark.parametrize("count", [100, pytest.param(4000, marks=pytest.mark.long)])
def test_mutated_messages(serve: Serve, count: int, request: pytest.FixtureRequest) -> None:
    """Each is answered or refused, or its connection is closed when the client ends it; none is left waiting."""
    logging.disable()
    server = TrainETL()
    port = serve(server)
    generator = random.Random(request.config.getoption("seed", None) or 1)
    messages = [mutated(etl_messages(), generator) for _ in range(count)]

    def one(data: bytes) -> int:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            answer = b""
            try:
                connection.sendall(data)
                if not readable(connection, 0.3):  # it waits for more
                    connection.shutdown(socket.SHUT_WR)
                answer = connection.recv(1 << 16)  # no TimeoutError
                connection.shutdown(socket.SHUT_WR)
            except OSError as error:
                assert not isinstance(error, TimeoutError)
            answer += to_the_end(connection)
            return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0

    try:
        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(one, messages))
        print({code: found.count(code) for code in set(found)})
        assert set(found) <= {0, 101, 200, 400, 403, 404, 405, 413, 426, 500, 502}
        assert ask(port, "PUT", path())[3] == SAMPLE
        wait_until(lambda: server._waiting == 0 and server.held == 0)
    finally:
        logging.disable(logging.NOTSET)
