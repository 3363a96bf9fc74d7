"""A server of ready-made samples: all that it does is to send them, so what is measured is who asks.

    python -m benchmarks.static_server

``GET /v1/objects/BUCKET/NUMBER…`` is answered with sample NUMBER modulo ``SAMPLES``, on three ports, which it prints:
in chunks of 32 KiB, as AIStore's inline answers come; with its length; and with a redirect to the first port, as
AIStore's proxy answers. A request with a tag has the proof that an ETL gives. One process and one thread.
"""

import re
import select
import socket
import sys
from urllib.parse import unquote, unquote_plus

import numpy as np

from etl.request import PROOF_BYTES, proof, statement

SAMPLES = 64
SIZE = 224 * 224 * 3
WAYS = ("chunked", "length", "redirect")
_CHUNK = 32 << 10
_END = b"\r\n0\r\n\r\n"
_NUMBER = re.compile(rb"(?:GET|HEAD) /v1/objects/[^/]+/(\d+)")
_TAGGED = re.compile(rb"GET /v1/objects/([^?]+)\?\S*\betl_args=([^& ]*%22tag%22[^& ]*)")


def sample(number: int) -> bytes:
    """Sample ``number``: uint8 [224, 224, 3] of noise, as bytes."""
    generator = np.random.Generator(np.random.Philox(key=[number % SAMPLES, 0]))
    return generator.bytes(SIZE)


def _chunked(body: bytes) -> bytes:
    pieces = [body[at : at + _CHUNK] for at in range(0, len(body), _CHUNK)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded + _END[2:]


def _cut(answer: bytes, end: bytes) -> tuple[bytes, bytes]:
    """What is before the proof in an answer, and what is after it: ``end``."""
    return answer[: len(answer) - len(end) - PROOF_BYTES], end


def _with_length(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _redirect(request: bytes, port: int) -> bytes:
    path = request.split(b" ", 2)[1]
    location = b"http://127.0.0.1:%d%b" % (port, path)
    return b"HTTP/1.1 307 Temporary Redirect\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % location


class Server:
    """Listens on three free ports of the loopback address: ``ports``, in the order of ``WAYS``."""

    def __init__(self) -> None:
        bodies = [sample(number) for number in range(SAMPLES)]
        self._bodies = bodies
        whole = [body + bytes(PROOF_BYTES) for body in bodies]
        self._around_proof = {"chunked": [_cut(_chunked(body), _END) for body in whole]}
        self._around_proof["length"] = [_cut(_with_length(body), b"") for body in whole]
        self._answers = {"chunked": list(map(_chunked, bodies)), "length": list(map(_with_length, bodies))}
        listeners = [socket.create_server(("127.0.0.1", 0), backlog=256) for _ in WAYS]
        self.ports: list[int] = [listener.getsockname()[1] for listener in listeners]
        self._listeners = {sock.fileno(): (sock, way) for sock, way in zip(listeners, WAYS, strict=True)}
        self._poll = select.epoll()
        for fd in self._listeners:
            self._poll.register(fd, select.EPOLLIN)
        self._connections: dict[int, tuple[socket.socket, str]] = {}
        self._unsent: dict[int, list[memoryview]] = {}

    def serve(self) -> None:
        """For ever."""
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._listeners:
                    listener, way = self._listeners[fd]
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                    self._connections[connection.fileno()] = connection, way
                    self._poll.register(connection, select.EPOLLIN)
                else:
                    self._go_on(fd)

    def _go_on(self, fd: int) -> None:
        connection, way = self._connections[fd]
        try:
            if fd not in self._unsent:
                request = connection.recv(1 << 16)
                if not request:
                    raise ConnectionResetError
                self._unsent[fd] = [memoryview(part) for part in self._answer(request, way)]
            left = self._unsent[fd]
            sent = connection.sendmsg(left)
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if left:
                left[0] = left[0][sent:]
        except BlockingIOError:
            return
        except ConnectionError:
            self._unsent.pop(fd, None)
            self._poll.unregister(fd)
            self._connections.pop(fd)[0].close()
            return
        if not left:
            del self._unsent[fd]
            self._poll.modify(fd, select.EPOLLIN)
        else:
            self._poll.modify(fd, select.EPOLLOUT)

    def _answer(self, request: bytes, way: str) -> tuple[bytes, ...]:
        match = _NUMBER.match(request)
        if match is None or not request.endswith(b"\r\n\r\n"):  # a client sends a head at once
            return (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",)
        if request.startswith(b"HEAD"):
            return (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nAis-Present: true\r\n\r\n" % SIZE,)
        if way == "redirect":
            return (_redirect(request, self.ports[0]),)
        number = int(match[1]) % SAMPLES
        if tagged := _TAGGED.match(request):
            stated = statement(unquote(tagged[1].decode()), unquote_plus(tagged[2].decode()))
            before, after = self._around_proof[way][number]
            return before, proof(stated, self._bodies[number]) + after
        return (self._answers[way][number],)


def main() -> int:
    """The command line."""
    server = Server()
    print(*server.ports, flush=True)
    server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
