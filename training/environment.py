"""What a run ran on: all that decides the bits of its result besides the configuration and the data."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy
import PIL
import PIL.features
import torch
import torchvision

import etl
from etl.code import code_sha256
from training.distributed import World


def describe_environment(device: torch.device, world: World) -> dict[str, Any]:
    """Versions, machine and device: what, besides configuration and data, decides the bits of a result."""
    return {
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torchvision": torchvision.__version__,
            "numpy": numpy.__version__,
            "pillow": PIL.__version__,
            "libjpeg_turbo": PIL.features.version("libjpeg_turbo"),
            "hydra": hydra.__version__,
            "sample": etl.VERSION,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        },
        "sample_code": code_sha256(),
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
