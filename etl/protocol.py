"""The shortest way from a storage node's request to a sample.

Nearly all of what a node asks is ``PUT /BUCKET/OBJECT?etl_args=…&etl_fqn=PATH`` without a body. Here it is answered
without a parser's callbacks, a task and ASGI's messages; they cost as much again. A connection on which something else
is asked is uvicorn's from then on. Connections that idle are kept: they are the storage node's, which reuses them, and
closing one just when it does fails its request.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote, unquote_plus

import uvicorn
from starlette.types import ASGIApp, Receive
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from etl.files import is_own_file, normal_path
from etl.limits import HEAD_BYTES, HEAD_S, Unread
from etl.request import LABEL, label, statement

Answer = tuple[int, str, bytes]
"""(status, media type, body)."""

Ask = Callable[[bytes | str, str, str, Callable[[Answer], None]], None]
"""``etl.server.ImageETL.ask``."""

TESTED = ((0, 32), (0, 54))
"""Oldest and newest version of uvicorn whose protocol this one is known to extend; others keep their own."""

_REQUEST = re.compile(
    rb"""(PUT|GET) /([!"$->@-~]*)\?(?:etl_args=([!"$%'-~]*)&)?etl_fqn=([!"$%'-~]+) HTTP/1\.1\r\n"""
    rb"""((?:[^\r\n]+\r\n)*)\r\n"""
)
"""Method, path, etl_args, etl_fqn and headers. In ASCII without space, #, and ? in the path or & in the values."""

_SPECIAL = re.compile(
    rb"(?im)^(?:ais-node-url|connection|expect|transfer-encoding|upgrade|content-length(?!: *0\r)|[ \t])"
)
"""Headers by which a request is none of those, and lines that go on."""


def label_header(path: str, etl_args: str) -> list[tuple[bytes, bytes]]:
    """The header by which an answer to a request with a tag says which sample it is; none for another request."""
    value = label(statement(path, etl_args)) if '"tag"' in etl_args else None
    return [(LABEL.encode(), value)] if value else []


def take_connections(ask: Ask, unread: Unread, application: ASGIApp, receive: Receive) -> None:
    """Have ``ask`` answer new connections before ``application`` does, where uvicorn serves that and nothing around it.

    ``unread`` counts the answers' bytes. ``receive`` is of ASGI's lifespan, which comes before all connections:
    uvicorn's belongs to an object that has its configuration. A command line could name a protocol too, but that of
    AIStore's runtime does not.
    """
    config = getattr(getattr(receive, "__self__", None), "config", None)
    if not isinstance(config, uvicorn.Config) or config.http_protocol_class is not HttpToolsProtocol:
        return
    served = config.loaded_app
    if isinstance(served, ProxyHeadersMiddleware):  # uvicorn's own, which changes nothing that matters here
        served = served.app
    version = tuple(int(number) for number in re.findall(r"\d+", uvicorn.__version__)[:2])
    if served is application and TESTED[0] <= version <= TESTED[1]:
        config.http_protocol_class = partial(ObjectProtocol, ask, unread)  # type: ignore[assignment]  # it is only called


class ObjectProtocol(HttpToolsProtocol):
    """A connection, whose requests for objects ``ask`` answers."""

    def __init__(self, ask: Ask, unread: Unread, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._answer = ask
        self._unread = unread
        self._ours = True
        self._asked = False
        self._early = b""
        self._last = False
        self._head_bytes = -1  # of a request whose head has begun
        self._head_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Of a client; most often one whole request."""
        if self._asked:  # uvicorn may have it when its turn comes
            self._early += data
            self.flow.pause_reading()
        elif not (self._ours and self._ask(data)):
            self._ours = False
            super().data_received(data)
            if self._head_bytes >= 0:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES:
                    self._refuse_head()

    def on_message_begin(self) -> None:
        """The first byte of a request that uvicorn answers."""
        super().on_message_begin()
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(HEAD_S, self._refuse_head)

    def on_headers_complete(self) -> None:
        """Take note that the head of a request is complete."""
        self._end_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the client has closed the connection."""
        self._end_head()
        super().connection_lost(exc)

    def _end_head(self) -> None:
        self._head_bytes = -1
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_head(self) -> None:
        self._end_head()
        if not self.transport.is_closing():
            self.logger.warning("A request's head has over %d bytes, or has not come within %g s.", HEAD_BYTES, HEAD_S)
            self.send_400_response("The request's head is too large or too slow.")

    def _ask(self, data: bytes) -> bool:
        """Whether the data are one request for an object by its file; asks the ETL for it."""
        match = _REQUEST.fullmatch(data)
        if match is None or _SPECIAL.search(match[5]):
            return False
        path, etl_args = unquote(match[2].decode()), unquote_plus((match[3] or b"").decode()).strip()
        source = normal_path(unquote_plus(match[4].decode()).strip())
        if not is_own_file(match[1].decode(), path, source):
            return False  # refused by the application
        self._asked = True
        self._answer(source, path, etl_args, partial(self._tell, label_header(path, etl_args)))
        return True

    def _tell(self, label: list[tuple[bytes, bytes]], answer: Answer) -> None:
        if self.transport.is_closing():
            return
        status, media_type, body = answer
        headers = [
            *self.server_state.default_headers,
            (b"content-length", b"%d" % len(body)),
            (b"content-type", media_type.encode()),
            *(label if status == 200 else ()),
        ]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.writelines([STATUS_LINE[status] + head + b"\r\n", body])
        self._unread.add(self.transport, len(body))
        self._asked = False
        if self._last:
            self.transport.close()
        elif self._early:
            early, self._early = self._early, b""
            self.flow.resume_reading()
            self.data_received(early)

    def shutdown(self) -> None:
        """The server ends: an answer that is under way is still given."""
        if self._asked:
            self._last = True
        else:
            super().shutdown()
