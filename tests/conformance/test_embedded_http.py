"""What strangers may send to the embedded AIS's two ports, and users by mistake: bounded, answered, never a traceback."""

import json
import os
import random
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from aistore_data.embedded.calls import Message, json_answer
from aistore_data.embedded.errors import ApiError
from aistore_data.embedded.etls import duration_s
from aistore_data.embedded.wire import Port, WireServer
from tests.conformance.conftest import AIS, start_upper
from tests.conformance.test_embedded import put_and_transform
from tests.conftest import PROJECT
from tests.support.fuzz import mutated

TOKEN = "the-token"
PORTS = ("proxy", "target")
KEEP = "HTTP/1.1\r\nHost: x"
KNOWN = f"{KEEP}\r\nAuthorization: Bearer {TOKEN}"


@dataclass(frozen=True)
class Served:
    """A server whose standard error is kept."""

    ais: AIS
    ports: dict[str, int]
    pid: int
    errors: Path

    def exchange(self, port: str, *pieces: bytes) -> bytes:
        """All that comes back until the server closes; what cannot be sent any more is not."""
        with socket.create_connection(("127.0.0.1", self.ports[port]), timeout=20) as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            answer = b""
            try:
                while part := connection.recv(1 << 16):
                    answer += part
            except ConnectionResetError:
                pass
            return answer

    def peak_mb(self) -> int:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) >> 10


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ais")
    command = [sys.executable, "-m", "aistore_data.embedded", "--root", str(folder / "root")]
    with open(folder / "errors", "wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**os.environ, "AIS_AUTHN_TOKEN": TOKEN},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    endpoint = process.stdout.readline().strip().removeprefix("AIS_ENDPOINT=")
    ais = AIS(endpoint, TOKEN, embedded=True)
    target = next(iter(ais.client().cluster().get_info().tmap.values())).public_net.daemon_port
    start_upper(ais.client())
    put_and_transform(ais.client())
    try:
        yield Served(
            ais, {"proxy": int(endpoint.rpartition(":")[2]), "target": int(target)}, process.pid, folder / "errors"
        )
        assert put_and_transform(ais.client()).startswith("HELLO")
        assert (folder / "errors").read_text() == ""
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


AMBIGUOUS = {
    "Content-Length: " + "9" * 5000: "",
    "Content-Length: 5\r\nContent-Length: 6": "hello",
    "Content-Length: 5\r\nTransfer-Encoding: chunked": "5\r\nhello\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked": "0\r\n\r\n",
    "Transfer-Encoding: gzip, chunked": "0\r\n\r\n",
    "Transfer-Encoding: xchunked": "0\r\n\r\n",
    "Content-Length: -1": "",
    "Content-Length: +5": "hello",
    "Content-Length: 0x5": "hello",
    "Content-Length: 5_0": "",
    "Content-Length: \xb2": "",
    "Content-Length: 5, 5": "hello",
}


@pytest.mark.parametrize("port", PORTS)
def test_bodies_of_no_clear_length_end_the_connection(served: Served, port: str) -> None:
    for headers, body in AMBIGUOUS.items():
        for start in (KEEP, KNOWN):
            request = f"PUT /v1/buckets/x {start}\r\n{headers}\r\n\r\n{body}GET /v1/health {KNOWN}\r\n\r\n"
            answer = served.exchange(port, request.encode("latin-1"))
            assert status(answer) == 400 and b"\r\nconnection: close\r\n" in answer.lower(), (headers[:60], answer)
            assert answer.count(b"HTTP/1.1 ") == 1, (headers[:60], answer)


SIZES = ("-1", "0x5", "5_0", "+2", " 5", "", "g", "5\n", "F" * 20, "\u0665")


@pytest.mark.parametrize("port", PORTS)
def test_sizes_of_chunks(served: Served, port: str) -> None:
    for size in SIZES:
        head = f"PUT /v1/objects/b/chunked-{port}?pid=p {KNOWN}\r\nTransfer-Encoding: chunked\r\n\r\n"
        rest = f"{size}\r\nhello\r\n0\r\n\r\nGET /v1/health {KNOWN}\r\n\r\n"
        answer = served.exchange(port, head.encode(), rest.encode())
        assert answer.count(b"HTTP/1.1 ") == 1, (size[:60], answer)
        assert status(answer) in ((400,) if port == "target" else (307, 400)), (size[:60], answer)
    for ending in ("hello0\r\n\r\n", "hello\n0\r\n\r\n", "hello\r\n0\r\n" + "x: y\r\n" * 100):
        answer = served.exchange("target", head.encode(), b"5\r\n", ending.encode())
        assert status(answer) == 400 and answer.count(b"HTTP/1.1 ") == 1, (ending[:60], answer)
    assert (
        served.ais.request("GET", f"http://127.0.0.1:{served.ports['target']}/v1/objects/b/chunked-{port}").status
        == 404
    )
    good = served.exchange(
        "target", head.encode(), b"5;" + b"x" * 300 + b"\r\nhello\r\n0005\r\nhello\r\n0\r\nTrailer: x\r\n\r\n"
    )
    assert status(good) == 200


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize("size", ["-1", "fffffff"])
def test_nothing_is_held_of_a_strangers_body(served: Served, port: str, size: str) -> None:
    head = f"PUT /v1/objects/b/o {KEEP}\r\nTransfer-Encoding: chunked\r\n\r\n{size}\r\n".encode()
    before = served.peak_mb()
    answer = served.exchange(port, head, *[bytes(1 << 20)] * 64)
    assert status(answer) in (400, 401) or answer == b""  # it may be gone where the connection was closed on the sender
    assert served.peak_mb() < before + 16
    assert status(served.exchange(port, head)) == (400 if size == "-1" else 401)


def test_whether_an_etl_exists_is_not_told(served: Served) -> None:
    answers: dict[str, set[tuple[int, str]]] = {}
    for name in ("upper-etl", "no-such-etl", "", "x/y"):
        for secret in ("", "wrong", "%00", "%C3%BC", "ü".encode().decode("latin-1")):
            request = f"GET /v1/etl/_object/{name}/{secret}/b/o {KEEP}\r\n\r\n".encode("latin-1")
            answer = served.exchange("target", request)
            text = answer.partition(b"\r\n\r\n")[2].decode()
            message = json.loads(text)["message"] if text.startswith("{") else text
            answers.setdefault(secret, set()).add((status(answer), message))
    assert answers.popitem()[1] == {(400, "Invalid HTTP request received.")}  # a path that is not encoded
    assert set.union(*answers.values()) == {(401, "token required")}


def test_names_that_are_too_long(served: Served) -> None:
    for name in ("x" * 5000, "x" * 1025, "%C3%A4" * 600, "a/" * 700 + "b"):
        for method in ("PUT", "GET", "HEAD", "DELETE"):
            for port in PORTS:
                request = f"{method} /v1/objects/b/{name}?pid=p {KNOWN}\r\nContent-Length: 0\r\n\r\n"
                assert 400 <= status(served.exchange(port, request.encode())) < 500
    longest = f"PUT /v1/objects/b/{'%01' * 1024}?pid=p {KNOWN}\r\nContent-Length: 0\r\n\r\n"
    assert status(served.exchange("target", longest.encode())) in (200, 400)


def test_no_header_is_injected(served: Served) -> None:
    request = f"HEAD /v1/buckets/b?presence=1&uuid=a%0d%0aX-Evil:%20b {KNOWN}\r\nConnection: close\r\n\r\n"
    answer = served.exchange("proxy", request.encode())
    assert status(answer) == 200 and b"\r\nX-Evil" not in answer


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers whoever asks; who has a token is no stranger."""
    if any(name == b"authorization" for name, _ in scope["headers"]):
        scope["state"]["connection"].show_token()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


@pytest.mark.parametrize("port", PORTS)
def test_heads_that_are_too_large(served: Served, port: str) -> None:
    """One endless line, and endless lines."""
    before = served.peak_mb()
    for piece in (b"x" * (1 << 20), b"a: b\r\n" * (1 << 17)):
        answer = served.exchange(port, f"GET /v1/health {KNOWN}\r\nA: ".encode(), *[piece] * 32)
        assert status(answer) == 400 or answer == b""  # it may be gone where the connection was closed on the sender
    assert served.peak_mb() < before + 16


@contextmanager
def hasty(idle_s: float) -> Iterator[Port]:
    """A server of the same connections in this process, with short times and little room."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = Port(listener, hello, idle_s=idle_s, most=8)
        server = WireServer([port])
        yield port
        server.close()


def test_heads_that_do_not_end_in_time() -> None:
    """Also those of which a byte comes now and then."""
    with hasty(0.3) as port, ExitStack() as stack:
        address = port.listener.getsockname()
        connections = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(6)]
        end = time.monotonic() + 20
        alive = set(connections)
        while alive and time.monotonic() < end:
            for number, connection in enumerate(connections):
                if connection not in alive:
                    continue
                try:
                    if number % 2:
                        connection.sendall(b"x" if number % 3 else b"GET / HTTP/1.1\r\nA: b\r\n")
                    connection.settimeout(0.02)
                    if connection.recv(1 << 16) == b"":
                        alive.discard(connection)
                except TimeoutError:
                    pass
                except OSError:
                    alive.discard(connection)
        assert not alive


def test_connections_are_bounded() -> None:
    """Strangers lose theirs to newcomers; who has shown a token keeps his."""
    request = b"GET / HTTP/1.1\r\nAuthorization: x\r\n\r\n"
    with hasty(20) as port, ExitStack() as stack:
        address = port.listener.getsockname()
        good = stack.enter_context(socket.create_connection(address, 20))
        good.sendall(request)
        assert good.recv(100).startswith(b"HTTP/1.1 200")
        for _ in range(60):
            stranger = stack.enter_context(socket.create_connection(address, 20))
            stranger.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(3):
            with socket.create_connection(address, 20) as newcomer:
                newcomer.sendall(request)
                assert newcomer.recv(100).startswith(b"HTTP/1.1 200")
        good.sendall(request)
        assert good.recv(100).startswith(b"HTTP/1.1 200")
        assert len(port.open) <= 16


ABSURD = ["", "x", "\ud800", 0, -1, 2**70, 1.5, True, [], [[]], [None], {}, {"a": {}}, [{}], ["x"], "\0", "9" * 5000]
FIELDS = {
    ("GET", "buckets/b"): ("action=list", ("pagesize", "flags", "continuation_token", "props", "prefix", "uuid")),
    ("GET", "buckets"): ("action=summary-bck", ("uuid",)),
}


def absurd_requests() -> Iterator[tuple[str, str, bytes]]:
    """(method, path, body) of messages of which one field is absurd."""
    for (method, path), (action, names) in FIELDS.items():
        kind = action.partition("=")[2]
        for value in ABSURD:
            yield method, path, json.dumps({"action": value, "value": {}}).encode()
            yield method, path, json.dumps({"action": kind, "value": value}).encode()
            for name in names:
                yield method, path, json.dumps({"action": kind, "value": {"id": "upper-etl", name: value}}).encode()
    good = {
        "name": "absurd-etl",
        "communication": "hpush://",
        "init_timeout": "1ms",
        "obj_timeout": "1s",
        "runtime": {},
    }
    environment = [{"name": "ETL_CLASS_PAYLOAD", "value": ""}]
    for value in ABSURD:
        for name in good:
            yield "PUT", "etl", json.dumps({**good, name: value}).encode()
        for runtime in ({"env": value}, {"env": [value]}, {"env": [{"name": value}]}, {"image": value}):
            yield "PUT", "etl", json.dumps({**good, "runtime": runtime}).encode()
        packages = [*environment, {"name": "PACKAGES", "value": value}]
        yield "PUT", "etl", json.dumps({**good, "runtime": {"env": packages}}).encode()
        for name in ("strm", "mime", "coer", "in", "onob"):
            message = {"strm": True, "mime": ".tar", "coer": True, "in": [{"objname": "o"}], name: value}
            yield "GET", "ml/moss/b", json.dumps(message).encode()
        for name in ("objname", "bucket"):
            message = {"strm": True, "mime": ".tar", "coer": True, "in": [{"objname": "o", name: value}]}
            yield "GET", "ml/moss/b", json.dumps(message).encode()
    for body in (
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff",
        b"nan",
        b"9" * 5000,
        b'{"value":' + b"9" * 5000 + b"}",
        b"[]",
    ):
        for method, path in (("GET", "buckets"), ("PUT", "etl"), ("GET", "ml/moss/b")):
            yield method, path, body


def test_absurd_messages(served: Served) -> None:
    tried = 0

    def one(item: tuple[str, str, bytes]) -> None:
        method, path, body = item
        port = served.ports["target" if path.startswith("ml/") else "proxy"]
        answer = served.ais.request(method, f"http://127.0.0.1:{port}/v1/{path}", body)
        assert answer.status < 500, (method, path, body[:200], answer)
        if path == "etl" and answer.status == 200:
            raise AssertionError(body)

    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(one, absurd_requests()):
            tried += 1
    assert tried > 450
    for etl in served.ais.client().cluster().list_etls(["Initializing", "Aborted"]):
        assert etl.stage == "Aborted"
        served.ais.client().etl(etl.id).delete()


def test_half_a_character_in_an_answer() -> None:
    assert json.loads(json_answer({"name": "\ud800"}).body) == {"name": "\ud800"}


def test_messages_are_typed() -> None:
    message = Message({"a": "x", "n": "12", "l": [{"b": 1}], "o": None})
    assert (message.text("a"), message.text("z"), message.whole("n"), message.text("o")) == ("x", "", 12, "")
    assert message.messages("l")[0].whole("b") == 1
    for wrong in (lambda: message.text("l"), lambda: message.whole("a"), lambda: message.messages("a")):
        with pytest.raises(ApiError, match="of the message is not"):
            wrong()
    with pytest.raises(ApiError) as caught:
        Message.of_body([bytes(1 << 20)] * 17)
    assert caught.value.status == 413
    for text in ("0s", "9" * 30 + "h", "200h", "-1s", "1" * 5000 + "s"):
        with pytest.raises(ApiError, match="duration"):
            duration_s(text)


HEADS = [
    f"GET /v1/health {KNOWN}\r\n\r\n".encode(),
    f"GET /v1/objects/b/o?etl_name=upper-etl&etl_args=a {KNOWN}\r\n\r\n".encode(),
    f"GET /v1/objects/b/o {KNOWN}\r\nRange: bytes=0-3\r\n\r\n".encode(),
    f"PUT /v1/objects/b/fuzz?pid=p {KNOWN}\r\nContent-Length: 5\r\n\r\nhello".encode(),
    f"PUT /v1/objects/b/fuzz?pid=p {KNOWN}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode(),
    f"HEAD /v1/buckets/b {KNOWN}\r\n\r\n".encode(),
    f'GET /v1/buckets/b {KNOWN}\r\nContent-Length: 17\r\n\r\n{{"action":"list"}}'.encode(),
    f"GET /v1/etl/_object/upper-etl/secret/b/o {KEEP}\r\n\r\n".encode(),
    f"PUT /v1/objects/b/o {KNOWN}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello".encode(),
]


@pytest.mark.parametrize("count", [400, pytest.param(6000, marks=pytest.mark.long)])
def test_mutated_messages(served: Served, count: int, request: pytest.FixtureRequest) -> None:
    """Each is answered, or its connection closed; the fixture sees that nothing was written to standard error."""
    seed = request.config.getoption("seed", None) or 1
    generator = random.Random(seed)
    messages = [mutated(HEADS, generator) for _ in range(count)]

    def one(number: int) -> int:
        return status(served.exchange(PORTS[number % 2], messages[number]))

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(count)))
    print({code: found.count(code) for code in set(found)}, served.peak_mb(), "MB")
    assert not [messages[number] for number, code in enumerate(found) if code >= 500 and code not in (501, 505)]
    assert served.peak_mb() < 200


def test_files_are_not_limited_to_a_thousand(served: Served) -> None:
    soft, hard = resource.prlimit(served.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
