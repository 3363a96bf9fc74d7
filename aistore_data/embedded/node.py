"""The HTTP side that the proxy and the target share: requests, answers, errors, and who may ask."""

import hashlib
import hmac
import json
import re
import secrets
import time
import traceback
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import xxhash

from aistore_data.embedded.errors import PROXY_ID, TARGET_ID, ApiError
from aistore_data.embedded.etls import Etls
from aistore_data.embedded.messages import Message
from aistore_data.embedded.store import CHUNK_BYTES, Store
from aistore_data.embedded.wire import WireHandler, WireServer

JSON_TYPE = "application/json"
MAX_NAME_BYTES = 1024
"""Of an object here, where its file's path has 4 KB and some characters take three bytes of it."""
SIGNATURE_VALID_S = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PHRASES = {int(status): status.phrase for status in HTTPStatus}
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass
class Cluster:
    """What both nodes know."""

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


def base36(number: int) -> str:
    """As AIS writes ``utm``."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _BASE36[digit] + digits
    return digits or "0"


class NodeServer(WireServer):
    """A node of the cluster."""

    cluster: Cluster


class NodeHandler(WireHandler):
    """Checks who asks, calls ``route`` and turns its errors into AIS's."""

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
        self._answered = False
        try:
            self.close_connection, kept = True, self.close_connection  # until it is clear who asks for what
            self.begin_body()
            self._check_token()
            self.close_connection = kept
            self.show_token()
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
        self.drain()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = do_request  # noqa: N815

    def _check_token(self) -> None:
        given = self.headers.get("Authorization", "")
        if hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self.cluster.token}".encode()):
            return
        if self.allowed_without_token():
            return
        raise ApiError(401, 'invalid token from header "Authorization": invalid token' if given else "token required")

    # What was asked.

    def message(self) -> Message:
        """The body as a JSON object; empty without a body. Raises ApiError 400, 413."""
        return Message.of_body(self.body())

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
        if len(name.encode()) > MAX_NAME_BYTES:
            raise ApiError(400, f'invalid object name "{name[:80]}...": longer than {MAX_NAME_BYTES} bytes')
        if name.endswith("/") or name.startswith("~/") or {".", ".."} & set(name.split("/")):
            raise ApiError(400, f'invalid object name "{name}"', "errInvalidPath")
        return name

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
        lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {_CONTROL.sub(' ', value)}" for name, value in headers.items()]
        lines += ["Connection: close"] if self.close_connection else []
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")

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
