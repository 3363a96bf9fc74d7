"""HTTP for the proxy and the target by uvicorn, within bounds for clients that nobody knows yet.

uvicorn has no option for the time and the size of a head, or for whose connection goes when there are too many.
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

IDLE_S = 60.0
"""How long a connection may idle; its next request's head must be whole by then."""

MAX_CONNECTIONS = 1024
"""The most connections of a node. A new one closes the oldest of those that have never shown a token."""

HEAD_BYTES = 1 << 16
"""The most bytes of a request's head that comes in several pieces."""

_TRAILERS = 64
_HANDSHAKE = b"\x16"
_PLAIN = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
"""What Go's server, and so AIS, answers to plain HTTP."""


@dataclass
class Port:
    """A listening socket, the application that answers there, and its open connections."""

    listener: socket.socket
    application: ASGIApp
    tls: ssl.SSLContext | None = None
    idle_s: float = IDLE_S
    most: int = MAX_CONNECTIONS
    open: set[asyncio.Task[None]] = field(default_factory=set)
    strangers: dict[socket.socket, None] = field(default_factory=dict)
    """Connections that have never shown a token, the oldest first."""

    def accept(self, server: uvicorn.Server) -> None:
        """Takes a new connection, if there is room for it; to be called in the event loop when one has come."""
        loop = asyncio.get_running_loop()
        try:
            connection, _ = self.listener.accept()
        except OSError:  # too many files, mostly
            loop.remove_reader(self.listener)
            loop.call_later(0.1, loop.add_reader, self.listener, self.accept, server)
            return
        room = len(self.open) < self.most
        if not room and self.strangers and len(self.open) < 2 * self.most:
            room = True
            with suppress(OSError):  # closed already
                oldest = next(iter(self.strangers))
                del self.strangers[oldest]
                oldest.shutdown(socket.SHUT_RDWR)
        if not room:
            connection.close()
            return
        connection.setblocking(False)
        self.strangers[connection] = None
        task = loop.create_task(self._serve(connection, server))
        self.open.add(task)
        task.add_done_callback(self.open.discard)

    async def _serve(self, connection: socket.socket, server: uvicorn.Server) -> None:
        """One connection, from the TLS handshake to its end."""
        loop = asyncio.get_running_loop()
        with connection, suppress(OSError):  # a client that trusts us as little as we trust it: TLS has told it so
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls and not await _begins_tls(connection, self.idle_s):
                connection.recv(1 << 16)  # what is left unread would end the connection before its answer
                connection.send(_PLAIN)
            else:
                protocol = Connection(self, connection, server)
                limit = self.idle_s if self.tls else None
                await loop.connect_accepted_socket(
                    lambda: protocol, connection, ssl=self.tls, ssl_handshake_timeout=limit
                )
                await protocol.ended.wait()
        self.strangers.pop(connection, None)


async def _begins_tls(connection: socket.socket, idle_s: float) -> bool:
    """Whether a client's first byte is that of a handshake. Raises OSError."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await asyncio.wait_for(readable.wait(), idle_s)
    finally:
        loop.remove_reader(connection)
    return connection.recv(1, socket.MSG_PEEK) == _HANDSHAKE


class Connection(HttpToolsProtocol):
    """uvicorn's, whose heads are bounded. An application finds it in its scope: ``scope["state"]["connection"]``."""

    def __init__(self, port: Port, connection: socket.socket, server: uvicorn.Server) -> None:
        super().__init__(server.config, server.server_state, {"connection": self})
        self.app = port.application  # type: ignore[assignment]
        self.idle_s = port.idle_s
        self.half_closed = False
        self.ended = asyncio.Event()
        self._port, self._connection = port, connection
        self._head_bytes, self._trailers = -1, 0  # of a head that has begun; of lines behind a body
        self._deadline: asyncio.TimerHandle | None = None

    def show_token(self) -> None:
        """The request may be answered: the connection is no stranger's."""
        self._port.strangers.pop(self._connection, None)

    def connection_made(self, transport: Any) -> None:
        """The first head must come in time."""
        super().connection_made(transport)
        self._expect_head()

    def _expect_head(self) -> None:
        self._end_deadline()
        self._deadline = self.loop.call_later(self.idle_s, self.transport.abort)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def data_received(self, data: bytes) -> None:
        """Take bytes that a client has sent."""
        begun = self._head_bytes >= 0
        super().data_received(data)
        if begun and self._head_bytes >= 0:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.send_400_response(f"The request's head has more than {HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._head_bytes = self._trailers = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the head, or one behind the body, which says nothing. uvicorn answers a ValueError with 400."""
        if self._head_bytes < 0:
            self._trailers += 1
            if self._trailers > _TRAILERS:
                raise ValueError("the lines behind the last chunk do not end")
        else:
            super().on_header(name, value)
            name, value = self.headers[-1]
            if name == b"transfer-encoding" and (value.lower() != b"chunked" or name in dict(self.headers[:-1])):
                raise ValueError("no Transfer-Encoding but chunked is understood")

    def on_headers_complete(self) -> None:
        """The application answers from here on."""
        self._head_bytes = -1
        self._end_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """What comes of a body behind its answer is dropped."""
        super().on_body(body)
        if self._deadline is not None:
            self._expect_head()

    def on_response_complete(self) -> None:
        """The next head must come in time."""
        super().on_response_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            if self.half_closed:
                self.transport.close()
            else:
                self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """Answer what makes no sense: the connection ends, and no answer that has begun goes on behind that."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        within = cycle is not None and cycle.response_started and (self._head_bytes < 0 or not cycle.response_complete)
        if within:  # a body that goes wrong behind its answer, or behind the head of one
            self.transport.close()
        else:
            super().send_400_response(msg)

    def eof_received(self) -> Any:
        """The client sends no more, and may wait for its answer (without TLS, where asyncio does not know that)."""
        self.half_closed = True
        if self.cycle is None or self.cycle.response_complete:
            return False
        self.cycle.message_event.set()  # to whoever waits for a body
        return self.scheme == "http"

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the client has closed the connection."""
        self._end_deadline()
        super().connection_lost(exc)
        self.ended.set()


class WireServer:
    """Serves the ports from construction until ``close``, in an event loop in a thread of its own."""

    def __init__(self, ports: Sequence[Port]) -> None:
        self._ports = ports
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._lifespan,
                interface="asgi3",
                lifespan="on",
                ws="none",
                log_config=None,
                log_level=logging.CRITICAL,  # what strangers send is no error of ours; applications print theirs
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=int(IDLE_S) + 1,  # a connection's own deadline comes first
                timeout_graceful_shutdown=1,
            )
        )
        for port in ports:
            port.listener.setblocking(False)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": []}, daemon=True)
        self._thread.start()

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application that uvicorn starts and stops; the ports have theirs."""
        loop = asyncio.get_running_loop()
        await receive()
        for port in self._ports:
            loop.add_reader(port.listener, port.accept, self._server)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    def close(self) -> None:
        """Stops listening, and ends all connections."""
        self._server.should_exit = True
        self._thread.join()
        for port in self._ports:
            port.listener.close()
