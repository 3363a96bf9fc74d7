"""GETs over kept-alive connections, straight into the memory where the bytes belong.

The SDK spends 1 to 3 ms of CPU on a GET; ``http.client`` a fifth of that. It reads chunked answers, as those of an ETL
above 2,048 bytes are. Redirects are followed, the proxy's connection is kept (its answer is drained), and where an
object lives is not remembered: the cluster may move it.
"""

import http.client
import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit

from aistore_data.bucket_uri import parse_bucket
from aistore_data.credentials import TOKEN, TOKEN_FILE, Token, tls_context
from aistore_data.errors import ClusterError, ObjectError

_STALE = (
    *(http.client.RemoteDisconnected, http.client.BadStatusLine, BrokenPipeError, ConnectionResetError),
    *(ssl.SSLEOFError, ssl.SSLZeroReturnError),
)
"""What a request meets on a kept connection that the server has closed; AIS closes one after 30 idle seconds."""


@dataclass(frozen=True)
class Access:
    """How to reach a cluster: its endpoint (``http://host:port``) and a token, which no message ever shows.

    The token, or the file that holds it: somebody may replace it while this runs, and other processes read it too.
    """

    endpoint: str
    token: str = ""
    connect_timeout_s: float = 3.0
    read_timeout_s: float = 20.0
    token_file: str = ""

    def __repr__(self) -> str:
        return f"Access({self.endpoint})"

    def credentials(self) -> Token:
        """The token, to be asked for whenever it is sent."""
        return Token(self.token, self.token_file)

    @classmethod
    def from_environment(cls, endpoint: str) -> "Access":
        """Endpoint, or AIS_ENDPOINT where it is empty; token from AIS_AUTHN_TOKEN, or else from AIS_AUTHN_TOKEN_FILE.

        Raises ClusterError without an endpoint.
        """
        endpoint = endpoint or os.environ.get("AIS_ENDPOINT", "")
        if not endpoint:
            raise ClusterError(
                "data.endpoint is not set: give the cluster's proxy, data.endpoint=http://HOST:PORT, set AIS_ENDPOINT, "
                "or use data.endpoint=embedded, which needs no cluster."
            )
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClusterError(f"data.endpoint={endpoint} is not a URL of the form http://HOST:PORT.")
        if "@" in parts.netloc:
            raise ClusterError(
                f"data.endpoint names a user for {parts.hostname}, and everything in it is recorded: leave that out. "
                f"AIStore takes tokens, by {TOKEN} or {TOKEN_FILE}."
            )
        token, token_file = os.environ.get(TOKEN, ""), os.environ.get(TOKEN_FILE, "")
        return cls(endpoint.rstrip("/"), token, token_file=token_file)


def object_path(bucket: str, name: str, **query: str) -> str:
    """Path and query of a GET of an object; ``bucket`` as ``ais://name``. Raises ConfigError for another address."""
    uri = parse_bucket(bucket)
    return f"/v1/objects/{uri.name}/{quote(name)}?{urlencode(uri.query | query)}"


class HttpReader:
    """Kept-alive connections of one process, one for each thread and host. Pickles as its ``Access``."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._local = threading.local()
        self._token = access.credentials()
        self._sent = self._token.current()
        self.reconnects = 0

    def __reduce__(self) -> tuple[type, tuple[Access]]:
        return HttpReader, (self.access,)

    def get(self, path: str) -> bytes:
        """The body of a GET. Raises ObjectError for an answer other than 200, OSError if there is none."""
        with self._answer(path) as response:
            return response.read()

    def get_into(self, path: str, row: memoryview) -> None:
        """The body of a GET into ``row``, which it must fill exactly; errors as ``get``, and ObjectError otherwise."""
        with self._answer(path) as response:
            received = 0
            while received < len(row):
                count = response.readinto(row[received:])
                if count == 0:
                    raise ObjectError(200, f"the answer ended after {received} of {len(row)} bytes")
                received += count
            if response.read(1):
                raise ObjectError(200, f"the answer is longer than the expected {len(row)} bytes")

    def host_of(self, path: str) -> str:
        """Host and port that serve a GET of ``path``: where the proxy sends it."""
        response = self._ask_proxy(path)
        location = response.headers.get("Location", "")
        response.read()
        return urlsplit(location).netloc or urlsplit(self.access.endpoint).netloc

    def _ask_proxy(self, path: str) -> http.client.HTTPResponse:
        """The proxy's answer; a token that it refuses may have been replaced meanwhile."""
        netloc, sent = urlsplit(self.access.endpoint).netloc, self._sent
        response = self._request(netloc, path)
        if response.status == 401 and (token := self._token.current()) != sent:
            response.read()
            self._sent = token
            response = self._request(netloc, path)
        return response

    @contextmanager
    def _answer(self, path: str) -> Iterator[http.client.HTTPResponse]:
        netloc = urlsplit(self.access.endpoint).netloc
        response = self._ask_proxy(path)
        for _ in range(3):
            if response.status not in (301, 302, 307, 308):
                break
            location = urlsplit(response.headers["Location"])
            response.read()
            netloc = location.netloc or netloc
            response = self._request(netloc, f"{location.path}?{location.query}")
        try:
            if response.status != 200:
                text = self._token.hide(response.read().decode("utf-8", "replace"))
                raise ObjectError(response.status, server_message(text.encode()))
            yield response
        finally:
            if not response.isclosed():  # an error in mid-body: what is left of it must not meet the next request
                self._drop(netloc)

    def _request(self, netloc: str, path: str) -> http.client.HTTPResponse:
        """Send a GET on the thread's connection to a host; once more on a new one if it was closed meanwhile."""
        connections = self._connections()
        fresh = netloc not in connections
        if fresh:
            connections[netloc] = self._connect(netloc)
        connection = connections[netloc]
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {self._sent}"} if self._sent else {})
            return connection.getresponse()
        except _STALE:
            self._drop(netloc)
            if fresh:
                raise
            self.reconnects += 1
            return self._request(netloc, path)
        except OSError:
            self._drop(netloc)
            raise

    def _connect(self, netloc: str) -> http.client.HTTPConnection:
        if urlsplit(self.access.endpoint).scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                netloc, timeout=self.access.connect_timeout_s, context=tls_context()
            )
        else:
            connection = http.client.HTTPConnection(netloc, timeout=self.access.connect_timeout_s)
        connection.connect()
        connection.sock.settimeout(self.access.read_timeout_s)
        return connection

    def _connections(self) -> dict[str, http.client.HTTPConnection]:
        if getattr(self._local, "pid", None) != os.getpid():  # a forked process must not share its parent's sockets
            self._local.pid, self._local.connections = os.getpid(), {}
        connections: dict[str, http.client.HTTPConnection] = self._local.connections
        return connections

    def _drop(self, netloc: str) -> None:
        connection = self._connections().pop(netloc, None)
        if connection is not None:
            connection.close()


def server_message(body: bytes) -> str:
    """The server's own words: AIS answers JSON with a message."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")
