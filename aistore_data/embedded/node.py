"""The HTTP side that the proxy and the target share: requests, answers, errors, and who may ask."""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import xxhash
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from aistore_data.embedded.calls import Call, json_answer
from aistore_data.embedded.errors import PROXY_ID, TARGET_ID, ApiError
from aistore_data.embedded.etls import Etls
from aistore_data.embedded.store import Store

SIGNATURE_VALID_S = 300
_ERROR_HEADERS = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}


@dataclass
class Cluster:
    """What the proxy and the target share."""

    token: str
    store: Store
    etls: Etls
    proxy_url: str
    target_url: str
    started_ns: int = field(default_factory=time.time_ns)
    uuid: str = field(default_factory=lambda: secrets.token_urlsafe(6))
    signing_key: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def sign(self, method: str, path: str, query: list[tuple[str, str]]) -> str:
        """A signature of a redirected request, over its decoded parts: clients may encode them differently.

        `requests`, and so the SDK, drops the Authorization header when a redirect leads to another port. The proxy,
        which has checked the token, therefore signs what it redirects, and the target takes that instead.
        """
        text = json.dumps([method, path, sorted(query)])
        return hmac.new(self.signing_key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()

    def smap(self) -> dict[str, Any]:
        """The cluster map: one proxy, one target."""
        proxy = _snode(PROXY_ID, "proxy", self.proxy_url, flags=2)
        return {
            "pmap": {PROXY_ID: proxy},
            "tmap": {TARGET_ID: _snode(TARGET_ID, "target", self.target_url, flags=0)},
            "proxy_si": proxy,
            "uuid": self.uuid,
            "creation_time": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.started_ns / 1e9)),
            "version": "5",
        }


def _snode(node_id: str, kind: str, url: str, flags: int) -> dict[str, Any]:
    parts = urlsplit(url)
    net = {"node_ip_addr": parts.hostname, "daemon_port": str(parts.port), "direct_url": url}
    return {
        **dict.fromkeys(("public_net", "intra_data_net", "intra_control_net"), net),
        "daemon_type": kind,
        "daemon_id": node_id,
        "flags": flags,
        "id_digest": xxhash.xxh64_intdigest(node_id.encode()),
    }


class Node:
    """An ASGI application that checks who asks, calls ``route`` in a thread and turns its errors into AIS's."""

    node_id = ""

    def __init__(self, cluster: Cluster, threads: ThreadPoolExecutor) -> None:
        self.cluster = cluster
        self._threads = threads

    def route(self, call: Call) -> Response:
        """Answers the request, in a thread; raises ApiError."""
        raise NotImplementedError

    def at_once(self, call: Call) -> Response:
        """The answer, if it can be had without a wait and so without a thread. Raises BlockingIOError, ApiError."""
        raise BlockingIOError

    def allowed_without_token(self, call: Call) -> bool:
        """Whether something in the request itself stands for the token."""
        return False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request of any method."""
        call, close = Call(scope, receive), True
        try:
            self._check_token(call)
            close = False
            call.connection.show_token()
            if call.parts[0] != "v1":
                raise ApiError(404, f'path "{scope["raw_path"].decode()}" is not served: AIS\'s API starts with /v1')
            try:
                response = self.at_once(call)
            except BlockingIOError:
                response = await call.loop.run_in_executor(self._threads, self.route, call)
        except ApiError as error:
            response = self._error(call, error)
        except (ConnectionError, TimeoutError):  # the client went away
            call.connection.transport.abort()
            return
        except Exception as error:
            traceback.print_exc()
            response = self._error(call, ApiError(500, f"{type(error).__name__}: {error}"))

        async def put(message: Message) -> None:
            if close and call.unread and message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                await call.linger()
                message = {**message, "body": b""}
            async with asyncio.timeout(call.connection.idle_s):
                await send(message)

        if close or (call.unread and "expect" in call.headers):  # nobody told the client to send its body
            response.headers["connection"] = "close"
        try:
            await response(scope, receive, put)
        except (ConnectionError, TimeoutError):  # the client does not read it
            call.connection.transport.abort()

    def _check_token(self, call: Call) -> None:
        given = call.headers.get("authorization", "")
        known = hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self.cluster.token}".encode())
        if not known and not self.allowed_without_token(call):
            what = 'invalid token from header "Authorization": invalid token' if given else "token required"
            raise ApiError(401, what)

    def _error(self, call: Call, error: ApiError) -> Response:
        """An error as AIS sends it: JSON in the body, or in the header Hdr-Error of an answer to HEAD."""
        host, port = call.client or ("", 0)
        problem = {
            **({"tcode": error.tcode} if error.tcode else {}),
            "message": error.message,
            "method": call.method,
            "url_path": call.decoded_path,
            "remote_addr": f"{host}:{port}",
            "caller": "",
            "node": f"{self.node_id[0]}[{self.node_id}]",
            "status": error.status,
        }
        text = json.dumps(problem)
        if call.method == "HEAD":
            return Response(status_code=error.status, headers=_ERROR_HEADERS | {"Hdr-Error": text})
        return Response(text + "\n", error.status, _ERROR_HEADERS)

    def common(self, call: Call) -> Response:
        """Answers the calls that proxy and target share. Raises ApiError 404 if it is none of them."""
        if call.method in ("GET", "HEAD") and call.kind == "health":
            uptime = str(time.time_ns() - self.cluster.started_ns)
            return Response(headers={"Ais-Cluster-Uptime": uptime, "Ais-Node-Uptime": uptime})
        if call.method == "GET" and call.kind == "daemon" and call.query.get("what") == "smap":
            return json_answer(self.cluster.smap())
        raise call.not_served()


def signed_location(cluster: Cluster, call: Call) -> str:
    """Return the target's address of an object call: the same path, with ``pid``, ``utm`` and a signature."""
    utm = f"{time.time_ns():x}"
    items = [*call.query_items, ("pid", PROXY_ID), ("utm", utm)]
    added = urlencode({"pid": PROXY_ID, "utm": utm, "sig": cluster.sign(call.method, call.decoded_path, items)})
    path = quote(call.decoded_path, safe="/$&+:=@,;~", errors="surrogateescape")
    return f"{cluster.target_url}{path}?{call.raw_query}{'&' if call.raw_query else ''}{added}"


def is_signed(cluster: Cluster, call: Call) -> bool:
    """Whether our proxy redirected exactly this request, not long ago."""
    items = [item for item in call.query_items if item[0] != "sig"]
    expected = cluster.sign(call.method, call.decoded_path, items)
    if not hmac.compare_digest(call.query.get("sig", "").encode("utf-8", "replace"), expected.encode()):
        return False
    return time.time_ns() - int(call.query["utm"], 16) < SIGNATURE_VALID_S * 1_000_000_000
