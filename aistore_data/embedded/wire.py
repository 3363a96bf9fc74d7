"""HTTP for the proxy and the target: connections, heads and bodies of clients that nobody knows yet, within bounds."""

import contextlib
import io
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from aistore_data.embedded.errors import ApiError
from aistore_data.embedded.store import CHUNK_BYTES
from aistore_data.embedded.tls import handshake

IDLE_S = 60.0
"""How long a connection may idle; its next request's head must be whole by then."""

MAX_CONNECTIONS = 1024
"""Of a node at once. Of those that have never shown a token the oldest is closed for a new one."""

_LINGER_S, _LINGER_PIECES = 1.0, 64
_CHUNK_LINE, _TRAILER_LINE, _TRAILER_LINES = 256, 4096, 64
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[^\r\n]*)?\r\n")
_LENGTH = re.compile(r"[0-9]{1,15}")


class WireServer(ThreadingHTTPServer):
    """Listens on the loopback address; each connection has a thread that dies with the process."""

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True
    tls: ssl.SSLContext | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._lock = threading.Lock()
        self._strangers: dict[Any, socket.socket] = {}  # by their address, oldest first
        self._open = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts the thread of a connection, if there is room for it."""
        with self._lock:
            room = self._open < MAX_CONNECTIONS
            if not room and self._strangers and self._open < 2 * MAX_CONNECTIONS:
                room = True
                _shut(self._strangers.pop(next(iter(self._strangers))))
            if room:
                self._open += 1
                self._strangers[client_address] = request
        if not room:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._forget(client_address)
            raise

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answers what comes over a connection, in its thread; the TLS handshake is part of that."""
        try:
            if self.tls is None:
                super().finish_request(request, client_address)
                return
            request.settimeout(IDLE_S)
            try:
                connection = handshake(self.tls, request)
            except OSError:
                return  # a client that trusts us as little as we trust it: TLS has told it so
            if connection is not None:
                with self._lock:
                    if client_address in self._strangers:
                        self._strangers[client_address] = connection
                with connection:
                    super().finish_request(connection, client_address)
        finally:
            self._forget(client_address)

    def _forget(self, client_address: Any) -> None:
        with self._lock:
            self._open -= 1
            self._strangers.pop(client_address, None)

    def known(self, client_address: Any) -> None:
        """The client of a connection has shown a token."""
        with self._lock:
            self._strangers.pop(client_address, None)

    def server_bind(self) -> None:
        """Binds without the look-up of this machine's name that the base class makes."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or is too slow, is no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _shut(connection: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with contextlib.suppress(OSError):  # closed already
        connection.shutdown(how)


class _Reader(io.RawIOBase):
    """Reads a connection until ``deadline``."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = 0.0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError when the time is over."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request has not come in time")
        self._connection.settimeout(min(left, IDLE_S))
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(IDLE_S)


class WireHandler(BaseHTTPRequestHandler):
    """Parses requests. A body is read when and as far as it is wanted; what is out of step closes the connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = IDLE_S
    server: WireServer

    def setup(self) -> None:
        """Reads go through a deadline."""
        super().setup()
        self._reader = _Reader(self.connection)
        self.rfile.close()
        self.rfile = io.BufferedReader(self._reader, 1 << 16)
        self._known = False

    def handle_one_request(self) -> None:
        """One request, whose head must be whole in time."""
        self._reader.deadline = time.monotonic() + IDLE_S
        self._unread, self._chunked, self._expects = 0, False, False
        super().handle_one_request()

    def handle_expect_100(self) -> bool:
        """Whether to go on is told when the body is wanted."""
        self._expects = True
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The base class's errors, of heads that make no sense: the connection ends."""
        self.close_connection = True
        super().send_error(code, message, explain)

    def begin_body(self) -> None:
        """Learns how the body comes. Raises ApiError 400, for which the connection must end, for what is ambiguous."""
        lengths = set(self.headers.get_all("Content-Length", []))
        encodings = [value.strip().lower() for value in self.headers.get_all("Transfer-Encoding", [])]
        if encodings not in ([], ["chunked"]):
            raise ApiError(400, f'"{", ".join(encodings)[:80]}" is no Transfer-Encoding that is understood')
        if encodings and lengths:
            raise ApiError(400, "a request has Content-Length or Transfer-Encoding, not both")
        if len(lengths) > 1:
            raise ApiError(400, "a request has one Content-Length")
        for length in lengths:
            if not _LENGTH.fullmatch(length):
                raise ApiError(400, f'"{length[:80]}" is no Content-Length')
            self._unread = int(length)
        self._chunked = bool(encodings)

    def show_token(self) -> None:
        """The request may be answered: the connection is no stranger's."""
        if not self._known:
            self._known = True
            self.server.known(self.client_address)

    def body(self) -> Iterator[bytes]:
        """The request's body in pieces. Raises ConnectionError if the client stops before its end, ApiError 400."""
        if self._expects and (self._chunked or self._unread):
            self._expects = False
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        if self._chunked:
            while size := self._chunk_size():
                self._unread = size
                yield from self._read_counted()
                if self.rfile.read(2) != b"\r\n":
                    raise self._out_of_step("a chunk does not end where it says")
            self._end_of_chunks()
            self._chunked = False
        yield from self._read_counted()

    def _chunk_size(self) -> int:
        self._more_time()
        line = self.rfile.readline(_CHUNK_LINE)
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise self._out_of_step(f"{line[:80]!r} is no size of a chunk")
        return int(match[1], 16)

    def _end_of_chunks(self) -> None:
        for _ in range(_TRAILER_LINES):
            line = self.rfile.readline(_TRAILER_LINE)
            if line == b"\r\n":
                return
            if not line.endswith(b"\n"):
                break
        raise self._out_of_step("the lines behind the last chunk do not end")

    def _out_of_step(self, message: str) -> ApiError:
        self.close_connection = True
        self._chunked, self._unread = False, 0
        return ApiError(400, message)

    def _read_counted(self) -> Iterator[bytes]:
        while self._unread:
            self._more_time()
            piece = self.rfile.read1(min(self._unread, CHUNK_BYTES))  # type: ignore[attr-defined]
            if not piece:
                raise ConnectionResetError("the client closed the connection within a request")
            self._unread -= len(piece)
            yield piece

    def _more_time(self) -> None:
        self._reader.deadline = time.monotonic() + IDLE_S

    def drain(self) -> None:
        """Reads what of the body nobody wanted; it would be taken for the next request.

        Where none follows, the body need not come either: over https the SDK announces it to the proxy, with
        "Connection: close", and sends it to the target alone.
        """
        if self._expects and (self._chunked or self._unread):
            self.close_connection = True  # the client was never told to send it
        if self.close_connection:
            self._linger()
            return
        try:
            for _ in self.body():
                pass
        except (OSError, ApiError):
            self.close_connection = True

    def _linger(self) -> None:
        """Lets a client that still sends read its answer: a connection closed at once would take it away."""
        if not (self._unread or self._chunked) or isinstance(self.connection, ssl.SSLSocket):
            return
        self.wfile.flush()
        _shut(self.connection, socket.SHUT_WR)
        self._reader.deadline = time.monotonic() + _LINGER_S
        with contextlib.suppress(OSError):  # it has gone, or it never ends
            for _ in range(_LINGER_PIECES):
                if not self.rfile.read1(1 << 16):  # type: ignore[attr-defined]
                    break

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""
