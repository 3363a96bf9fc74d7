"""Faulty links: what stands between a client and one node of a cluster, and does harm when it is told to."""

import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal["delay", "hang", "reset", "refuse", "cut", "status", "empty", "short", "alter"]


@dataclass(frozen=True)
class Fault:
    """What happens to requests in whose path the regular expression ``part`` is found.

    ``delay`` by ``seconds``; ``hang``: no answer for ``seconds``; ``reset``: the connection is reset; ``refuse``: the
    same before anything is read; ``cut`` in the middle of the body; ``status``: ``code`` and ``body`` instead; ``empty``:
    200 without a body; ``short``: 200 with half of it; ``alter``: a byte is another one.
    """

    kind: Kind
    part: str = ""
    seconds: float = 0.0
    code: int = 500
    body: bytes = b'{"message":"injected"}'
    node: str = ""
    """The only node that is meant, host:port; empty: all."""


class Gate:
    """What the links to the nodes of a kind have in common: the fault, and a count of requests for objects."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.requests = 0
        self.at: dict[int, Callable[[], None]] = {}
        """What happens when the request of a number comes."""
        self._lock = threading.Lock()

    def quiet(self) -> None:
        """No fault, and counting begins again."""
        self.fault, self.requests, self.at = None, 0, {}

    def count(self, path: str) -> None:
        """Another request."""
        if not path.startswith("/v1/objects/"):
            return
        with self._lock:
            self.requests += 1
            action = self.at.pop(self.requests, None)
        if action:
            action()

    def fault_for(self, path: str, node: str) -> Fault | None:
        """What is to happen to a request on its way to a node."""
        fault = self.fault
        if fault is None or fault.node not in ("", node):
            return None
        return fault if re.search(fault.part, path) else None


class Link:
    """Forwards to ``upstream`` (host:port); in its answers other nodes are named by the links before them."""

    def __init__(self, upstream: str, gate: Gate, renamed: dict[str, str] | None = None) -> None:
        self.upstream = upstream
        self.gate = gate
        self.renamed = renamed or {}
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.link = self
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def rename(self, text: str) -> str:
        """With the links in the place of the nodes."""
        for node, link in self.renamed.items():
            text = text.replace(node, link)
        return text


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    link: Link

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections end in all ways here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.node: http.client.HTTPConnection | None = None

    def _forward(self) -> None:
        link = self.server.link
        gate = link.gate
        gate.count(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = gate.fault_for(self.path, link.upstream)
        if fault and fault.kind in ("delay", "hang"):
            end = time.monotonic() + fault.seconds
            while time.monotonic() < end and gate.fault is fault:
                time.sleep(0.01)
            if fault.kind == "hang":
                self._reset()
                return
        if fault and fault.kind in ("reset", "refuse"):
            self._reset()
            return
        if fault and fault.kind == "status":
            self._answer(fault.code, {"Content-Type": "application/json"}, fault.body)
            return
        if fault and fault.kind == "empty":
            self._answer(200, {}, b"")
            return
        try:
            self.node = self.node or http.client.HTTPConnection(link.upstream, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            self.node.request(self.command, self.path, body or None, headers)
            answer = self.node.getresponse()
            content = answer.read()
        except OSError:
            self._reset()
            return
        chunked = answer.headers.get("Transfer-Encoding") == "chunked"
        skipped = ("content-length", "transfer-encoding", "connection", "date")
        headers = {name: link.rename(value) for name, value in answer.headers.items() if name.lower() not in skipped}
        if "what=smap" in self.path:
            content = link.rename(content.decode()).encode()
        if fault and fault.kind == "short":
            content = content[: len(content) // 2]
        if fault and fault.kind == "alter" and content:
            middle = len(content) // 2  # what a proof of both ends says nothing of, as another ETL's would not
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, headers, content, chunked, length, cut=bool(fault and fault.kind == "cut"))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _forward  # noqa: N815

    def _answer(
        self,
        status: int,
        headers: dict[str, str],
        body: bytes,
        chunked: bool = False,
        length: str | None = None,
        cut: bool = False,
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if cut:
            self.wfile.write((f"{len(body):x}\r\n".encode() if chunked else b"") + body[: len(body) // 2])
            self.wfile.flush()
            self._reset()
            return
        if self.command != "HEAD":
            for at in range(0, len(body), 1 << 15) if chunked else ():
                piece = body[at : at + (1 << 15)]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n" if chunked else body)
        self.wfile.flush()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *values: object) -> None:
        """Nothing."""


def links_to(endpoint: str, targets: Sequence[str]) -> list[Link]:
    """Links before the proxy, the first one, and before the targets (host:port) of a cluster, with a gate each."""
    gate = Gate()
    to_targets = [Link(target, gate) for target in targets]
    proxy = urlsplit(endpoint).netloc
    to_proxy = Link(proxy, Gate(), {link.upstream: link.host for link in to_targets})
    to_proxy.renamed[proxy] = to_proxy.host
    return [to_proxy, *to_targets]
