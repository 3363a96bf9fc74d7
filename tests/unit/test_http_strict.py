"""What a server may say that is no HTTP, or leads astray: always an error of a known kind, in bounded time and memory."""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from aistore_data.client.access import Access, server_message
from aistore_data.client.answer import Get
from aistore_data.client.fetch import Fetcher
from aistore_data.client.http_head import parse_location
from aistore_data.client.http_reader import HttpReader
from aistore_data.dataset.breaker import Breakers
from sources.errors import ClusterError, ObjectError

BODY = bytes(range(256)) * 4
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"Content-Length: 1024\r\n"
WHOLE = OK + LENGTH + b"\r\n" + BODY
CHUNKED = (
    OK + b"Transfer-Encoding: chunked\r\n\r\n200\r\n" + BODY[:512] + b"\r\n200\r\n" + BODY[512:] + b"\r\n0\r\n\r\n"
)
MANY = b"9" * 5000


def moved(location: bytes) -> bytes:
    return b"HTTP/1.1 307 Go\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"


def in_chunks(line: bytes, end: bytes = b"\r\n0\r\n\r\n") -> bytes:
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + line + BODY + end


WRONG = {
    "length-of-5000-digits": OK + b"Content-Length: " + MANY + b"\r\n\r\n" + BODY,
    "length-of-a-terabyte": OK + b"Content-Length: 1000000000000\r\n\r\n" + BODY,
    "length-negative": OK + b"Content-Length: -1\r\n\r\n" + BODY,
    "length-plus": OK + b"Content-Length: +1024\r\n\r\n" + BODY,
    "length-twice": OK + LENGTH + b"Content-Length: 1025\r\n\r\n" + BODY,
    "length-and-chunks": OK + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + BODY + b"\r\n0\r\n\r\n",
    "length-missing": OK + b"\r\n" + BODY,
    "status-of-5000-digits": b"HTTP/1.1 " + MANY + b" OK\r\n" + LENGTH + b"\r\n" + BODY,
    "status-of-two-digits": b"HTTP/1.1 20 OK\r\n" + LENGTH + b"\r\n" + BODY,
    "status-206": b"HTTP/1.1 206 Partial Content\r\n" + LENGTH + b"\r\n" + BODY,
    "status-204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "status-101": b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + WHOLE,
    "version-2": b"HTTP/2 200 OK\r\n" + LENGTH + b"\r\n" + BODY,
    "version-0.9": BODY,
    "interim-for-ever": b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + WHOLE,
    "head-of-a-megabyte": OK + b"A: " + b"a" * (1 << 20) + b"\r\n" + LENGTH + b"\r\n" + BODY,
    "head-cut": OK + LENGTH[:10],
    "head-folded": OK + LENGTH + b"A: b\r\n c\r\n\r\n" + BODY,
    "head-blank-before-colon": OK + b"Content-Length : 1024\r\n\r\n" + BODY,
    "head-bare-line-feed": OK + b"A: b\nContent-Length: 1024\r\n\r\n" + BODY,
    "gzip": OK + LENGTH + b"Content-Encoding: gzip\r\n\r\n" + BODY,
    "transfer-gzip": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n400\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk-negative": in_chunks(b"-1\r\n"),
    "chunk-0x": in_chunks(b"0x400\r\n"),
    "chunk-underscore": in_chunks(b"4_00\r\n"),
    "chunk-plus": in_chunks(b"+400\r\n"),
    "chunk-blank": in_chunks(b" 400\r\n"),
    "chunk-long": in_chunks(b"0" * 40 + b"400\r\n"),
    "chunk-line-feed": in_chunks(b"400\n"),
    "chunk-without-line-end": in_chunks(b"400\r\n", b"0\r\n\r\n"),
    "chunk-huge": in_chunks(b"ffffffff\r\n"),
    "trailers": in_chunks(b"400\r\n", b"\r\n0\r\nA: b\r\n\r\n"),
    "body-short": OK + LENGTH + b"\r\n" + BODY[:-1],
    "error-of-brackets": b"HTTP/1.1 500 Oh\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000,
    "error-endless": b"HTTP/1.1 500 Oh\r\nContent-Length: 999999999999\r\n\r\n" + b"x" * 200_000,
    **{
        f"location-{number}": moved(location)
        for number, location in enumerate(
            (
                *(
                    b"http://[",
                    b"http://[::1",
                    b"http://h:99999/a",
                    b"http://h:abc/a",
                    b"http://h:0/a",
                    b"http://h:-1/a",
                ),
                *(b"http://a..b/c", b"http://" + b"h" * 300 + b"/a", b"http://user@h/a", b"http://u:p@127.0.0.1/a"),
                *(b"https://127.0.0.1/a", b"file:///etc/passwd", b"//", b"", b"relative", b"http:///a", b"http://h"),
                *(b"/a b", b"/a\x00b", b"/\xc3\xbc", b"http://\xc3\xbc/a", b"/" + b"a" * 20_000, b"ftp://h/a", b"?x"),
                *(b"http://h/\x1b[2J", b"http://h:80:80/a", b"http://h\\@i/a", b"http://[v1.x]/a", b"http://%31/a"),
            )
        )
    },
}


class Sends:
    """Answers ``/NUMBER`` with ``messages[NUMBER]`` and closes; what came with each request is in ``heads``."""

    def __init__(self, messages: list[bytes], pause_s: float = 0.0) -> None:
        self.messages, self.pause_s, self.heads = messages, pause_s, list[bytes]()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, ValueError, IndexError):  # wherever a mutated redirect has led
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := connection.recv(1 << 16)):
                    return
                head += data
            self.heads.append(head)
            message = self.messages[int(head.split(b" ")[1].partition(b"?")[0].removeprefix(b"/"))]
            for piece in [message[at : at + 1] for at in range(len(message))] if self.pause_s else [message]:
                connection.sendall(piece)
                time.sleep(self.pause_s)
            connection.shutdown(socket.SHUT_WR)


@pytest.fixture
def serve() -> Iterator[Callable[..., Sends]]:
    servers = list[Sends]()

    def call(messages: list[bytes], pause_s: float = 0.0) -> Sends:
        servers.append(Sends(messages, pause_s))
        return servers[-1]

    yield call
    for server in servers:
        server.listener.close()


class Once:
    def __init__(self, host: str) -> None:
        self.host = host


def fetch(server: Sends, gets: list[Get], hosts: tuple[str, ...] = (), token: str = "") -> None:
    fetcher = Fetcher[Once](Access(f"http://{server.host}", token), hosts=hosts)
    waiting = iter(gets)
    fetcher.run([Once(get.host) for get in gets], lambda _: next(waiting), lambda *_: None)


def read_all(server: Sends, numbers: list[int]) -> list[tuple[Any, Any, Any]]:
    """Of each message: what came of it in a row, in a body, and by the reader."""
    rows = [Get(f"/{number}", server.host, 5, memoryview(bytearray(len(BODY)))) for number in numbers]
    bodies = [Get(f"/{number}", server.host, 5, most=len(BODY)) for number in numbers]
    fetch(server, rows + bodies)
    reader, found = HttpReader(Access(f"http://{server.host}", "", 5, 5)), list[Any]()
    for number in numbers:
        try:
            found.append(reader.get(f"/{number}", len(BODY)))
        except (ObjectError, OSError) as error:
            found.append(error)
    return [
        (row.error or bytes(row.row or b""), body.error or bytes(body.body), other)
        for row, body, other in zip(rows, bodies, found, strict=True)
    ]


def test_wrong_answers_are_errors_of_a_known_kind(serve: Callable[..., Sends]) -> None:
    server = serve(list(WRONG.values()))
    for name, outcomes in zip(WRONG, read_all(server, list(range(len(WRONG)))), strict=True):
        for outcome in outcomes:
            assert isinstance(outcome, ObjectError | OSError), (name, outcome)
            assert not isinstance(outcome, TimeoutError), (name, outcome)
            text = str(outcome).replace("\n", " ").replace("\t", " ")
            assert text.isprintable() and len(text) < 9000, (name, outcome)


GOOD = [WHOLE, CHUNKED, b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE, in_chunks(b"400;a=b\r\n"), in_chunks(b"00000400\r\n")]


def test_right_answers_are_taken(serve: Callable[..., Sends]) -> None:
    for outcomes in read_all(serve(GOOD), list(range(len(GOOD)))):
        assert outcomes == (BODY, BODY, BODY)


def test_an_error_may_end_with_its_connection(serve: Callable[..., Sends]) -> None:
    """As that of Go's server to who speaks http to it where it speaks https."""
    server = serve([b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"])
    for outcome in read_all(server, [0])[0]:
        assert isinstance(outcome, ObjectError) and outcome.status == 400
        assert "Client sent an HTTP request to an HTTPS server" in outcome.message


def mutated(drawn: random.Random) -> bytes:
    message = bytearray(drawn.choice((*GOOD, WHOLE, CHUNKED, *WRONG.values()))[: 1 << 14])
    for _ in range(drawn.choice((1, 1, 2, 5))):
        limit = min(len(message), drawn.choice((40, 120, len(message)))) or 1
        at, to = sorted(drawn.randrange(limit) for _ in range(2))
        kind = drawn.randrange(6)
        if kind == 0 and message:
            message[at] = drawn.randrange(256)
        elif kind == 1:
            del message[at:to]
        elif kind == 2:
            message[at:at] = message[at:to]
        elif kind == 3:
            message[at:at] = drawn.choice(
                (b"\r\n", b"\n", b"\0", b" ", b":", b"-1", MANY, b"%", b"[" * 99, b"\r\n\r\n")
            )
        elif kind == 4:
            message = message[:at]
        else:
            message[at:at] = drawn.choice(list(WRONG.values()))[:400]
    return bytes(message)


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.long)])
def test_mutated_messages_raise_nothing_else(
    serve: Callable[..., Sends], request: pytest.FixtureRequest, count: int
) -> None:
    drawn = random.Random(request.config.option.seed)
    messages = [mutated(drawn) for _ in range(count)]
    messages = [message for message in messages if b"127.0.0.1" not in message and b"ocation: http://" not in message]
    for outcomes in read_all(serve(messages), list(range(len(messages)))):
        for outcome in outcomes:
            assert isinstance(outcome, ObjectError | OSError | bytes)


def test_a_body_is_received_up_to_its_bound(serve: Callable[..., Sends]) -> None:
    endless = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n%b\r\n" % BODY * 3000
    server = serve([endless, OK + b"Content-Length: 3000000\r\n\r\n" + bytes(3_000_000)])
    gets = [Get(f"/{number}", server.host, 30, most=100_000) for number in range(2)]
    fetch(server, gets)
    assert [len(get.body) <= 100_000 for get in gets] == [True, True] and len(gets[1].body) == 0
    assert all(isinstance(get.error, ObjectError) and get.error.out_of_step for get in gets)


def test_a_deadline_holds_while_another_connection_is_busy(serve: Callable[..., Sends]) -> None:
    """Bytes that trickle in all the time keep neither their own request nor a silent one alive."""
    trickle, silent = serve([OK + LENGTH + b"\r\n" + bytes(1000)], 0.002), serve([])
    silent.listener.listen()  # it is accepted by nobody who would answer
    gets = [Get("/0", trickle.host, 1.0), Get("/0", trickle.host, 0.3), Get("/7", silent.host, 0.3)]
    order = list[Get]()
    fetcher, waiting = Fetcher[Once](Access(f"http://{trickle.host}")), iter(gets)
    silent._serve = lambda connection: time.sleep(30)  # type: ignore[method-assign]
    fetcher.run([Once(get.host) for get in gets], lambda _: next(waiting), lambda _, get: order.append(get))
    assert [type(get.error) for get in gets] == [TimeoutError] * 3 and order[2] is gets[0]


def test_a_readers_time_is_bounded_however_slowly_bytes_come(serve: Callable[..., Sends]) -> None:
    server = serve([WHOLE], 0.01)
    with pytest.raises(TimeoutError):
        HttpReader(Access(f"http://{server.host}", "", 1, 0.3)).get("/0")


@pytest.mark.parametrize("listed", [False, True])
def test_a_token_goes_to_the_clusters_hosts_alone(serve: Callable[..., Sends], listed: bool) -> None:
    other = serve([WHOLE])
    server = serve([moved(f"http://{other.host}/0".encode())])
    get = Get("/0", server.host, 5)
    fetch(server, [get], (other.host,) if listed else (), "secret")
    assert get.error is None and bytes(get.body) == BODY
    assert b"secret" in server.heads[0] and (b"secret" in other.heads[0]) == listed
    assert HttpReader(Access(f"http://{server.host}", "secret")).get("/0") == BODY
    assert b"secret" in server.heads[1] and b"secret" not in other.heads[1]


def test_redirects_from_https_to_http_are_refused() -> None:
    assert parse_location("https://h:8/a?b=c", "https") == ("h:8", "/a?b=c")
    assert parse_location("/a", "https") == ("", "/a")
    with pytest.raises(ObjectError, match="a redirect from https to 'http://h/a'"):
        parse_location("http://h/a", "https")


@pytest.mark.parametrize("token", ["a\r\nX: y", "a\n", "ä", "a b", "\x1b"])
def test_a_token_that_http_cannot_carry_is_named(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", token)
    with pytest.raises(ClusterError, match="AIS_AUTHN_TOKEN holds"):
        Access.from_environment("http://h:1")


def test_a_host_is_looked_up_again_when_none_of_its_addresses_answers(
    serve: Callable[..., Sends], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, asked = serve([WHOLE]), list[str]()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = free.getsockname()
    live: Any = server.listener.getsockname()
    now = [live]

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in now]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    fetcher = Fetcher[Once](Access("http://target:8080"))

    def get() -> Get:
        found = Get("/0", "target:8080", 5)
        fetcher.run([Once(found.host)], lambda _: found, lambda *_: None)
        return found

    assert get().error is None and get().error is None and len(asked) == 1
    now[:] = [dead]
    fetcher._addresses._known.clear()  # as if the target had been there from the start
    assert isinstance(get().error, ConnectionRefusedError)
    now[:] = [dead, live]  # it has been scheduled anew, under the same name
    assert get().error is None and get().error is None and get().error is None
    now[:] = [live]


def test_an_errors_words_are_bounded_and_printable() -> None:
    assert server_message(b'{"message":"\\u001b[2Ja\\u202eb\\r\\nc\\td"}') == " [2Ja b \nc\td"
    assert len(server_message(b'{"message":"%b"}' % (b"x" * 60_000))) < 9000
    assert server_message(b"[" * 60_000) == "[" * 200
    assert server_message(b'{"message":{"a":1}}') == '{"a": 1}' and server_message(b"[1]") == "[1]"


def test_breakers_do_not_look_at_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    breakers = Breakers(1)
    breakers.record_starvation()
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert 0 <= breakers.waiting_s() < 3
    breakers.out_of_step()
    assert breakers.answers_out_of_step == 1
