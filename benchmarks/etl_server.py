"""What an ETL's web server costs beside the transform, and how long requests and ``/health`` wait: ours and the SDK's.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.etl_server [--seconds 3] [--repeats 3] [--memory]

FOLDER holds imagenet-sample.tar. Both run under uvicorn with as many processes as cores and the same transform: ours,
in the container image or by class, and the SDK's, a subclass of its FastAPIServer that has ``transform`` alone.
Requests name the photos' files, as a storage target does; a round takes --seconds. "Overhead" is the CPU time of the
processes for a sample, all threads, less what the thread's clock says of its transform (reading the file, making the
sample, its bytes); "bare loop" is the same work in a process without a server. "No-op" transforms answer ready bytes of
the same size. Health is polled every 20 ms in rounds of their own, since an answer of the SDK's route costs as much as
a sample's. Rounds are interleaved; medians are printed with the smallest and largest.
"""

import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

from benchmarks.etl_app import CLOCKS, KIND, READY, read_clocks
from benchmarks.measure import in_own_session, photo_folder, reply, rollup_mb
from benchmarks.results import Row, Table, begin, parser
from etl.pod_index import INDEX_VARIABLE

OURS, SDK = "imagenet-ais", "SDK"
OURS_NOOP, SDK_NOOP = f"{OURS}, no-op", f"{SDK}, no-op"
KINDS = (SDK, OURS, SDK_NOOP, OURS_NOOP)
IN_FLIGHT = (8, 32)
HEALTH_S = 0.02
BYTES = 224 * 224 * 3
FIGURES: dict[str, tuple[str, str, Literal["less", "more"]]] = {
    "overhead ms": ("ETL web server beside the transform", "CPU ms per image", "less"),
    "img/s": ("ETL web server, a process for each core", "images/s", "more"),
    "p99/median": ("Latency of samples, p99 over median", "ratio", "less"),
    "p99 ms": ("Latency of samples, p99", "ms", "less"),
    "health p99 ms": ("Latency of /health meanwhile, p99", "ms", "less"),
}
"""Of the columns of a round, those that are told: title, unit, what is better."""


@dataclass(frozen=True)
class Round:
    """Latencies in seconds, of samples and of /health."""

    samples: list[float]
    health: list[float]
    seconds: float


class Connection:
    """A kept-alive connection with one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head, self._left, self._begin = b"", 0, 0.0

    def ask(self, request: bytes) -> None:
        """Send a request."""
        self._head, self._begin = b"", time.perf_counter()
        self.socket.send(request)

    def receive(self, buffer: memoryview) -> float | None:
        """Seconds since the request if the answer is complete."""
        count = self.socket.recv_into(buffer)
        if not count:
            raise EOFError("the server has closed a connection")
        if not self._head.endswith(b"\r\n\r\n"):
            self._head += bytes(buffer[: min(count, 4096)])
            head, mark, _ = self._head.partition(b"\r\n\r\n")
            if not mark:
                return None
            if b" 200 " not in head[:14]:
                raise ValueError(f"the server answered {self._head!r}")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            count -= len(head) + 4
            self._head, self._left = head + mark, length
        self._left -= count
        return None if self._left else time.perf_counter() - self._begin


def load(port: int, requests: Sequence[bytes], in_flight: int, seconds: float, health: bool = False) -> Round:
    """Ask for samples with so many requests in flight, and for /health beside."""
    samples: list[float] = []
    healths: list[float] = []
    buffer, number = memoryview(bytearray(1 << 18)), in_flight
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        connections = []
        begin = time.perf_counter()
        for place in range(in_flight + health):
            connections.append(Connection(port))
            stack.enter_context(connections[-1].socket)
            selector.register(connections[-1].socket, selectors.EVENT_READ, connections[-1])
            if place < in_flight:  # at once, as a target does, so that a process that is busy does not take the next
                connections[-1].ask(requests[place])
        asked, poll_at = False, begin if health else begin + 2 * seconds
        while (now := time.perf_counter()) < begin + seconds or not samples:
            if now >= poll_at and not asked:
                connections[-1].ask(b"GET /health HTTP/1.1\r\nHost: pod\r\n\r\n")
                asked, poll_at = True, now + HEALTH_S
            for key, _ in selector.select(0.01 if asked else min(0.01, poll_at - now)):
                connection = key.data
                if (latency := connection.receive(buffer)) is None:
                    continue
                if health and connection is connections[-1]:
                    healths.append(latency)
                    asked = False
                else:
                    samples.append(latency)
                    connection.ask(requests[number % len(requests)])
                    number += 1
        if asked:  # what it waits for by now counts too
            healths.append(time.perf_counter() - poll_at + HEALTH_S)
        return Round(samples, healths, time.perf_counter() - begin)


@dataclass(frozen=True)
class Server:
    """One that runs."""

    port: int
    pid: int
    clocks: Path


@contextmanager
def server(kind: str, clocks: bool = True) -> Iterator[Server]:
    """A server of this kind; without clocks what the container image runs."""
    workers = os.cpu_count() or 1
    application = "benchmarks.etl_app:app" if clocks or kind != OURS else "etl.app:app"
    with closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", application, "--workers", str(workers)),
                *("--port", str(port), "--no-access-log", "--log-level", "warning"),
            ],
            env={
                **os.environ,
                **{KIND: "sdk" if kind in (SDK, SDK_NOOP) else "ours", CLOCKS: folder},
                READY: str(BYTES if kind in (SDK_NOOP, OURS_NOOP) else 0),
                INDEX_VARIABLE: "0",  # the same work for all
                **{"AIS_TARGET_URL": "http://127.0.0.1:9", "ETL_DIRECT_FQN": "true", "IMAGENET_AIS_RECIPE": "train"},
            },
            stdout=subprocess.DEVNULL,
        )
        made = Server(port, process.pid, Path(folder))
        try:
            while not is_up(made, workers if application == "benchmarks.etl_app:app" else 0):
                if process.poll() is not None:
                    raise RuntimeError(f"the server for {kind} has ended with {process.returncode}")
                time.sleep(0.05)
            yield made
        finally:
            process.terminate()
            process.wait()


def is_up(server: Server, clocks: int) -> bool:
    """Whether so many processes have begun, and one answers."""
    if len(list(server.clocks.iterdir())) < clocks:
        return False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health") as response:
            return bool(response.status == 200)
    except OSError:
        return False


def request_of(path: Path, args: str) -> bytes:
    """As a target asks its pod."""
    query = urlencode({"etl_args": args, "etl_fqn": quote(str(path), safe="")})
    head = f"PUT /bench/{quote(path.name)}?{query} HTTP/1.1\r\nHost: pod\r\nUser-Agent: Go-http-client/1.1\r\n"
    return f"{head}Content-Length: 0\r\nAccept-Encoding: gzip\r\n\r\n".encode()


def arguments_of(index: int) -> str:
    """etl_args of sample ``index``."""
    from etl.request import Request, encode
    from etl.spec import Key, Spec

    return encode(Request(Spec.train(), Key(0, 3, index)))


def bare(paths: Sequence[Path]) -> None:
    """Print CPU milliseconds for one sample, without a server."""
    from etl.request import answer, parse

    def make(index: int, path: Path) -> None:
        with open(path, "rb", buffering=0) as file:
            answer(file.read(), parse(arguments[index], "train"))

    arguments = [arguments_of(index) for index in range(len(paths))]
    for index, path in enumerate(paths[:50]):
        make(index, path)
    begin = time.process_time()
    for index, path in enumerate(paths):
        make(index, path)
    reply(iter([{"cpu_ms": 1e3 * (time.process_time() - begin) / len(paths)}]))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below ``share`` of all, in milliseconds."""
    return 1e3 * sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(server: Server, requests: Sequence[bytes], in_flight: int, seconds: float) -> dict[str, float]:
    """The columns of the table for one round."""
    before = read_clocks(server.clocks)
    plain = load(server.port, requests, in_flight, seconds)
    time.sleep(0.2)  # what is under way is made too, and counted
    after = read_clocks(server.clocks)
    watched = load(server.port, requests, in_flight, seconds, health=True)
    count = len(plain.samples) + in_flight
    cpu_ms, transform_ms = (1e3 * (then - now) / count for now, then in zip(before, after, strict=True))
    return {
        "CPU ms": cpu_ms,
        "transform ms": transform_ms,
        "overhead ms": cpu_ms - transform_ms,
        "img/s": count / plain.seconds,
        "median ms": percentile(plain.samples, 0.5),
        "p99 ms": percentile(plain.samples, 0.99),
        "p99/median": percentile(plain.samples, 0.99) / percentile(plain.samples, 0.5),
        "health p99 ms": percentile(watched.health, 0.99),
        "worst ms": percentile(watched.health, 1.0),
    }


def print_memory(requests: Sequence[bytes], seconds: float) -> None:
    """Of the processes of the container image, and of the SDK's server."""
    print("\nMemory in MB after load, a worker for each core: RSS (PSS) of each")
    for kind in (OURS, SDK):
        with server(kind, clocks=False) as running:
            load(running.port, requests, 8, 3 + seconds)  # three of them while all start
            children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
            figures = [
                f"{rollup_mb(pid, 'Rss:'):.0f} ({rollup_mb(pid, 'Pss:'):.0f})"
                for pid in (running.pid, *map(int, children))
            ]
            print(f"{kind}: supervisor, its helper, workers: {', '.join(figures)}")


def main() -> int:
    """The command line."""
    options = parser(__doc__, seconds=3.0, repeats=3, memory=False).parse_args()
    if options.one:
        bare(sorted(Path(options.one[0]).rglob("*.JPEG")))
        return 0
    result = begin(options)
    rows: dict[tuple[int, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    bare_ms = []
    with photo_folder() as root, ExitStack() as stack:
        objects = root / "@ais" / "bench" / "%ob"  # as a target keeps those of ais://bench
        objects.mkdir(parents=True)
        paths = [path.rename(objects / path.name) for path in sorted((root / "photos").rglob("*.JPEG"))]
        requests = [request_of(path, arguments_of(index)) for index, path in enumerate(paths)]
        servers = {kind: stack.enter_context(server(kind)) for kind in KINDS}
        for running in servers.values():
            load(running.port, requests, 8, min(1, options.seconds))
        for _ in range(options.repeats):
            bare_ms.append(in_own_session("benchmarks.etl_server", "--one", str(objects))["cpu_ms"])
            for in_flight in IN_FLIGHT:
                for kind, running in servers.items():
                    for name, value in measure(running, requests, in_flight, options.seconds).items():
                        rows[in_flight, kind][name].append(value)
        print(
            f"bare loop: {statistics.median(bare_ms):.3f} ({min(bare_ms):.3f}–{max(bare_ms):.3f}) CPU ms for a sample"
        )
        for figure, (title, unit, better) in FIGURES.items():
            made = [
                Row(f"{kind}, {in_flight} in flight", columns[figure])
                for (in_flight, kind), columns in sorted(rows.items(), key=lambda item: item[0][0])
            ]
            result.add(Table(figure, title, unit, made, f"{SDK}, 8 in flight", better))
        stack.close()  # the servers, not the photos
        if options.memory:
            print_memory(requests, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
