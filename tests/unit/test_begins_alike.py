"""An answer that probably begins as the last one is received at once into its place, and taken as any other is."""

import random
import select
import socket
import threading
from contextlib import closing
from typing import Any

import pytest

from aistore_data.client.access import Access
from aistore_data.client.answer import Get
from aistore_data.client.connection import SCRATCH_BYTES, Connection
from aistore_data.client.credentials import Token
from aistore_data.client.fetch import Fetcher
from etl.request import PROOF_BYTES, proof, stated
from sources.errors import ObjectError
from tests.unit.test_http_strict import BODY, GOOD, WRONG, Once, mutated

STATED = stated("b/o", '{"tag":1}')
PROVED = BODY + proof(STATED, BODY)
OTHER = BODY[::-1] + proof(STATED, BODY[::-1])


def known(body: bytes = PROVED, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (extra, len(body), body)


def chunked(sizes: tuple[int, ...] = (512, 512), body: bytes = PROVED, extra: bytes = b"") -> bytes:
    """In chunks of these sizes, and one of the rest."""
    pieces, at = [], 0
    for size in (*sizes, len(body)):
        if piece := body[at : at + size]:
            pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
        at += size
    return b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % (extra, b"".join(pieces))


class Pair:
    """A connection and its server's end."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.poll, self.scratch = select.epoll(), memoryview(bytearray(SCRATCH_BYTES))
        self.connection = Connection(ours, "h:1", (0, ()), None)
        self.connection.connected = self.connection.reused = True
        self.poll.register(ours, select.EPOLLOUT)

    def close(self) -> None:
        self.poll.close()
        self.theirs.close()
        self.connection.sock.close()

    def answer(self, message: bytes, cuts: list[int]) -> tuple[Any, ...]:
        """What comes of a message that arrives in pieces, and then the end of the connection."""
        connection = self.connection
        get = Get("/", "h:1", 5, memoryview(bytearray(len(BODY))), STATED)
        connection.ask(get, "", 0)
        assert not connection.advance(self.poll, self.scratch) and self.theirs.recv(1 << 16).startswith(b"GET / HTTP")
        try:
            for begin, end in zip([0, *cuts], [*cuts, len(message)], strict=True):
                self.theirs.sendall(message[begin:end])
                if end > begin and connection.advance(self.poll, self.scratch):
                    break
            else:
                self.theirs.shutdown(socket.SHUT_WR)
                while not connection.advance(self.poll, self.scratch):
                    pass
        except (ObjectError, OSError) as error:
            return type(error), str(error)
        problem = connection.problem(Token("", ""))
        right = bytes(get.row or b"") if problem is None else b""
        surplus = connection.surplus if connection.status == 200 else None
        return connection.status, str(problem), right, connection.keep, surplus, dict(get.headers), bytes(get.body)


def compare(before: bytes, message: bytes, cuts: list[int]) -> tuple[Any, ...]:
    """The outcome of a message, which must be the same whatever came before it."""
    with closing(Pair()) as cold, closing(Pair()) as warm:
        for _ in range(2):
            assert warm.answer(before, [])[2] == BODY
        assert warm.connection.lead is not None
        outcome = warm.answer(message, cuts)
        assert outcome == cold.answer(message, cuts), (before[:120], message[:120], cuts)
        return outcome


class Impatient:
    """Answers one request a connection, and then says that it waits no longer."""

    LATE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.said = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        for _ in range(2):
            connection, _ = self.listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(known())
                self.go_on.acquire()
                connection.sendall(self.LATE)
                self.said.release()


def test_what_was_said_between_two_batches_is_no_answer() -> None:
    """As proxies do that close idle connections: no sample is made elsewhere, and no breaker opens for that."""
    server = Impatient()
    fetcher = Fetcher[Once](Access(f"http://{server.host}"))
    with closing(server.listener):
        for _ in range(2):
            get = Get("/", server.host, 5, memoryview(bytearray(len(BODY))), STATED)
            fetcher.run([Once(server.host)], lambda _, get=get: get, lambda *_: None)  # type: ignore[misc]
            assert get.error is None and get.row == BODY
            server.go_on.release()
            assert server.said.acquire(timeout=30)


LIKE = {
    "the-same": known(),
    "another": known(OTHER),
    "another-proof": known(BODY + bytes(PROOF_BYTES)),
    "other-head": known(extra=b"Date: 1\r\n"),
    "longer-head": known(extra=b"Content-Type: text/plain; charset=utf-8\r\n"),
    "shorter": known(PROVED[:-1]),
    "longer": known(PROVED + b"x"),
    "surplus": known() + b"x",
    "twice": known() + known(),
    "twice-other": known() + known(OTHER),
    "labelled": known(extra=b"imagenet-sample: 1 b/o\r\n"),
    "labelled-otherwise": known(extra=b"imagenet-sample: 2 b/o\r\n"),
    "chunks": chunked(),
    "chunks-surplus": chunked() + b"x",
    "chunks-otherwise": chunked((511, 513)),
    "chunks-one": chunked(()),
    "chunks-small": chunked((7,) * 100),
    "chunks-of-another": chunked(body=OTHER),
    "chunks-short": chunked(body=PROVED[:-1]),
    "chunks-long": chunked(body=PROVED + b"x"),
    "chunks-up-to-the-proof": chunked((len(BODY) + 3,)),
}
BEFORE = [known(), known(extra=b"Date: 0\r\n"), chunked(), chunked(()), chunked((7, 7)), chunked((1 << 10, 3))]


@pytest.mark.parametrize("name", LIKE)
def test_what_came_before_changes_nothing(name: str, request: pytest.FixtureRequest) -> None:
    drawn, message = random.Random(f"{request.config.option.seed} {name}"), LIKE[name]
    for before in BEFORE:
        for count in (0, 1, 3):
            cuts = sorted(drawn.randrange(1, min(len(message), drawn.choice((90, 2000)))) for _ in range(count))
            outcome = compare(before, message, cuts)
            if outcome[0] == 200 and outcome[1] == "None":
                assert outcome[2] in (BODY, BODY[::-1])


@pytest.mark.parametrize("count", [200, pytest.param(20_000, marks=pytest.mark.long)])
def test_nor_do_wrong_and_mutated_answers_differ(request: pytest.FixtureRequest, count: int) -> None:
    drawn = random.Random(request.config.option.seed)
    messages = [*WRONG.values(), *GOOD] if count == 200 else []
    like = list(LIKE.values())
    for number in range(count):
        message = bytearray(drawn.choice(like) if number % 2 else mutated(drawn))
        for _ in range(drawn.choice((1, 1, 3)) if number % 2 else 0):
            message[drawn.randrange(min(len(message), drawn.choice((130, 5000))))] = drawn.choice(b"\r\n :0123456789af")
        messages.append(bytes(message))
    for message in messages:
        cuts = sorted(drawn.randrange(len(message) + 1) for _ in range(drawn.choice((0, 0, 1, 2))))
        compare(drawn.choice(BEFORE), message[:100_000], [min(cut, 100_000) for cut in cuts])
