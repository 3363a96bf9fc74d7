"""What a node is asked: the request, and the JSON that it may bring."""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from aistore_data.embedded.errors import ApiError
from aistore_data.embedded.wire import Connection

MAX_NAME_BYTES = 1024
"""The most bytes of an object's name: a file's path has 4 KB, and some characters take three bytes of it."""
MAX_MESSAGE_BYTES = 16 << 20
"""The most bytes of a message, such as an ETL's class or the names of a batch."""
_LINGER_S, _LINGER_PIECES = 1.0, 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def header(value: str) -> str:
    """What may stand in a header as UTF-8, as starlette wants it."""
    return _CONTROL.sub(" ", value).encode("utf-8", "surrogateescape").decode("latin-1")


def json_answer(content: object) -> Response:
    """JSON in ASCII, since a client's text may hold half a character, which UTF-8 cannot."""
    return Response(json.dumps(content), media_type="application/json")


class Message:
    """A JSON object that a client sends, read by typed fields; a missing one, or null, is the default.

    Raises ApiError 400 for a field of another type than is expected.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    @classmethod
    def of_body(cls, body: Iterable[bytes]) -> "Message":
        """Empty without a body. Raises ApiError 400, 413."""
        text = bytearray()
        for piece in body:
            text += piece
            if len(text) > MAX_MESSAGE_BYTES:
                raise ApiError(413, f"the request's body has more than {MAX_MESSAGE_BYTES} bytes")
        try:
            fields = json.loads(text.decode()) if text else {}
        except (ValueError, RecursionError) as error:
            raise ApiError(400, f"the request's body is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ApiError(400, "the request's body is not a JSON object")
        return cls(fields)

    def text(self, name: str) -> str:
        """A string that can be written as UTF-8; else ""."""
        value: str = self._field(name, str, "a string") or ""
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _wrong(name, "valid Unicode") from None
        return value

    def whole(self, name: str) -> int:
        """A number from 0 to 2**63 - 1, also as a string; else 0."""
        value = self.fields.get(name)
        if value is None or value == "":
            return 0
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise _wrong(name, "a whole number")
        return value

    def message(self, name: str) -> "Message":
        """An object; else an empty one."""
        return Message(self._field(name, dict, "an object") or {})

    def messages(self, name: str) -> list["Message"]:
        """Return a field that is a list of objects."""
        return [Message({name: item}).message(name) for item in self._field(name, list, "a list") or []]

    def _field(self, name: str, kind: type, wanted: str) -> Any:
        value = self.fields.get(name)
        if value is not None and not isinstance(value, kind):
            raise _wrong(name, wanted)
        return value


def _wrong(name: str, wanted: str) -> ApiError:
    return ApiError(400, f'"{name}" of the message is not {wanted}')


class Call(Request):
    """One request. Its path is split before it is decoded, as AIS does. Methods may block: they are for threads."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, receive)
        self.connection: Connection = scope["state"]["connection"]
        self.loop = asyncio.get_running_loop()
        raw_path = scope["raw_path"].decode("latin-1")
        self.raw_query = scope["query_string"].decode("latin-1")
        self.parts = raw_path.lstrip("/").split("/", 3)  # v1, kind, bucket or ETL, the rest
        self.decoded_path = unquote(raw_path, errors="surrogateescape")
        self.query_items = parse_qsl(self.raw_query, keep_blank_values=True)
        self.query = dict(self.query_items)
        self.kind = self.parts[1] if len(self.parts) > 1 else ""
        self.unread = "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    async def next_piece(self) -> bytes:
        """Read more of the body, while ``unread``. Raises TimeoutError, or ConnectionError if the client is gone."""
        async with asyncio.timeout(self.connection.idle_s):
            message = await self.receive()
        self.unread = message.get("more_body", False)
        if message["type"] == "http.disconnect" or (self.unread and self.connection.half_closed):
            raise ConnectionResetError("the client closed the connection within a request")
        return bytes(message["body"])

    async def linger(self) -> None:
        """Lets a client that still sends read its answer: a connection closed at once would take it away."""
        with suppress(OSError):  # it has gone, or it never ends
            async with asyncio.timeout(_LINGER_S):
                for _ in range(_LINGER_PIECES):
                    if self.unread:
                        await self.next_piece()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body of the request as it arrives."""
        while self.unread:
            yield asyncio.run_coroutine_threadsafe(self.next_piece(), self.loop).result()

    def message(self) -> Message:
        """The body as a JSON object; empty without a body. Raises ApiError 400, 413."""
        return Message.of_body(self.pieces())

    def bucket_key(self) -> str:
        """The store's name of the bucket in path and query: with its namespace, ``#NAMESPACE/NAME``, if it has one.

        Raises ApiError 404 for a bucket of a cloud or of another cluster.
        """
        name = self.parts[2] if len(self.parts) > 2 else ""
        provider = self.query.get("provider") or "ais"
        if provider != "ais":
            message = f"failed to lookup bucket {provider}://{name}, err: the embedded AIS has no backends"
            raise ApiError(404, message, "ErrFailedTo")
        cluster, _, namespace = self.query.get("namespace", "").removeprefix("@").partition("#")
        if cluster:
            raise ApiError(404, f'remote cluster "{cluster}" does not exist', "ErrFailedTo")
        return f"#{namespace}/{name}" if namespace else name

    def object_name(self) -> str:
        """The decoded name of the object in the path. Raises ApiError 400 for one that AIS does not take."""
        try:
            name = unquote("".join(self.parts[3:]), errors="strict")
        except UnicodeDecodeError:
            raise ApiError(400, "the object's name is not UTF-8") from None
        if not name or "\0" in name:
            raise ApiError(400, f"invalid object name {name!r}")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise ApiError(400, f'invalid object name "{name[:80]}...": longer than {MAX_NAME_BYTES} bytes')
        if name.endswith("/") or name.startswith("~/") or {".", ".."} & set(name.split("/")):
            raise ApiError(400, f'invalid object name "{name}"', "errInvalidPath")
        return name

    def not_served(self) -> ApiError:
        """The error for a call that this server does not know."""
        return ApiError(404, f"{self.method} {self.decoded_path} is not served by the embedded AIS", "ErrNotServed")
