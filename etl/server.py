"""The two ETLs: ``etl.sample`` behind the web server of the AIStore SDK.

``TrainETL`` and ``ValETL`` travel by cloudpickle (``client.etl(NAME).init_class(...)(TrainETL)``) to a cluster where no
file of this project exists: ``ship_by_value`` makes cloudpickle take the code along instead of its name.

What a storage node asks for each object is answered by ``etl.protocol`` or, where that cannot be, by a small ASGI
application of our own. Both make a sample at a time in the event loop, since a thread costs more than it brings there,
and look at the sockets between two of them. What could keep the others and ``/health`` waiting, a file that is on the
disk alone, a large photo or the index of a shard, goes to threads. The SDK's application makes everything in the event
loop, and all that has arrived before it looks at the sockets again. Whatever else AIStore may ask goes to the SDK's
application as it is: health, pipelines, objects that must be fetched from a target. Websockets are refused: an error
would have no answer.

What a request may make a pod read is in ``etl.files``, what it may make it hold in ``etl.limits``, and what a pod keeps
of photos in ``etl.pod_cache`` and ``etl.pod_index``.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import cloudpickle
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer
from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import etl
from etl.files import FileBytes, in_shard, normal_path, query_of, read, read_cached
from etl.jpeg_index import JpegIndex
from etl.limits import BODY_S, Limits, Refused, Unread
from etl.pod_cache import PodCache
from etl.pod_index import open_pod_index
from etl.protocol import Answer, label_header, take_connections
from etl.request import At, BadRequest, Request, answer, body, info_bytes, parse, proved, takes_long
from etl.sample import CorruptSample, transform
from etl.shard_index import index_of
from etl.turns import Turns

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
    index: JpegIndex | None = None
    kept: PodCache | None = None

    def __init__(self) -> None:
        super().__init__()
        self.index = open_pod_index(self.logger.warning)
        self.kept = PodCache.of_environment()
        self.limits = Limits.of_environment()
        self.held = 0  # bytes of all bodies that have come and are not answered yet
        self.unread = Unread(self.limits.memory_bytes)
        self._turns = Turns()
        self._waiting = 0
        self._threads = ThreadPoolExecutor(THREADS)  # starts none before there is work
        self._indexing = ThreadPoolExecutor(1)  # a shard takes seconds, and photos do not wait for it
        self.app = _application(self, self.app)

    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        """One sample. ``path`` differs by transport, so no pixel depends on it; bucket and name are in the proof."""
        request = self._request(etl_args)
        return proved(self._body(data, request), request, path, etl_args)

    def _request(self, etl_args: str) -> Request:
        request = parse(etl_args, self.recipe)
        self.limits.check(request)
        return request

    def _body(self, data: bytes | str, request: Request) -> bytes:
        """What is asked for, of an object's bytes, or of its file or what is kept of it."""
        kept, at = self.kept, request.at
        if request.wire == "info":
            return info_bytes(cache=kept.facts()) if kept else info_bytes()
        if request.wire == "index":
            return index_of(data, request) if isinstance(data, str) else answer(data, request)
        file = data if isinstance(data, str) else ""
        key = kept.key(file, at) if kept and file else None
        pixels = kept.sample(key, request) if kept and key else None
        if pixels is None:
            content = read(data, self.limits.object_bytes, at=at) if isinstance(data, str) else data
            if at and not isinstance(content, FileBytes):
                content = in_shard(content, at)
            source = content.file if isinstance(content, FileBytes) else ""
            entry = self.index.entry(source) if self.index and source else None
            pixels = transform(content, request.spec, request.key, entry=entry)
            if kept and key:
                kept.keep(file, key, content, at)
        return body(pixels, request)

    def _at_once(self, source: bytes | str, path: str, etl_args: str) -> Answer | None:
        """The answer, if it can be made without waiting and in little time; None: in a thread."""
        kept, request = self.kept, self._request(etl_args) if self.kept or '"at"' in etl_args else None
        at = request.at if request and request.wire != "info" else None
        key = kept.key(source, at) if kept and isinstance(source, str) else None
        if kept and key and request:
            try:
                pixels = kept.sample(key, request, wait=False) if request.wire != "info" else None
            except BlockingIOError:
                return None
            if pixels is not None:
                return 200, self.get_mime_type(), proved(body(pixels, request), request, path, etl_args)
            if kept.keeps_more:  # which takes a whole decode
                return None
        data = self.quick(source, at)
        return None if data is None else self._respond(data, path, etl_args)

    def quick(self, source: bytes | str, at: At | None = None) -> bytes | None:
        """The bytes of a photo of which a sample can be made at once, or None."""
        if isinstance(source, str):
            data = read_cached(source, QUICK_BYTES, at)
        else:
            data = in_shard(source, at) if at else source
        return data if data is not None and len(data) <= QUICK_BYTES and data.startswith(b"\xff\xd8") else None

    def ask(self, source: bytes | str, path: str, etl_args: str, tell: Callable[[Answer], None]) -> None:
        """Call ``tell`` from the event loop with the answer of an object, of its bytes or of its file, once."""
        if self._waiting >= self.limits.requests:
            tell(self.refuse(Refused(503, "this ETL has as many requests waiting as it may: ask again later"), path))
            return
        self._waiting += 1
        loop = asyncio.get_running_loop()

        def finish(answer: Answer) -> None:
            self._waiting -= 1
            tell(answer)

        def turn() -> None:
            try:
                long = takes_long(etl_args)
                answer = None if long else self._at_once(source, path, etl_args)
                if answer is None:
                    threads = self._indexing if long else self._threads
                    made = loop.run_in_executor(threads, self._respond, source, path, etl_args)
                    made.add_done_callback(
                        lambda made: finish(self.refuse(error, path) if (error := made.exception()) else made.result())
                    )
                    return
            except Exception as error:
                answer = self.refuse(error, path)
            finish(answer)

        self._turns.append(turn)

    def _respond(self, source: bytes | str, path: str, etl_args: str) -> Answer:
        return 200, self.get_mime_type(), self.transform(source, path, etl_args)

    def refuse(self, error: BaseException, path: str) -> Answer:
        """The answer that tells of an error, in the SDK's words; logged."""
        status, detail = _refusal(error, path)
        expected = isinstance(error, CorruptSample | BadRequest | FileNotFoundError | Refused)
        self.logger.error("%s: %s", path, detail, exc_info=None if expected else error)
        text = json.dumps({"detail": detail}, ensure_ascii=False, separators=(",", ":"))
        return status, "application/json", text.encode("utf-8", "backslashreplace")

    def sanitize_fqn(self, fqn: str) -> str:
        """The file's path without .. and the like."""
        return normal_path(fqn)

    async def _get_fqn_content(self, path: str) -> bytes:
        """For the SDK's application, which asks here for a file whose path the class does not want."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, read, normal_path(path), self.limits.object_bytes)

    async def _handle_request(self, path: str, request: Any, is_get: bool) -> Any:
        """As the SDK's, but a client can tell a bad photo (500) and a bad request (400) from a bad ETL."""
        try:
            return await super()._handle_request(path, request, is_get)
        except HTTPException as error:
            if isinstance(error.__cause__, CorruptSample | BadRequest | Refused):
                raise HTTPException(*_refusal(error.__cause__, path)) from error
            raise


class TrainETL(ImageETL):
    """RandomResizedCrop and flip, by the key in ``etl_args``."""

    recipe = "train"


class ValETL(ImageETL):
    """An ETL of validation samples: resize and central crop."""

    recipe = "val"


def ship_by_value() -> None:
    """Let cloudpickle pickle everything of this package by value from now on."""
    cloudpickle.register_pickle_by_value(etl)


def _application(server: ImageETL, sdk: ASGIApp) -> ASGIApp:
    """Answers objects that come with a request, or lie in a file that it names; hands other requests to ``sdk``."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            take_connections(server.ask, server.unread, application, receive)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "this ETL answers HTTP alone"})
            return
        if scope["type"] != "http":
            await sdk(scope, receive, send)
            return
        path, body = scope["path"].removeprefix("/"), _Body(server, receive)
        try:
            query = query_of(scope)
            fqn = query.get("etl_fqn", "").strip()
            comes = scope["method"] == "PUT" or (scope["method"] == "GET" and fqn)  # the object, or its path
            if not comes or any(name == _PIPELINE for name, _ in scope["headers"]):
                await sdk(scope, body.receive, send)
            else:
                source = normal_path(fqn) if fqn else await body.read()
                if source is not None:  # else the client has gone
                    etl_args = query.get("etl_args", "").strip()
                    made = await _ask(server, source, path, etl_args)
                    await _send(send, made, label_header(path, etl_args) if made[0] == 200 else [])
        except (BadRequest, Refused) as error:
            await _send(send, server.refuse(error, path), close=isinstance(error, Refused))
        finally:
            body.forget()
        transport = getattr(getattr(send, "__self__", None), "transport", None)  # uvicorn's
        if transport is not None:
            server.unread.add(transport, transport.get_write_buffer_size())

    return application


async def _ask(server: ImageETL, source: bytes | str, path: str, etl_args: str) -> Answer:
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def tell(answer: Answer) -> None:
        if not answered.cancelled():  # as when the server ends and does not wait
            answered.set_result(answer)

    server.ask(source, path, etl_args, tell)
    return await answered


async def _send(send: Send, answer: Answer, label: Sequence[tuple[bytes, bytes]] = (), close: bool = False) -> None:
    status, media_type, body = answer
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", media_type.encode()), *label]
    if close:  # what is left of the request is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _Body:
    """The body of a request, as far as it may be held, for as long as it may take to come."""

    def __init__(self, server: ImageETL, receive: Receive) -> None:
        self._receive = receive
        self._server, self._held = server, 0
        self._end = asyncio.get_running_loop().time() + BODY_S
        self._whole = False

    async def receive(self) -> Message:
        """The next message of ASGI. Raises Refused."""
        if self._whole:  # only the end of the connection can come, and nobody is waited for
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise Refused(408, f"the request's body has not come within {BODY_S:g} s") from None
        count = len(message.get("body", b""))
        limits = self._server.limits
        if self._held + count > limits.object_bytes:
            raise Refused(413, f"the request's body has more than the {limits.object_bytes} bytes that this ETL reads")
        if self._server.held + count > limits.memory_bytes:
            raise Refused(503, "this ETL holds as many bodies as it may: ask again later")
        self._server.held += count
        self._held += count
        self._whole = not message.get("more_body", False)
        return message

    async def read(self) -> bytes | None:
        """The whole body; None if the client goes away before its end. Raises Refused."""
        parts: list[bytes] = []
        while not self._whole:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
        return b"".join(parts)

    def forget(self) -> None:
        """Give back the memory of the body after the request was answered."""
        self._server.held -= self._held
        self._held = 0


def _refusal(error: BaseException, path: str) -> tuple[int, str]:
    """(status, detail) of an error; the SDK's but for bad photos and bad requests."""
    if isinstance(error, CorruptSample | BadRequest):
        return 500 if isinstance(error, CorruptSample) else 400, f"{type(error).__name__}: {error}"
    if isinstance(error, Refused):
        return error.status, str(error)
    if isinstance(error, FileNotFoundError):
        return 404, f"Error processing object {path!r}: file not found at {error.filename or path!r}."
    return 500, f"Processing error: {error}"
