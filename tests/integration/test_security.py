"""Tokens: of a user who may only read, refused, rotated in mid-run; and none in anything that a run leaves."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from aistore_data.bucket.store import AisStore, iter_objects
from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.etls import lifecycle
from aistore_data.upload.__main__ import upload
from tests.conftest import TINY, Result, make_small_folder

Train = Callable[..., Result]

FIRST, SECOND = ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJvbmUifQ.Zmlyc3Q", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ0d28ifQ.c2Vjb25k")
READING = (("GET", "objects"), ("HEAD", "objects"), ("GET", "buckets"), ("HEAD", "buckets"))


class Gate(ThreadingHTTPServer):
    """A proxy with AuthN before the embedded one: tokens expire here, and a user may only read buckets.

    ``file`` gets the second token after ``rotate_after`` requests, of which the last are refused with the first one.
    """

    daemon_threads = True

    def __init__(self, server: EmbeddedAIS) -> None:
        super().__init__(("127.0.0.1", 0), GateHandler)
        self.server = server
        self.valid = FIRST
        self.may: tuple[tuple[str, str], ...] = READING
        self.file = Path()
        self.rotate_after = 10**9
        self.asked: list[tuple[str, str]] = []
        self.expired = 0
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A run that fails closes its connections."""

    def verdict(self, method: str, path: str, authorization: str) -> tuple[int, str]:
        """Status and message in AIStore 5.0's words; it repeats a token that was valid once."""
        with self.lock:
            call = (method, path.split("/")[2].partition("?")[0])
            self.asked.append(call)
            if len(self.asked) == self.rotate_after:
                self.valid = SECOND
                self.file.write_text(json.dumps({"token": SECOND}))
            token = authorization.removeprefix("Bearer ")
            if not token:
                return 401, "token required"
            if token != self.valid:
                self.expired += 1
                return 401, f'invalid token from header "Authorization": invalid token [err: token expired]: {token}'
            return (200, "") if call in self.may else (403, "user `u` has insufficient permissions: [granted(GET)]")


class GateHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Gate

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, message = self.server.verdict(self.command, self.path, self.headers.get("Authorization", ""))
        if status != 200:
            self.answer(status, json.dumps({"message": message, "status": status}).encode(), [])
            return
        connection = http.client.HTTPConnection(urlsplit(self.server.server.endpoint).netloc, timeout=60)
        headers = dict(self.headers) | {"Authorization": f"Bearer {self.server.server.token}"}
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        self.answer(response.status, response.read(), response.getheaders())
        connection.close()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def answer(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def log_message(self, format: str, *values: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAIS]:
    """With a data set, a bucket for mirrors, and the ETLs that an administrator has started."""
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as server:
        access = Access(server.endpoint, server.token)
        client, photos = make_client(access), AisStore("ais://photos", access)
        photos.create()
        upload(make_small_folder(tmp_path_factory.mktemp("data")), photos, "folders", workers=1)
        client.bucket("runs").create()
        for recipe, name in (("train", "imagenet-train"), ("val", "imagenet-val")):
            lifecycle.ensure(client, name, recipe, lifecycle.EtlSettings(num_workers=1), print)  # type: ignore[arg-type]
        yield server


@pytest.fixture
def gate(server: EmbeddedAIS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Gate]:
    """The cluster as a user's environment names it, with the token in a file."""
    with Gate(server) as gate:
        threading.Thread(target=gate.serve_forever, args=(0.01,), daemon=True).start()
        gate.file = tmp_path / "auth.token"
        gate.file.write_text(json.dumps({"token": FIRST}))
        monkeypatch.delenv("AIS_AUTHN_TOKEN", raising=False)
        monkeypatch.setenv("AIS_AUTHN_TOKEN_FILE", str(gate.file))
        monkeypatch.setenv("AIS_ENDPOINT", gate.endpoint)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield gate
        gate.shutdown()


WORDS = ("data=aistore", "data.bucket=ais://photos", *TINY)
REUSE = (*WORDS, "data.etl.manage=reuse")


def test_a_user_who_may_only_read_trains_with_the_etls_of_an_administrator(train: Train, gate: Gate) -> None:
    result = train(*REUSE, "train.epochs=1")
    assert result.code == 0, result.output
    assert result.summary()["samples_by_source"] == {"local": 0, "etl": 36 + 15}
    assert {call for call in gate.asked if call not in READING} == {("GET", "daemon"), ("PUT", "objects")}  # refused
    again = train(*REUSE, "train.epochs=1", "run_dir=again")
    assert again.summary()["state_sha256"] == result.summary()["state_sha256"]

    gate.may = (*READING, ("GET", "daemon"))
    refused = train(*WORDS, "run_dir=auto")
    assert refused.code == 1
    assert "ETL imagenet-train cannot be looked at with this token (status 403)" in refused.output
    assert "data.etl.manage=reuse with ETLs that an administrator has started" in refused.output
    gate.may = ()
    refused = train(*REUSE, "run_dir=nothing")
    assert refused.code == 1 and "ais://photos cannot be read" in refused.output
    assert "(status 403). Reading a bucket takes GET, HEAD and LIST" in refused.output


@pytest.mark.parametrize(
    "words",
    [("data.workers=1",), pytest.param(("data.workers=2", "data.transform=client"), marks=pytest.mark.long)],
)
def test_a_token_that_is_rotated_in_mid_run(train: Train, gate: Gate, words: tuple[str, ...]) -> None:
    plain = train(*REUSE, "run_dir=plain")
    assert plain.code == 0, plain.output
    gate.asked.clear()
    gate.rotate_after = 70  # the first epoch is over: workers and the training process run with the first token
    rotated = train(*REUSE, *words, "run_dir=rotated")
    assert rotated.code == 0, rotated.output
    assert gate.valid == SECOND and 0 < gate.expired < 40  # one for each thread that asked meanwhile
    assert rotated.summary()["state_sha256"] == plain.summary()["state_sha256"]
    assert (rotated.summary()["retries"], rotated.summary()["fallbacks"]) == (0, 0)


def test_the_sdk_takes_the_token_that_is_there_now(gate: Gate) -> None:
    access = Access.from_environment("")
    client, reader = make_client(access), HttpReader(access)
    names = [entry.name for entry in iter_objects(client.bucket("photos"), "val/cat/")]
    gate.valid = SECOND
    gate.file.write_text(SECOND)  # without JSON, as Kubernetes mounts it
    assert [entry.name for entry in iter_objects(client.bucket("photos"), "val/cat/")] == names and len(names) == 5
    assert gate.expired == 0
    assert reader.get(object_path("ais://photos", names[0])) and gate.expired == 0  # the file was read again at once
    assert reader.get(object_path("ais://photos", names[1])) and gate.expired == 0


def holds_token(where: Path) -> list[str]:
    """The files below a folder with any part of a token."""
    parts = [part.encode() for token in (FIRST, SECOND) for part in token.split(".")[1:]]
    files = [path for path in where.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(part in path.read_bytes() for part in parts)]


@pytest.mark.parametrize("given", ["file", pytest.param("environment", marks=pytest.mark.long)])
def test_no_token_in_anything_that_a_run_leaves(
    train: Train, gate: Gate, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if given == "environment":
        monkeypatch.delenv("AIS_AUTHN_TOKEN_FILE")
        monkeypatch.setenv("AIS_AUTHN_TOKEN", FIRST)
    gate.may = (*READING, *((verb, kind) for verb in ("PUT", "DELETE", "GET") for kind in ("objects", "daemon")))
    mirror = f"run_mirror=ais://runs/{given}"
    good = train(*REUSE, mirror, "train.epochs=1", "run_dir=good")
    assert good.code == 0, good.output
    gate.asked.clear()
    gate.rotate_after = 60
    gate.file = tmp_path / "nobody-reads-this"
    lapsed = train(
        *REUSE, "data.workers=1", "run_dir=lapsed", "train.checkpoint_every=1", "data.patience_s=1"
    )  # a file may get another token yet
    assert lapsed.code == 1 and "it has expired. Get a new one with ais auth login" in lapsed.output
    assert "Traceback" not in lapsed.output
    lapsed_early = train(*REUSE, "run_dir=early")
    assert lapsed_early.code == 1 and "it has expired" in lapsed_early.output
    gate.valid = FIRST
    gate.may = READING
    no_mirror = train(*REUSE, f"{mirror}2", "run_dir=no-mirror")
    assert no_mirror.code == 1 and "could not write owner.json: the cluster at" in no_mirror.output
    for result in (good, lapsed, lapsed_early, no_mirror):
        assert not any(part in result.output for token in (FIRST, SECOND) for part in token.split(".")[1:])
        assert holds_token(result.run_dir) == []
    assert (good.run_dir / "checkpoints" / "last.pt").exists() and (lapsed.run_dir / "environment.json").exists()
    kept = tmp_path / "mirror"
    kept.mkdir()
    bucket = make_client(Access(gate.server.endpoint, gate.server.token)).bucket("runs")
    for number, entry in enumerate(iter_objects(bucket, f"{given}/")):
        (kept / str(number)).write_bytes(bucket.object(entry.name).get_reader().read_all())
    assert len(list(kept.iterdir())) > 3
    assert holds_token(kept) == []
