"""The shortest way from a storage node's request to a sample, for the container image.

Nearly all of what a node asks is ``PUT /BUCKET/OBJECT?etl_args=…&etl_fqn=PATH`` without a body. Here it is answered
without a parser's callbacks, a task and ASGI's messages; they cost as much again. A connection on which something else
is asked is uvicorn's from then on. Connections that idle are kept: they are the storage node's, which reuses them, and
closing one just when it does fails its request.
"""

import re
from typing import Any
from urllib.parse import unquote, unquote_plus

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from etl.server import Answer, ImageETL

_REQUEST = re.compile(
    rb"""(?:PUT|GET) /([!"$->@-~]*)\?(?:etl_args=([!"$%'-~]*)&)?etl_fqn=([!"$%'-~]+) HTTP/1\.1\r\n"""
    rb"""((?:[^\r\n]+\r\n)*)\r\n"""
)
"""Path, etl_args, etl_fqn and headers. In ASCII without space, #, and ? in the path or & in the values."""

_SPECIAL = re.compile(
    rb"(?im)^(?:ais-node-url|connection|expect|transfer-encoding|upgrade|content-length(?!: *0\r)|[ \t])"
)
"""Headers by which a request is none of those, and lines that go on."""


class ObjectProtocol(HttpToolsProtocol):
    """For ``uvicorn --http``, as a subclass that has ``etl``."""

    etl: ImageETL

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._ours = True
        self._asked = False
        self._early = b""
        self._last = False

    def data_received(self, data: bytes) -> None:
        """Of a client; most often one whole request."""
        if self._asked:  # uvicorn may have it when its turn comes
            self._early += data
            self.flow.pause_reading()
        elif not (self._ours and self._ask(data)):
            self._ours = False
            super().data_received(data)

    def _ask(self, data: bytes) -> bool:
        """Whether the data are one request for an object by its file; asks the ETL for it."""
        match = _REQUEST.fullmatch(data)
        if match is None or _SPECIAL.search(match[4]):
            return False
        path, etl_args = unquote(match[1].decode()), unquote_plus((match[2] or b"").decode()).strip()
        source = self.etl.sanitize_fqn(unquote_plus(match[3].decode()).strip())
        self._asked = True
        self.etl.ask(source, path, etl_args, self._tell)
        return True

    def _tell(self, answer: Answer) -> None:
        if self.transport.is_closing():
            return
        status, media_type, body = answer
        headers = [
            *self.server_state.default_headers,
            (b"content-length", b"%d" % len(body)),
            (b"content-type", media_type.encode()),
        ]
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.writelines([STATUS_LINE[status] + head + b"\r\n", body])
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
