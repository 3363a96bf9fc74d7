"""The ETLs' web server: what it answers itself, what it leaves to the SDK's, and that nothing waits for a transform."""

import asyncio
import atexit
import errno
import functools
import http.client
import itertools
import json
import logging
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode

import pytest
import uvicorn
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer
from PIL import Image
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from aistore_data.etls.lifecycle import class_payload
from etl.limits import Limits
from etl.pod_index import INDEX_VARIABLE
from etl.protocol import ObjectProtocol
from etl.request import Request, answer, encode, encode_index, proof, stated
from etl.server import QUICK_BYTES, THREADS, TrainETL, ValETL
from etl.spec import Key, Spec
from tests.conftest import PROJECT

PHOTO = Path(__file__).parent / "vectors" / "rgb420.jpg"
DATA = PHOTO.read_bytes()
REQUEST = Request(Spec.train(32), Key(0, 3, 17))
SAMPLE = answer(DATA, REQUEST)
LARGE = DATA + bytes(QUICK_BYTES)
MOUNTPATH = Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, MOUNTPATH)

Answer = tuple[int, str | None, str | None, bytes]
Serve = Callable[[FastAPIServer], int]


class SdkTrainETL(TrainETL):
    """Served by the SDK's application alone."""

    def __init__(self) -> None:
        FastAPIServer.__init__(self)
        self.limits = Limits.of_environment()


class Held(TrainETL):
    """Its transforms wait until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.let_go = threading.Semaphore(0), threading.Event()

    def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
        self.entered.release()
        assert self.let_go.wait(30)
        return path.encode()


@contextmanager
def pod() -> Iterator[None]:
    """The environment of a pod; the SDK's server raises the limit of open files for good."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIS_TARGET_URL", "http://127.0.0.1:9/v1/etl/_object/etl/secret")
        patch.setenv("ETL_DIRECT_FQN", "true")
        patch.setenv(INDEX_VARIABLE, "0")
        patch.setenv("AIS_DIRECT_PUT_RETRIES", "0")  # of the SDK's requests to a target that is not there
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    with pod():
        yield


@pytest.fixture(params=["asgi", "protocol"])
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    """Serves an ETL by uvicorn in a thread of this process, behind another application or alone; the port."""
    with serving(alone=request.param == "protocol") as start:
        yield start


@pytest.fixture(scope="module", params=["asgi", "protocol"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """The ports of our server and of the SDK's, which stay for all questions."""
    with pod(), serving(alone=request.param == "protocol") as start:
        yield start(TrainETL()), start(SdkTrainETL())


@contextmanager
def serving(alone: bool) -> Iterator[Serve]:
    """Servers in threads, which end with the context."""
    running = []

    def start(server: FastAPIServer) -> int:
        config = configure(server.app if alone else behind(server.app))
        port = run(uvicorn.Server(config))
        ours = isinstance(server, TrainETL | ValETL) and not isinstance(server, SdkTrainETL)
        assert takes_connections(config) == (alone and ours)
        return port

    def run(server: uvicorn.Server) -> int:
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port: int = server.servers[0].sockets[0].getsockname()[1]
        return port

    yield start
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join()


def configure(app: Any, **settings: Any) -> uvicorn.Config:
    """As AIStore's runtime and the image do."""
    return uvicorn.Config(app, "127.0.0.1", 0, **{"log_level": "warning", "access_log": False, **settings})


def behind(app: Any) -> Any:
    """The application as uvicorn does not know it, though lifespan's messages reach it unchanged."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return application


def takes_connections(config: uvicorn.Config) -> bool:
    protocol = config.http_protocol_class
    return isinstance(protocol, functools.partial) and protocol.func is ObjectProtocol


def stored(name: str, data: bytes = DATA) -> Path:
    """The file in which a target keeps an object of the path BUCKET/OBJECT."""
    bucket, _, item = name.partition("/")
    file = MOUNTPATH / "@ais" / bucket / "%ob" / item
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def path(name: str = "photos/a.jpg", fqn: Path | str | None = None, args: str | None = None) -> str:
    """As a target writes it; the path of a file is encoded twice."""
    query = {"etl_args": encode(REQUEST) if args is None else args}
    fqn = stored(name.removeprefix("ais/@#/")) if fqn is None else fqn
    if fqn:
        query["etl_fqn"] = quote(str(fqn), safe="")
    return f"/{quote(name)}?{urlencode(query)}"


def ask(port: int, method: str, url: str, body: Any = b"", headers: dict[str, str] | None = None) -> Answer:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, url, body, headers or {}, encode_chunked=not isinstance(body, bytes))
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.headers["Content-Length"], response.read()


def raw(port: int, text: str) -> socket.socket:
    """A connection with a request on its way."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"{text}\r\n\r\n".encode())
    return connection


def answered(connection: socket.socket) -> bytes:
    """The body of the answer."""
    with connection.makefile("rb") as stream:
        return read(stream)


def read(stream: BinaryIO) -> bytes:
    """The body of the next answer."""
    assert stream.readline().startswith(b"HTTP/1.1 200")
    headers = http.client.parse_headers(stream)
    return stream.read(int(headers["Content-Length"]))


def wait_healthy(port: int, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        assert process.poll() is None
        try:
            if ask(port, "GET", "/health")[0] == 200:
                return
        except ConnectionError:
            time.sleep(0.05)
    raise TimeoutError("not healthy within 30 s")


@pytest.mark.parametrize("method", ["PUT", "GET", "bytes"])
@pytest.mark.parametrize("item", ["photos/a.jpg", "photos/train/a b/ü.jpg", "ais/@x/a.jpg"])
def test_an_answer_to_a_tag_proves_and_says_which_sample_it_is(serve: Serve, item: str, method: str) -> None:
    args = encode(Request(REQUEST.spec, REQUEST.key, REQUEST.wire, tag=17))
    name, body = f"ais/@#/{item}" if method == "GET" else item, DATA if method == "bytes" else b""
    file, method = "" if body else stored(item), method if method == "GET" else "PUT"
    with closing(http.client.HTTPConnection("127.0.0.1", serve(TrainETL()), timeout=30)) as connection:
        connection.request(method, path(name, file, args), body)
        response = connection.getresponse()
        assert response.headers["Imagenet-Sample"] == f"17 {quote(item)}"
        assert response.read() == SAMPLE + proof(stated(item, args), SAMPLE)
        connection.request(method, path(name, file), body)
        response = connection.getresponse()
        assert "Imagenet-Sample" not in response.headers and response.read() == SAMPLE


def test_objects_by_path_and_by_their_bytes(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = (200, "application/octet-stream", str(len(SAMPLE)), SAMPLE)
    port = serve(TrainETL())
    assert ask(port, "PUT", path()) == expected
    assert ask(port, "GET", path("ais/@#/photos/a.jpg")) == expected  # hpull
    assert ask(port, "PUT", path(fqn=""), DATA) == expected
    parts = [DATA[:10], DATA[10:5000], DATA[5000:]]
    assert ask(port, "PUT", path(fqn=""), iter(parts), {"Transfer-Encoding": "chunked"}) == expected
    monkeypatch.setenv("ETL_DIRECT_FQN", "false")
    assert ask(serve(TrainETL()), "PUT", path()) == expected
    val = answer(DATA, Request(Spec.val(64)))
    assert ask(serve(ValETL()), "PUT", path(args='{"size":64,"wire":"raw"}'))[3] == val
    assert json.loads(ask(port, "PUT", path(args='{"wire":"info"}'))[3])["v"] == 1


@pytest.mark.parametrize(
    ("method", "url", "status", "text"),
    [
        ("PUT", path("photos/b", stored("photos/b", b"text")), 500, '{"detail":"CorruptSample: not an image: '),
        ("PUT", path(args='{"size":"ü"}'), 400, '{"detail":"BadRequest: size must be of type int, not \'ü\'"}'),
        ("PUT", path("a b/ü.jpg", "/no/@ais/a b/%ob/ü.jpg"), 404, "file not found at '/no/@ais/a b/%ob/ü.jpg'."),
        ("PUT", path("photos", stored("photos/x/y").parent), 400, '{"detail":"BadRequest: etl_fqn is not the file'),
        ("PUT", path("photos/x", stored("photos/x/y").parent), 400, '{"detail":"BadRequest: etl_fqn is not a regular'),
        ("PUT", path(fqn=""), 500, "CorruptSample: not an image: 0 bytes"),
        ("PUT", path(fqn=f"{MOUNTPATH}/@ais/photos/%ob/..//%ob//a.jpg"), 200, ""),
        ("PUT", "/photos/a.jpg", 500, "CorruptSample: not an image: 0 bytes"),
        ("GET", "/photos/a.jpg", 502, "Network error: "),  # to be fetched from the target
        ("GET", "/health", 200, "Running"),
        ("GET", "/health?etl_args={}", 200, "Running"),
        ("HEAD", path(), 405, ""),
        ("POST", path(), 405, '{"detail":"Method Not Allowed"}'),
        ("PUT", "/health", 500, "CorruptSample"),
    ],
    ids=range(14),  # urls have a folder of this process in them, and the processes of a run of tests compare names
)
def test_answers_are_those_of_the_sdk(pair: tuple[int, int], method: str, url: str, status: int, text: str) -> None:
    ours = ask(pair[0], method, url)
    assert ours == ask(pair[1], method, url) or b"etl_fqn is not the file" in ours[3]
    assert ours[0] == status and (text in ours[3].decode() if text else ours)


def test_unexpected_errors_have_the_words_of_the_sdk(serve: Serve) -> None:
    class Unlucky(TrainETL):
        def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
            raise ValueError("\ud800" if path == "photos/odd" else f'bad "luck" with {path}: {etl_args}')

    class SdkUnlucky(SdkTrainETL):
        transform = Unlucky.transform

    port, url = serve(Unlucky()), path("a/ü.jpg", args="ö")
    ours = ask(port, "PUT", url)
    assert ours == ask(serve(SdkUnlucky()), "PUT", url)
    assert json.loads(ours[3]) == {"detail": 'Processing error: bad "luck" with a/ü.jpg: ö'}
    logging.disable()  # what is logged of a test must be UTF-8 to be collected
    try:
        assert json.loads(ask(port, "PUT", path("photos/odd"))[3]) == {"detail": "Processing error: \ud800"}
    finally:
        logging.disable(logging.NOTSET)


def test_a_pipeline_is_the_sdks(serve: Serve) -> None:
    first, second = serve(TrainETL()), serve(TrainETL())
    request = Request(REQUEST.spec, REQUEST.key, "jpeg")
    url = path(args=encode(request))
    piped = ask(first, "PUT", url, headers={"Ais-Node-Url": f"http://127.0.0.1:{second}"})
    assert piped[0] == 200 and piped[3] == answer(answer(DATA, request), request)
    assert ask(first, "PUT", url, headers={"Ais-Node-Url": ","})[0] == 400


def test_websockets_are_refused(serve: Serve) -> None:
    """They would name files, and their errors have no answer."""
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{serve(TrainETL())}/ws").close()


def test_health_does_not_wait_for_what_takes_long(serve: Serve) -> None:
    etl = Held()
    port = serve(etl)
    put = "HTTP/1.1\r\nHost: pod\r\nContent-Length: 0"
    busy = [raw(port, f"PUT {path(f'photos/{i}', stored(f'photos/{i}', LARGE))} {put}") for i in range(8)]
    for _ in range(THREADS):
        assert etl.entered.acquire(timeout=30)
    for _ in range(5):
        assert ask(port, "GET", "/health")[3] == b"Running"
    assert not etl.entered.acquire(blocking=False)  # no more at a time
    etl.let_go.set()
    for number, connection in enumerate(busy):
        assert answered(connection) == f"photos/{number}".encode()


def test_photos_do_not_wait_for_the_index_of_a_shard(serve: Serve) -> None:
    etl, put = Held(), "HTTP/1.1\r\nHost: pod\r\nContent-Length: 0"
    port = serve(etl)
    index = path("photos/x.tar", args=encode_index("cls", 7))
    busy = [raw(port, f"PUT {index} {put}") for _ in range(THREADS + 1)]
    assert etl.entered.acquire(timeout=30)
    waits = raw(port, f"PUT {path('photos/1', stored('photos/1', LARGE))} {put}")
    assert etl.entered.acquire(timeout=30)
    assert ask(port, "GET", "/health")[3] == b"Running"
    assert not etl.entered.acquire(blocking=False)  # one shard at a time
    etl.let_go.set()
    assert [answered(connection) for connection in (waits, *busy)] == [b"photos/1"] + [b"photos/x.tar"] * len(busy)


def test_what_is_quick_is_made_in_turn_and_health_waits_for_few(serve: Serve) -> None:
    made: list[str] = []

    class Slow(TrainETL):
        def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
            made.append(path)
            time.sleep(0.02)
            return path.encode()

    port = serve(Slow())
    connections = []
    for _ in range(16):
        connections.append(raw(port, "GET /health HTTP/1.1\r\nHost: pod"))
        assert answered(connections[-1]) == b"Running"
    names = [f"photos/{i}" for i in range(32)]
    for name, connection in zip(names[16:], connections, strict=True):
        connection.sendall(f"PUT {path(name)} HTTP/1.1\r\nHost: pod\r\nContent-Length: 0\r\n\r\n".encode())
    connections += [raw(port, f"PUT {path(name)} HTTP/1.1\r\nHost: pod\r\nContent-Length: 0") for name in names[:16]]
    while not made:
        time.sleep(0.001)
    before = len(made)
    assert ask(port, "GET", "/health")[3] == b"Running"
    assert len(made) <= before + 8  # 16 connections were there before this one
    assert sorted(answered(connection).decode() for connection in connections) == sorted(names) == sorted(made)


@pytest.mark.parametrize(
    ("source", "quick"),
    [(DATA, True), (LARGE, False), (b"\x89PNG\r\n\x1a\n", False), (b"", False), (PHOTO, True), (PHOTO.parent, False)],
)
def test_what_is_quick(tmp_path: Path, source: bytes | Path, quick: bool) -> None:
    if source == PHOTO and not hasattr(os, "RWF_NOWAIT"):
        pytest.skip("this system cannot say whether a file is in memory")
    assert TrainETL().quick(source if isinstance(source, bytes) else str(source)) == (DATA if quick else None)
    if isinstance(source, bytes):
        (tmp_path / "photo").write_bytes(source)
        assert TrainETL().quick(str(tmp_path / "photo")) in ([None, DATA] if quick else [None])  # cached or not
    assert TrainETL().quick(str(tmp_path / "none")) is None
    os.mkfifo(tmp_path / "pipe")
    assert TrainETL().quick(str(tmp_path / "pipe")) is None


@pytest.mark.parametrize("error", [BlockingIOError(errno.EAGAIN, ""), OSError(errno.EOPNOTSUPP, ""), 17])
def test_a_file_that_must_be_waited_for_is_read_in_a_thread(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, error: OSError | int
) -> None:
    def preadv(*_: Any) -> int:
        if isinstance(error, OSError):
            raise error
        return error  # a part of it is in memory

    threads = set()

    class Watched(TrainETL):
        def transform(self, data: bytes | str, path: str, etl_args: str) -> bytes:
            threads.add(threading.current_thread().name)
            return super().transform(data, path, etl_args)

    port = serve(Watched())
    monkeypatch.setattr(os, "preadv", preadv)
    assert ask(port, "PUT", path())[3] == SAMPLE
    assert [name.startswith("ThreadPoolExecutor") for name in threads] == [True]


def test_clients_that_go_away_break_nothing(serve: Serve) -> None:
    etl = Held()
    port = serve(etl)
    put = f"PUT {path()} HTTP/1.1\r\nHost: pod\r\nContent-Length:"
    gone = [raw(port, f"{put} 0") for _ in range(8)]
    gone += [raw(port, f"PUT {path(fqn='')} HTTP/1.1\r\nHost: pod\r\nContent-Length: 1000") for _ in range(3)]
    assert etl.entered.acquire(timeout=30)
    for connection in gone:
        connection.close()
    etl.let_go.set()
    for number in range(8):
        assert ask(port, "PUT", path(f"photos/{number}"))[3] == f"photos/{number}".encode()


def test_a_connection_may_ask_for_anything_in_any_order(serve: Serve) -> None:
    """Also before the last answer has come, and in pieces."""
    port = serve(TrainETL())
    requests = {
        "object": f"PUT {path()} HTTP/1.1\r\nHost: pod\r\nContent-Length: 0\r\n\r\n".encode(),
        "bytes": f"PUT {path(fqn='')} HTTP/1.1\r\nHost: pod\r\nContent-Length: {len(DATA)}\r\n\r\n".encode() + DATA,
        "health": b"GET /health HTTP/1.1\r\nHost: pod\r\n\r\n",
    }
    bodies = {"object": SAMPLE, "bytes": SAMPLE, "health": b"Running"}
    for order in itertools.product(requests, repeat=3):
        for pieces in (0, 1, 2):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stream = connection.makefile("rb")
                if pieces == 0:  # all at once
                    connection.sendall(b"".join(requests[kind] for kind in order))
                for kind in order:
                    if pieces == 1:
                        connection.sendall(requests[kind])
                    elif pieces == 2:
                        connection.sendall(requests[kind][:20])
                        time.sleep(0.001)
                        connection.sendall(requests[kind][20:])
                    assert read(stream) == bodies[kind], (order, pieces)


def test_an_answer_that_is_under_way_is_given_before_the_end() -> None:
    """The image's own command, which is told to end while it works."""
    command = shlex.split((PROJECT / "etl/Dockerfile").read_text().rpartition("exec ")[2].rstrip(']"\n'))
    with closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    command = [
        {"8000": str(port), "0.0.0.0": "127.0.0.1", "${NUM_WORKERS:-4}": "1"}.get(word, word) for word in command
    ]
    large = stored("photos/large.png")
    Image.new("RGB", (6000, 6000)).save(large)
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=PROJECT, env={**os.environ, "IMAGENET_AIS_RECIPE": "train"}
    )
    try:
        wait_healthy(port, process)
        request = f"PUT {path('photos/large.png', large)} HTTP/1.1\r\nHost: pod\r\nContent-Length: 0"
        with raw(port, request) as busy, raw(port, f"PUT {path()} HTTP/1.1\r\nHost: pod\r\nContent-Length: 0") as idle:
            assert answered(idle) == SAMPLE
            process.terminate()
            assert answered(busy) == answer(large.read_bytes(), REQUEST)
            assert busy.recv(1) == b""
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("settings", "version", "taken"),
    [
        ({}, uvicorn.__version__, True),
        ({"proxy_headers": False}, uvicorn.__version__, True),
        ({"log_level": "trace"}, uvicorn.__version__, False),  # uvicorn logs all messages of ASGI
        ({"http": "h11"}, uvicorn.__version__, False),
        ({"lifespan": "off"}, uvicorn.__version__, False),
        ({}, "0.31.9", False),
        ({}, "0.32.0", True),
        ({}, "0.999", False),
    ],
)
def test_connections_are_taken_where_nothing_else_would_see_them(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], version: str, taken: bool
) -> None:
    monkeypatch.setattr(uvicorn, "__version__", version)
    config = configure(TrainETL().app, **settings)
    config.load()

    async def start_and_stop() -> None:
        lifespan = config.lifespan_class(config)
        await lifespan.startup()
        await lifespan.shutdown()

    try:
        asyncio.run(start_and_stop())
    finally:
        logging.getLogger("uvicorn").setLevel(logging.NOTSET)
    assert takes_connections(config) == taken


@pytest.mark.parametrize("uvicorn_", ["0.32", "installed"])
def test_served_as_on_a_cluster(tmp_path: Path, uvicorn_: str) -> None:
    """By AIStore's own runtime: ``uvicorn server:server.app`` with workers, where no file of this project exists."""
    oldest = PROJECT / "build" / f"uvicorn-{uvicorn_}"
    if uvicorn_ != "installed" and not oldest.exists():
        pytest.skip(f"uvicorn {uvicorn_} is not in {oldest}: make test puts it there")
    (tmp_path / "server.py").write_text(
        "import base64, os, sys, cloudpickle\n"
        "server = cloudpickle.loads(base64.b64decode(os.environ['ETL_CLASS_PAYLOAD']))()\n"
        "assert not any(name == 'etl' or name.startswith('etl.') for name in sys.modules)\n"
    )
    with closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    payload = class_payload(TrainETL)
    options = ["--workers", "2", "--timeout-keep-alive", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "server:server.app", "--port", str(port), *options],
        cwd=tmp_path,
        env={
            **{"AIS_TARGET_URL": "http://127.0.0.1:9", "ETL_DIRECT_FQN": "true", "ETL_CLASS_PAYLOAD": payload},
            **({} if uvicorn_ == "installed" else {"PYTHONPATH": str(oldest)}),
        },
        start_new_session=True,
    )
    try:
        wait_healthy(port, process)
        for _ in range(8):  # connections, so that both workers are asked
            assert ask(port, "PUT", path())[3] == SAMPLE
            assert ask(port, "PUT", path(fqn=""), DATA)[3] == SAMPLE
        put = f"PUT {path()} HTTP/1.1\r\nHost: pod\r\nContent-Length: 0"
        with raw(port, put) as connection, connection.makefile("rb") as stream:
            assert read(stream) == SAMPLE
            time.sleep(1.5)  # uvicorn closes its own connections after a second here, and so fails the next request
            connection.sendall(f"{put}\r\n\r\n".encode())
            assert read(stream) == SAMPLE
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
