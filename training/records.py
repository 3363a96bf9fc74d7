"""The run directory: what a run writes about itself. Rank 0 alone writes."""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import hydra
import numpy
import PIL
import PIL.features
import torch
import torchvision
from omegaconf import OmegaConf

import etl
from aistore_data.errors import ConfigError, UserError
from training.config import Config
from training.distributed import World
from training.metrics import Metrics

ENTRIES = (
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "summary.json",
    "PREEMPTED",
    "checkpoints",
    "tensorboard",
)
"""All that a run writes into its directory."""

_MARK = "# imagenet-ais"


class RunDirectory:
    """Appends metrics, writes the records, and mirrors figures to TensorBoard. Close it when done."""

    def __init__(self, config: Config) -> None:
        """Open ``config.run_dir``, which ``claim`` has approved; resume=never empties it."""
        self.path = Path(config.run_dir)
        self.checkpoints = self.path / "checkpoints"
        if config.resume == "never":
            _remove(self.path, ENTRIES)
        self.attempt = self._last_attempt() + 1
        _remove(self.path, ["PREEMPTED", "summary.json"])
        _write(self.path / "config.yaml", config_yaml(config))
        self._metrics = open(self.path / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115
        self._board: Any = None

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        self._metrics.close()
        if self._board is not None:
            self._board.close()

    def environment(self, device: torch.device, world: World, data: dict[str, Any]) -> None:
        """Write environment.json: what the run ran on, and on which data."""
        content = describe_environment(device, world) | {"data": data, "attempt": self.attempt}
        _write(self.path / "environment.json", json.dumps(content, indent=2) + "\n")

    def metric(self, kind: str, epoch: int, step: int, metrics: Metrics, **speed: float) -> None:
        """Append a line to metrics.jsonl, and the same figures to TensorBoard under ``kind/``."""
        values = {"loss": metrics.loss, "acc1": metrics.acc1, "acc5": metrics.acc5, **speed}
        line = {"kind": kind, "epoch": epoch, "step": step, **values, "attempt": self.attempt, "time": time.time()}
        self._metrics.write(json.dumps(line) + "\n")
        self._metrics.flush()
        for name, value in values.items():
            self.board.add_scalar(f"{kind}/{name}", value, step)

    def images(self, tag: str, images: torch.Tensor, step: int) -> None:
        """A grid of images float [n, 3, H, W] in [0, 1] for TensorBoard."""
        self.board.add_image(tag, torchvision.utils.make_grid(images, nrow=8), step)

    def summary(self, **values: Any) -> None:
        """Write summary.json."""
        _write(self.path / "summary.json", json.dumps(values, indent=2) + "\n")

    def preempted(self) -> None:
        """Leave the mark of a run that was stopped with its state saved."""
        _write(self.path / "PREEMPTED", f"stopped on request {time.strftime('%Y-%m-%dT%H:%M:%S%z')}\n")

    @property
    def board(self) -> Any:
        """TensorBoard's writer, made when first needed, since its import takes seconds."""
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.path / "tensorboard"))
        return self._board

    def _last_attempt(self) -> int:
        try:
            return int(json.loads((self.path / "environment.json").read_text())["attempt"])
        except (OSError, ValueError, KeyError):
            return 0


def claim(config: Config) -> None:
    """Check that ``config.run_dir`` can be written to and is new, empty or one of ours. Raises ConfigError."""
    path = Path(config.run_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"run_dir={path} cannot be written to: {error.strerror}. Choose another run_dir.") from None
    ours = is_run_directory(path)
    if any(path.iterdir()) and not ours:
        raise ConfigError(
            f"run_dir={path} holds files, but no run of this trainer (a config.yaml of ours): choose another run_dir."
        )
    if ours and config.mode == "evaluate" and (path / "checkpoints").exists():
        raise ConfigError(
            f"run_dir={path} holds a training run, which an evaluation must not replace: choose another run_dir."
        )


def _remove(path: Path, names: Iterable[str]) -> None:
    for name in names:
        if (path / name).is_dir():
            shutil.rmtree(path / name)
        else:
            (path / name).unlink(missing_ok=True)


def is_run_directory(path: Path) -> bool:
    """Whether a directory is recognisably a run of this trainer."""
    try:
        return (path / "config.yaml").read_text(encoding="utf-8").startswith(_MARK)
    except (OSError, UnicodeDecodeError):
        return False


def config_yaml(config: Config) -> str:
    """The whole configuration, in a form that ``train.py --config-path`` takes."""
    header = {
        "defaults": [
            "/schema",
            "_self_",
            {"override /hydra/job_logging": "none"},
            {"override /hydra/hydra_logging": "none"},
        ],
        "hydra": {"run": {"dir": "."}, "output_subdir": None},
    }
    return f"{_MARK}: {rerun_command(config.run_dir)}\n" + OmegaConf.to_yaml(header | dataclasses.asdict(config))


def rerun_command(run_dir: str) -> str:
    """The command that repeats the run of ``run_dir`` in a new directory."""
    path = run_dir if os.path.isabs(run_dir) else f'"$PWD/{run_dir}"'
    return f"python train.py --config-path {path} --config-name config run_dir=NEW"


def describe_environment(device: torch.device, world: World) -> dict[str, Any]:
    """Versions, machine and device: what, besides configuration and data, decides the bits of a result."""
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": numpy.__version__,
            "pillow": PIL.__version__,
            "libjpeg_turbo": PIL.features.version("libjpeg_turbo"),
            "hydra": hydra.__version__,
            "sample": etl.VERSION,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        },
        "git": _git_commit(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "world_size": world.size,
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def _git_commit() -> dict[str, Any] | None:
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None  # not a checkout, or no git here


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}.") from None
