"""The HTTP side that the proxy and the target share: requests, answers, errors, and who may ask."""

import hashlib
import hmac
import json
import secrets
import ssl
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import xxhash

from aistore_data.embedded.errors import PROXY_ID, TARGET_ID, ApiError
from aistore_data.embedded.etls import Etls
from aistore_data.embedded.jobs import Jobs
from aistore_data.embedded.store import CHUNK_BYTES, Store
from aistore_data.embedded.tls import handshake

JSON_TYPE = "application/json"
IDLE_S = 60
SIGNATURE_VALID_S = 300
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass
class Cluster:
    """What both nodes know."""

    token: str
    store: Store
    etls: Etls
    jobs: Jobs
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


def base36(number: int) -> str:
    """As AIS writes ``utm``."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
    return digits or "0"


class NodeServer(ThreadingHTTPServer):
    """Listens on the loopback address; each connection has a thread that dies with the process."""

    daemon_threads = True
    request_queue_size = 256
    allow_reuse_address = True
    cluster: Cluster
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answers what comes over a connection, in its thread; the TLS handshake is part of that."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(IDLE_S)
        try:
            connection = handshake(self.tls, request)
        except OSError:
            return  # a client that trusts us as little as we trust it: TLS has told it so
        if connection is not None:
            with connection:
                super().finish_request(connection, client_address)

    def server_bind(self) -> None:
        """Binds without the look-up of this machine's name that the base class makes."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class NodeHandler(BaseHTTPRequestHandler):
    """Parses a request, checks who asks, calls ``route`` and turns its errors into AIS's."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = IDLE_S
    node_id = ""
    server: NodeServer

    def route(self) -> None:
        """Answers the request; raises ApiError."""
        raise NotImplementedError

    def allowed_without_token(self) -> bool:
        """Whether something in the request itself stands for the token."""
        return False

    @property
    def cluster(self) -> Cluster:
        """The state of the cluster."""
        return self.server.cluster

    def do_request(self) -> None:
        """Handles one request of any method."""
        raw_path, _, self.raw_query = self.path.partition("?")
        self.parts = raw_path.lstrip("/").split("/", 3)  # v1, kind, bucket or ETL, the rest
        self.decoded_path = unquote(raw_path, errors="surrogateescape")
        self.query_items = parse_qsl(self.raw_query, keep_blank_values=True)
        self.query = dict(self.query_items)
        self._unread = 0
        self._chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        self._answered = False
        try:
            length = self.headers.get("Content-Length") or "0"
            if not length.isdecimal():
                self.close_connection = True
                raise ApiError(400, f'"{length}" is no Content-Length')
            self._unread = int(length)
            self._check_token()
            if self.parts[0] != "v1":
                raise ApiError(404, f'path "{raw_path}" is not served: AIS\'s API starts with /v1')
            self.route()
        except ApiError as error:
            self.reply_error(error)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client went away
        except Exception as error:
            traceback.print_exc()
            self.reply_error(ApiError(500, f"{type(error).__name__}: {error}"))
        self._drain()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = do_request  # noqa: N815

    def _check_token(self) -> None:
        given = self.headers.get("Authorization", "")
        if hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self.cluster.token}".encode()):
            return
        if self.allowed_without_token():
            return
        raise ApiError(401, 'invalid token from header "Authorization": invalid token' if given else "token required")

    # What was asked.

    def body(self) -> Iterator[bytes]:
        """The request's body in pieces. Raises ConnectionError if the client stops before its end."""
        if self._chunked:
            self._chunked = False
            while size := int(self.rfile.readline(64).split(b";")[0], 16):
                self._unread = size
                yield from self._read_counted()
                self.rfile.readline(8)
            while self.rfile.readline(65536).strip():
                pass
        yield from self._read_counted()

    def _read_counted(self) -> Iterator[bytes]:
        while self._unread:
            piece = self.rfile.read(min(self._unread, CHUNK_BYTES))
            if not piece:
                raise ConnectionResetError("the client closed the connection within a request")
            self._unread -= len(piece)
            yield piece

    def message(self) -> dict[str, Any]:
        """The body as a JSON object; empty without a body. Raises ApiError 400."""
        text = b"".join(self.body())
        try:
            message = json.loads(text) if text else {}
        except ValueError as error:
            raise ApiError(400, f"the request's body is not JSON: {error}") from None
        if not isinstance(message, dict):
            raise ApiError(400, "the request's body is not a JSON object")
        return message

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
            name = unquote(self.parts[3], errors="strict")
        except IndexError:
            name = ""
        except UnicodeDecodeError:
            raise ApiError(400, "the object's name is not UTF-8") from None
        if not name or "\0" in name:
            raise ApiError(400, f"invalid object name {name!r}")
        if name.endswith("/") or name.startswith("~/") or {".", ".."} & set(name.split("/")):
            raise ApiError(400, f'invalid object name "{name}"', "errInvalidPath")
        return name

    def _drain(self) -> None:
        # An unread body would be taken for the next request. Where none follows, the body need not come either: over
        # https the SDK announces it to the proxy, with "Connection: close", and sends it to the target alone.
        if self.close_connection:
            return
        try:
            for _ in self.body():
                pass
        except (OSError, ValueError):
            self.close_connection = True

    # What is answered.

    def reply(self, status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Sends a whole answer; to HEAD without the body. ``headers`` may set Content-Length themselves."""
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        self.wfile.write(self._head(status, headers) + (b"" if self.command == "HEAD" else body))
        self.wfile.flush()

    def reply_json(self, value: Any) -> None:
        """Sends 200 with JSON."""
        self.reply(200, json.dumps(value).encode(), {"Content-Type": JSON_TYPE})

    def reply_chunked(self, body: bytes, headers: dict[str, str]) -> None:
        """Sends 200 with a body whose length the client is not told in advance."""
        head = self._head(200, {**headers, "Transfer-Encoding": "chunked"})
        pieces = [head]
        for at in range(0, len(body), CHUNK_BYTES):
            piece = body[at : at + CHUNK_BYTES]
            pieces += [f"{len(piece):x}\r\n".encode(), piece, b"\r\n"]
        self.wfile.write(b"".join(pieces) + b"0\r\n\r\n")
        self.wfile.flush()

    def reply_error(self, error: ApiError) -> None:
        """Sends an error as AIS does: JSON in the body, or in the header Hdr-Error of an answer to HEAD."""
        if self._answered:  # the head is out: only a closed connection can say that the rest is missing
            self.close_connection = True
            return
        problem = {
            **({"tcode": error.tcode} if error.tcode else {}),
            "message": error.message,
            "method": self.command,
            "url_path": self.decoded_path,
            "remote_addr": f"{self.client_address[0]}:{self.client_address[1]}",
            "caller": "",
            "node": f"{self.node_id[0]}[{self.node_id}]",
            "status": error.status,
        }
        text = json.dumps(problem)
        headers = {"Content-Type": JSON_TYPE, "X-Content-Type-Options": "nosniff"}
        if self.command == "HEAD":
            self.reply(error.status, headers={**headers, "Hdr-Error": text})
        else:
            self.reply(error.status, text.encode() + b"\n", headers)

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        self._answered = True
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += ["Connection: close"] if self.close_connection else []
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    # The calls that every node answers.

    def route_common(self) -> bool:
        """Answers the calls that proxy and target share; False if it was none of them."""
        kind = self.parts[1] if len(self.parts) > 1 else ""
        if self.command in ("GET", "HEAD") and kind == "health":
            uptime = str(time.time_ns() - self.cluster.started_ns)
            self.reply(headers={"Ais-Cluster-Uptime": uptime, "Ais-Node-Uptime": uptime})
        elif self.command == "GET" and kind == "daemon" and self.query.get("what") == "smap":
            self.reply_json(self.cluster.smap())
        else:
            return False
        return True

    def not_served(self) -> ApiError:
        """The error for a call that this server does not know."""
        return ApiError(404, f"{self.command} {self.decoded_path} is not served by the embedded AIS", "ErrNotServed")


def signed_location(cluster: Cluster, method: str, decoded_path: str, raw_query: str) -> str:
    """Where the proxy sends an object call: the same path at the target, with ``pid``, ``utm`` and a signature."""
    utm = base36(time.time_ns())
    items = [*parse_qsl(raw_query, keep_blank_values=True), ("pid", PROXY_ID), ("utm", utm)]
    added = urlencode({"pid": PROXY_ID, "utm": utm, "sig": cluster.sign(method, decoded_path, items)})
    path = quote(decoded_path, safe="/$&+:=@,;~", errors="surrogateescape")
    return f"{cluster.target_url}{path}?{raw_query}{'&' if raw_query else ''}{added}"


def is_signed(cluster: Cluster, method: str, decoded_path: str, query: list[tuple[str, str]]) -> bool:
    """Whether our proxy redirected exactly this request, not long ago."""
    items = [item for item in query if item[0] != "sig"]
    values = dict(query)
    expected = cluster.sign(method, decoded_path, items)
    if not hmac.compare_digest(values.get("sig", "").encode("utf-8", "replace"), expected.encode()):
        return False
    return time.time_ns() - int(values["utm"], 36) < SIGNATURE_VALID_S * 1_000_000_000
