"""The two ETLs: ``etl.sample`` behind the web server of the AIStore SDK.

``TrainETL`` and ``ValETL`` travel by cloudpickle (``client.etl(NAME).init_class(...)(TrainETL)``) to a cluster where no
file of this project exists: ``ship_by_value`` makes cloudpickle take the code along instead of its name.

What a storage node asks for each object is answered by ``etl.protocol`` or, where that cannot be, by a small ASGI
application of our own. Both make a sample at a time in the event loop, since a thread costs more than it brings there,
and look at the sockets between two of them. What could keep the others and ``/health`` waiting, a file that is on the
disk alone or a large photo, goes to threads. The SDK's application makes everything in the event loop, and all that has
arrived before it looks at the sockets again. Whatever else AIStore may ask goes to the SDK's application as it is:
health, pipelines, websockets, objects that must be fetched from a target.
"""

import asyncio
import json
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal
from urllib.parse import parse_qsl

import cloudpickle
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer
from fastapi import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

import etl
from etl.protocol import Answer, label_header, take_connections
from etl.request import BadRequest, answer, parse, proved
from etl.sample import CorruptSample

THREADS = 2
"""Threads of each process for what takes long."""

QUICK_BYTES = 1 << 20
"""A JPEG up to this size is made into a sample in milliseconds. Few photos of ImageNet are larger."""

_PIPELINE = b"ais-node-url"
"""Header of a request whose answer goes to another node."""


class ImageETL(FastAPIServer):
    """Answers a PUT of an object (its bytes, or its path with ``direct_file_access``) with one sample."""

    recipe: Literal["train", "val"]
    app: Any

    def __init__(self) -> None:
        super().__init__()
        self._turns = _Turns()
        self._threads = ThreadPoolExecutor(THREADS)  # starts none before there is work
        self.app = _application(self, self.app)

    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        """One sample. ``path`` differs by transport, so no pixel depends on it; its last part is in the proof."""
        request = parse(etl_args, self.recipe)
        if isinstance(data, str):
            with open(data, "rb", buffering=0) as file:
                data = file.read()
        return proved(answer(data, request), request, path, etl_args)

    def quick(self, source: bytes | str) -> bytes | None:
        """The bytes of a photo of which a sample can be made at once, or None."""
        data = source if isinstance(source, bytes) else _cached(source)
        return data if data is not None and len(data) <= QUICK_BYTES and data.startswith(b"\xff\xd8") else None

    def ask(self, source: bytes | str, path: str, etl_args: str, tell: Callable[[Answer], None]) -> None:
        """Call ``tell`` from the event loop with the answer of an object, of its bytes or of its file."""
        loop = asyncio.get_running_loop()

        def turn() -> None:
            data = self.quick(source)
            if data is not None:
                tell(self._respond(data, path, etl_args))
            else:
                made = loop.run_in_executor(self._threads, self._respond, source, path, etl_args)
                made.add_done_callback(lambda made: tell(made.result()))

        self._turns.append(turn)

    def _respond(self, source: bytes | str, path: str, etl_args: str) -> Answer:
        """In the SDK's words."""
        try:
            return 200, self.get_mime_type(), self.transform(source, path, etl_args)
        except Exception as error:
            status, detail = _refusal(error, path)
            expected = isinstance(error, CorruptSample | BadRequest | FileNotFoundError)
            self.logger.error("%s: %s", path, detail, exc_info=None if expected else error)
            text = json.dumps({"detail": detail}, ensure_ascii=False, separators=(",", ":"))
            return status, "application/json", text.encode("utf-8", "backslashreplace")

    async def _handle_request(self, path: str, request: Any, is_get: bool) -> Any:
        """As the SDK's, but a client can tell a bad photo (500) and a bad request (400) from a bad ETL."""
        try:
            return await super()._handle_request(path, request, is_get)
        except HTTPException as error:
            if isinstance(error.__cause__, CorruptSample | BadRequest):
                raise HTTPException(*_refusal(error.__cause__, path)) from error
            raise


class TrainETL(ImageETL):
    """RandomResizedCrop and flip, by the key in ``etl_args``."""

    recipe = "train"


class ValETL(ImageETL):
    """Resize and central crop."""

    recipe = "val"


def ship_by_value() -> None:
    """Let cloudpickle pickle everything of this package by value from now on."""
    cloudpickle.register_pickle_by_value(etl)


def _application(server: ImageETL, sdk: ASGIApp) -> ASGIApp:
    """Answers objects that come with a request, or lie in a file that it names; hands other requests to ``sdk``."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            take_connections(server, application, receive)
        query = _query(scope)
        if query is None:
            await sdk(scope, receive, send)
            return
        fqn = query.get("etl_fqn", "").strip()
        source = server.sanitize_fqn(fqn) if fqn else await _body(receive)
        if source is None:  # the client has gone
            return
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def tell(answer: Answer) -> None:
            if not answered.cancelled():  # as when the server ends and does not wait
                answered.set_result(answer)

        server.ask(source, scope["path"].removeprefix("/"), query.get("etl_args", "").strip(), tell)
        status, media_type, body = await answered
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", media_type.encode())]
        if status == 200:
            headers += label_header(scope["path"], query.get("etl_args", "").strip())
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def _query(scope: Scope) -> dict[str, str] | None:
    """The query of a request for an object that is at hand, or None for anything else."""
    if scope["type"] != "http" or scope["method"] not in ("PUT", "GET"):
        return None
    if any(name == _PIPELINE for name, _ in scope["headers"]):
        return None
    query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    return query if scope["method"] == "PUT" or query.get("etl_fqn", "").strip() else None


async def _body(receive: Receive) -> bytes | None:
    """The request's body; None if the client goes away before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _refusal(error: BaseException, path: str) -> tuple[int, str]:
    """(status, detail) of an error; the SDK's but for bad photos and bad requests."""
    if isinstance(error, CorruptSample | BadRequest):
        return 500 if isinstance(error, CorruptSample) else 400, f"{type(error).__name__}: {error}"
    if isinstance(error, FileNotFoundError):
        return 404, f"Error processing object {path!r}: file not found at {error.filename or path!r}."
    return 500, f"Processing error: {error}"


def _cached(path: str) -> bytes | None:
    """A file's bytes if they can be had without waiting for a disk (preadv2's RWF_NOWAIT), or None.

    None also for large files, for systems and file systems that cannot tell, and for whatever cannot be read.
    """
    no_wait = getattr(os, "RWF_NOWAIT", None)
    if no_wait is None:
        return None
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # the last for what is no file
    except OSError:  # told by whoever reads it
        return None
    try:
        size = os.fstat(file).st_size
        if size > QUICK_BYTES:
            return None
        data = bytearray(size)
        return bytes(data) if os.preadv(file, [data], 0, no_wait) == size else None
    except OSError:
        return None
    finally:
        os.close(file)


class _Turns:
    """Calls functions in the event loop, first come, first served; between two of them it serves the sockets."""

    _ROUNDS = 3
    """Of the event loop: a new connection, its request, its answer. uvloop accepts one connection in each."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def append(self, function: Callable[[], None]) -> None:
        """Call ``function`` when it is its turn."""
        self._waiting.append(function)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next, self._ROUNDS)

    def _next(self, rounds: int) -> None:
        if rounds:
            asyncio.get_running_loop().call_soon(self._next, rounds - 1)
            return
        try:
            self._waiting[0]()
        finally:
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._next, self._ROUNDS)
