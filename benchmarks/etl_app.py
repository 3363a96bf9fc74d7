"""What ``benchmarks.etl_server`` has uvicorn serve, as ``benchmarks.etl_app:app``: the kind in the environment.

Every process of it keeps the CPU seconds of its transforms in a file of its own.
"""

import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer

from etl.limits import Limits
from etl.server import TrainETL

KIND, CLOCKS, READY = "BENCHMARK_KIND", "BENCHMARK_CLOCKS", "BENCHMARK_READY"
"""Environment: "ours" or "sdk"; the folder of those files; bytes of a ready answer, 0 to transform."""

_FORMAT = "d"


class Clocks:
    """Of this process."""

    def __init__(self) -> None:
        path = Path(os.environ[CLOCKS]) / str(os.getpid())
        path.write_bytes(bytes(struct.calcsize(_FORMAT)))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        self._lock, self._transforms_s = Lock(), 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, whose CPU time is that of transforms."""

        def clocked(*arguments: Any) -> Any:
            begin = time.thread_time()
            result = function(*arguments)
            with self._lock:
                self._transforms_s += time.thread_time() - begin
                struct.pack_into(_FORMAT, self._shared, 0, self._transforms_s)
            return result

        return clocked


def read_clocks(folder: Path) -> tuple[float, float]:
    """(CPU seconds of everything, CPU seconds of transforms) of all processes together."""
    all_ns, transforms_s = 0, 0.0
    for path in folder.iterdir():
        transforms_s += struct.unpack(_FORMAT, path.read_bytes())[0]
        all_ns += sum(
            int(thread.read_text().split()[0]) for thread in Path("/proc", path.name).glob("task/*/schedstat")
        )
    return all_ns / 1e9, transforms_s


def _server() -> Any:
    clocks, ready = Clocks(), os.urandom(int(os.environ[READY]))

    def transform(server: Any, data: Any, path: str, etl_args: str) -> bytes:
        return ready or TrainETL.transform(server, data, path, etl_args)

    def quick(server: Any, source: Any, at: Any = None) -> bytes | None:
        return ready or TrainETL.quick(server, source, at)

    sdk = os.environ[KIND] == "sdk"
    overrides = {"recipe": "train", "transform": clocks.around(transform)}
    if sdk:  # what the transform wants of an ETL of ours
        ours = {"_request": TrainETL._request, "_body": TrainETL._body, "index": None, "kept": None}
        overrides |= {"limits": Limits.of_environment(), **ours}
    else:
        overrides["quick"] = clocks.around(quick)
    return type("Clocked", (FastAPIServer if sdk else TrainETL,), overrides)()


if CLOCKS in os.environ:
    app = _server().app
