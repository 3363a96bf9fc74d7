"""The two ETLs: ``etl.sample`` behind the web server of the AIStore SDK.

``TrainETL`` and ``ValETL`` travel by cloudpickle (``client.etl(NAME).init_class(...)(TrainETL)``) to a cluster where no
file of this project exists: ``ship_by_value`` makes cloudpickle take the code along instead of its name.

What a storage node asks for each object is answered by a small ASGI application of our own, which transforms in
threads; the SDK's would run a transform inside the event loop, where ``/health`` and all other requests wait for it.
Whatever else AIStore may ask goes to the SDK's application as it is: health, pipelines, websockets, objects that must
be fetched from a target.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal
from urllib.parse import parse_qsl

import cloudpickle
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer
from fastapi import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

import etl
from etl.request import BadRequest, answer, parse
from etl.sample import CorruptSample

THREADS = 2
"""Threads that transform in each process: while one waits for the disk or for the interpreter, the other decodes."""

_PIPELINE = b"ais-node-url"
"""Header of a request whose answer goes to another node."""


class ImageETL(FastAPIServer):
    """Answers a PUT of an object (its bytes, or its path with ``direct_file_access``) with one sample."""

    recipe: Literal["train", "val"]
    app: Any

    def __init__(self) -> None:
        super().__init__()
        self.app = _application(self, self.app)

    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        """One sample. ``path`` differs by transport, so nothing depends on it."""
        request = parse(etl_args, self.recipe)
        if isinstance(data, str):
            with open(data, "rb", buffering=0) as file:
                data = file.read()
        return answer(data, request)

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
    threads = _Threads(THREADS)

    def respond(source: bytes | str, path: str, etl_args: str) -> tuple[int, str, bytes]:
        """(status, media type, body) in the SDK's words."""
        try:
            return 200, server.get_mime_type(), server.transform(source, path, etl_args)
        except Exception as error:
            status, detail = _refusal(error, path)
            expected = isinstance(error, CorruptSample | BadRequest | FileNotFoundError)
            server.logger.error("%s: %s", path, detail, exc_info=None if expected else error)
            text = json.dumps({"detail": detail}, ensure_ascii=False, separators=(",", ":"))
            return status, "application/json", text.encode("utf-8", "backslashreplace")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        query = _query(scope)
        if query is None:
            await sdk(scope, receive, send)
            return
        fqn = query.get("etl_fqn", "").strip()
        source = server.sanitize_fqn(fqn) if fqn else await _body(receive)
        if source is None:  # the client has gone
            return
        path, etl_args = scope["path"].removeprefix("/"), query.get("etl_args", "").strip()
        status, media_type, body = await threads.run(respond, source, path, etl_args)
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", media_type.encode())]
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


class _Threads:
    """Calls functions in threads, first come, first served.

    An executor of ``concurrent.futures`` does the same for 0.05 to 0.1 ms of CPU more a call.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._started = False
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]] = SimpleQueue()

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function`` returns or raises. A call that is cancelled before its turn is not made."""
        if not self._started:  # here: some processes have an ETL but never serve it
            self._started = True
            for _ in range(self._count):
                Thread(target=self._work, daemon=True).start()
        future = asyncio.get_running_loop().create_future()
        self._calls.put((future, function, arguments))
        return await future

    def _work(self) -> None:
        while True:
            future, function, arguments = self._calls.get()
            if not future.cancelled():
                try:
                    outcome = future.set_result, function(*arguments)
                except BaseException as error:
                    outcome = future.set_exception, error
                with suppress(RuntimeError):  # the loop was closed: nobody waits
                    future.get_loop().call_soon_threadsafe(_deliver, future, *outcome)
                del outcome
            del future, function, arguments  # a thread that waits keeps nothing


def _deliver(future: "asyncio.Future[Any]", set_outcome: Callable[[Any], None], outcome: Any) -> None:
    if not future.cancelled():
        set_outcome(outcome)
