"""Starts train.py without the seconds of importing torch: a process that has imported it forks one for each run.

Reads a request a line (see ``Request``), answers the process number of the run, and for {"wait": PID} its exit status
as ``subprocess`` counts it. A request may tell the run to meet with an accident at an exact moment.
"""

import dataclasses
import io
import json
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Request:
    """A run: arguments, working directory, where its output goes, and what happens to it."""

    arguments: list[str]
    cwd: str
    output: str
    environment: dict[str, str] = field(default_factory=dict)
    accident: str = ""
    """One of MOMENTS."""
    number: int = 1
    """At the how manieth time the moment comes."""
    signal: int = signal.SIGKILL
    patches: list[str] = field(default_factory=list)
    """Of PATCHES, before the run starts."""


def _before(module: Any, name: str, accident: Callable[[], None]) -> None:
    original = getattr(module, name)

    def call(*arguments: Any, **options: Any) -> Any:
        accident()
        return original(*arguments, **options)

    setattr(module, name, call)


def _half_written(accident: Callable[[], None]) -> None:
    import torch

    original = torch.save

    def save(state: Any, file: Any) -> None:
        whole = io.BytesIO()
        original(state, whole)
        content = whole.getvalue()
        file.write(content[: len(content) // 2])
        file.flush()
        accident()
        file.write(content[len(content) // 2 :])

    torch.save = save  # type: ignore[assignment]


def _half_kept(accident: Callable[[], None]) -> None:
    original = os.pwrite

    def write(file: int, data: Any, place: int) -> int:
        half = len(data) // 2
        original(file, data[:half], place)
        accident()
        return half + original(file, data[half:], place + half)

    os.pwrite = write  # type: ignore[assignment]


def _moments() -> dict[str, Callable[[Callable[[], None]], None]]:
    from aistore_data.etls import lifecycle
    from training.engine.objective import Objective
    from training.run_dir import records

    return {
        "between steps": lambda accident: _before(Objective, "prepare", accident),
        "inside a step": lambda accident: _before(Objective, "loss", accident),
        "a checkpoint half written": _half_written,
        "a decoded photo half written": _half_kept,
        "before a checkpoint is in place": lambda accident: _before(os, "fsync", accident),
        "before best.pt is in place": lambda accident: _before(Path, "hardlink_to", accident),
        "during validation": lambda accident: _before(Objective, "validation_loss", accident),
        "after the last save": lambda accident: _before(records.RunDirectory, "summary", accident),
        "during ETL start": lambda accident: _before(lifecycle, "_init", accident),
    }


def _without_dropout() -> None:
    """squeezenet1_1 without randomness in the model, so that two processes may equal one."""
    from torch import nn

    nn.Dropout.forward = lambda self, values: values  # type: ignore[method-assign]


def _in_float64() -> None:
    from training.engine.objective import Objective
    from training.model import torchvision_models

    build, inputs = torchvision_models.build, Objective.inputs

    def build_in_float64(*arguments: Any) -> Any:
        bundle = build(*arguments)
        bundle.module.double()
        return bundle

    torchvision_models.build = build_in_float64
    Objective.inputs = lambda self, images: inputs(self, images).double()  # type: ignore[method-assign]


def _impatient() -> None:
    from training.run_dir import directory

    directory.SHARED_WITHIN_S = 1.0


def _with_uploads_at_once() -> None:
    """The mirror is complete when a checkpoint is, so that what a killed run leaves there is known."""
    from training.run_dir.mirror import Mirror

    Mirror.push, push = lambda mirror, position: (push(mirror, position), mirror._wait()), Mirror.push  # type: ignore[method-assign, assignment, return-value]


def _with_old_files() -> None:
    """Files that a test has just made count as old to the cache of decoded photos."""
    from etl import decoded_sample

    decoded_sample.SETTLED_S = -60.0


PATCHES: dict[str, Callable[[], None]] = {
    "without dropout": _without_dropout,
    "float64": _in_float64,
    "impatient": _impatient,
    "uploads at once": _with_uploads_at_once,
    "old files": _with_old_files,
}


def _run(request: Request) -> int:
    """In the forked process: become the run."""
    os.setpgid(0, 0)
    descriptor = os.open(request.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for target in (1, 2):
        os.dup2(descriptor, target)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request.cwd)
    os.environ.update(request.environment)
    for patch in request.patches:
        PATCHES[patch]()
    if request.accident:
        left = request.number

        def accident() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), request.signal)

        _moments()[request.accident](accident)
    sys.argv = [str(PROJECT / "train.py"), *request.arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as done:
        return int(done.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Serve until the input ends."""
    import torch.utils.tensorboard  # noqa: F401

    import aistore_data.dataset.open_bucket  # noqa: F401
    import training.run  # noqa: F401

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        if "wait" in message:
            status = os.waitpid(message["wait"], 0)[1]
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            code = _run(Request(**message))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)


def encode(request: Request) -> str:
    """A request as the line that ``main`` reads."""
    return json.dumps(dataclasses.asdict(request)) + "\n"


if __name__ == "__main__":
    main()
