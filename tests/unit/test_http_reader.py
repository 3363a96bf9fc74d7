"""The reader against a server that does what real ones do: redirects, chunks, closed connections, short answers."""

import os
import pickle
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import connect
from sources.errors import ClusterError, ObjectError

BODY = bytes(range(256)) * 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections: ClassVar[set[int]] = set()
    tokens: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.connections.add(self.client_address[1])
        self.tokens.append(self.headers["Authorization"])
        path = self.path.partition("?")[0]
        if path == "/redirect":
            self.answer(301, b"<a href=x>Moved Permanently</a>", Location=f"http://{self.headers['Host']}/chunked?x=1")
        elif path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (BODY[:2048], BODY[2048:2049], BODY[2049:]):
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif path == "/close":
            self.answer(200, BODY)
            self.close_connection = True  # without saying so
        elif path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY[:100])
            self.close_connection = True
        elif path == "/error":
            self.answer(404, b'{"message":"ais://b/o does not exist","status":404}')
        elif path == "/v1/daemon":
            self.answer(200, b"hello")
        else:
            self.answer(200, BODY)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def reader() -> Iterator[HttpReader]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.connections, Handler.tokens = set(), []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield HttpReader(Access(f"http://127.0.0.1:{server.server_port}", "secret", 1, 1))
    server.shutdown()
    server.server_close()


def into(reader: HttpReader, path: str, size: int = len(BODY)) -> bytes:
    row = bytearray(size)
    reader.get_into(path, memoryview(row))
    return bytes(row)


@pytest.mark.parametrize("path", ["/plain", "/chunked", "/redirect"])
def test_bodies_arrive_whole_over_one_connection(reader: HttpReader, path: str) -> None:
    for _ in range(5):
        assert reader.get(path) == BODY
        assert into(reader, path) == BODY
    assert len(Handler.connections) == 1
    assert set(Handler.tokens) == {"Bearer secret"}


def test_a_connection_closed_by_the_server_is_replaced(reader: HttpReader) -> None:
    for _ in range(3):
        assert reader.get("/close") == BODY
        threading.Event().wait(0.05)
    assert (
        len(Handler.connections) == 3 and reader._local.fetcher.reconnects == 0
    )  # what was closed is seen before it is used


@pytest.mark.parametrize(
    ("path", "size"), [("/cut", len(BODY)), ("/plain", len(BODY) + 1), ("/chunked", len(BODY) - 1)]
)
def test_an_answer_of_the_wrong_length_is_an_error_and_spoils_nothing(reader: HttpReader, path: str, size: int) -> None:
    with pytest.raises((ObjectError, OSError)):
        into(reader, path, size)
    assert into(reader, "/plain") == BODY


def test_an_error_carries_the_servers_words(reader: HttpReader) -> None:
    with pytest.raises(ObjectError, match="ais://b/o does not exist") as caught:
        reader.get("/error")
    assert caught.value.status == 404 and not caught.value.corrupt_sample
    assert reader.get("/plain") == BODY
    assert len(Handler.connections) == 1
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_forked_process_has_connections_of_its_own(reader: HttpReader) -> None:
    reader.get("/plain")
    child = os.fork()
    if child == 0:
        os._exit(0 if reader.get("/plain") == BODY else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(Handler.connections) == 2
    assert reader.get("/plain") == BODY


def test_it_pickles_without_connections_and_never_shows_the_token(reader: HttpReader) -> None:
    reader.get("/plain")
    again = pickle.loads(pickle.dumps(reader))
    assert again.get("/plain") == BODY
    assert "secret" not in repr(again.access)


def test_what_an_etl_says_of_a_corrupt_sample() -> None:
    assert ObjectError(500, 'ETL error: {"detail":"CorruptSample: not an image: 8 bytes"}').corrupt_sample
    assert not ObjectError(500, "ETL error: Processing error").corrupt_sample


def test_tls_with_a_private_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    access = Access(f"https://127.0.0.1:{server.server_port}", "secret", 2, 2)
    with pytest.raises(ssl.SSLCertVerificationError):
        HttpReader(access).get("/plain")
    with pytest.raises(ClusterError, match="Set AIS_CLIENT_CA to the file of that authority"):
        connect(access)
    monkeypatch.setenv("AIS_CLIENT_CA", str(certificate))
    assert HttpReader(access).get("/chunked") == BODY
    monkeypatch.delenv("AIS_CLIENT_CA")
    monkeypatch.setenv("AIS_SKIP_VERIFY_CRT", "true")
    assert HttpReader(access).get("/chunked") == BODY
    server.shutdown()
    server.server_close()


def test_names_are_quoted() -> None:
    assert object_path("ais://b", "a b/ü?#%.jpg", etl_args='{"v":1}') == (
        "/v1/objects/b/a%20b/%C3%BC%3F%23%25.jpg?provider=ais&etl_args=%7B%22v%22%3A1%7D"
    )


def test_an_endpoint_that_is_no_aistore(reader: HttpReader) -> None:
    with pytest.raises(ClusterError, match="answers, but is not an AIStore"):
        connect(reader.access)


def test_an_endpoint_where_nothing_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ClusterError, match="no AIStore answers at"):
        connect(Access(f"http://127.0.0.1:{port}"))
    with pytest.raises(ClusterError, match="is not a URL"):
        Access.from_environment("localhost")


def test_a_proxy_whose_target_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}"
    answer = b'{"tmap":{"t1":{"public_net":{"direct_url":"' + gone.encode() + b'"}}},"pmap":{}}'
    monkeypatch.setattr(HttpReader, "get", lambda self, path: answer)
    with pytest.raises(ClusterError, match=f"its target t1 at {gone} cannot be reached"):
        connect(Access("http://127.0.0.1:1"))
