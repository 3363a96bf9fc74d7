"""Clusters that run no ETLs: bare AIStore nodes, builds without ETL, tokens without the right."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from aistore_data.embedded import EmbeddedAIS
from tests.conftest import TINY, Result


@contextmanager
def without_etl(server: EmbeddedAIS, status: int, problem: dict[str, str]) -> Iterator[str]:
    """A proxy in front of the embedded server that answers every call on /v1/etl with an error; its endpoint."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.path.startswith("/v1/etl"):
                self.answer(status, [("Content-Type", "application/json")], json.dumps(problem).encode())
                return
            connection = http.client.HTTPConnection(urlsplit(server.endpoint).netloc, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            response = connection.getresponse()
            content = response.read()
            self.answer(response.status, response.getheaders(), content)
            connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_request  # noqa: N815

        def answer(self, code: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(code)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "problem", "words"),
    [
        (
            400,  # aisnode 5.0 outside Kubernetes
            {"message": "the operation requires Kubernetes", "node": "t[target-01]"},
            "this cluster cannot run ETL imagenet-train: the operation requires Kubernetes. AIStore runs ETLs on "
            "Kubernetes alone, and if it is built with them. Use data.transform=client, which makes the same samples "
            "here, or another deployment.",
        ),
        (
            501,  # aisnode 5.0 without the build tag
            {
                "tcode": "ErrUnsupp",
                "message": "cannot use ETL in a build without ETL support - operation not supported",
            },
            "this cluster cannot run ETL imagenet-train: cannot use ETL in a build without ETL support",
        ),
        (
            403,
            {"message": "access denied"},
            "ETL imagenet-train cannot be looked at with this token (status 403): access denied. Use an "
            "administrator's token, or data.etl.manage=reuse",
        ),
        (400, {"message": "t[target-02] is down"}, "ETL imagenet-train cannot be looked at (status 400): t[target-02]"),
    ],
    ids=["no-kubernetes", "not-built", "no-right", "other"],
)
def test_what_to_do_is_said(
    train: Callable[..., Result],
    small_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    problem: dict[str, str],
    words: str,
) -> None:
    with (
        EmbeddedAIS(tmp_path / "ais", imagefolder=small_folder) as server,
        without_etl(server, status, problem) as endpoint,
    ):
        monkeypatch.setenv("AIS_AUTHN_TOKEN", server.token)
        command = ["data=aistore", f"data.endpoint={endpoint}", "data.bucket=ais://imagenet", *TINY, "train.epochs=1"]
        begin = time.monotonic()
        result = train(*command)
        assert time.monotonic() - begin < 10
        assert result.code == 1
        (message,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
        assert words in message and "Traceback" not in result.output
        assert train(*command, "data.transform=client", "run_dir=client").code == 0
