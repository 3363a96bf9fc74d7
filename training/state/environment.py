"""What a run ran on: all that decides the bits of its result besides the configuration and the data.

What makes its samples is measured: "the same samples" is said of pixels, not of source text.
"""

import dataclasses
import functools
import hashlib
import itertools
import platform
import subprocess
import sys
from importlib import metadata
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
from etl.sample import native, transform
from etl.spec import AUGMENTS, Key, Spec
from sources.samples import through_wire
from training.config.options import flatten
from training.config.schema import Config
from training.processes.world import World
from training.state.compatibility import uses_timm

_JPEG = Path(__file__).with_name("photo.jpeg").read_bytes()
"""A photo of 40 x 31 pixels."""

_PPM = b"P6 29 37 255\n" + bytes(
    (x * 7 + y * 13 + channel * 61) % 256 for y in range(37) for x in range(29) for channel in range(3)
)
"""An image that no library has to decompress."""


def common_facts(config: Config) -> dict[str, Any]:
    """What all processes of a run must have in common, by name."""
    options = {name: value for name, value in flatten(dataclasses.asdict(config)).items() if name != "run_dir"}
    return options | {"code": _project_sha256()[:16]} | versions()


def versions() -> dict[str, Any]:
    """Return the versions of everything that takes part in a result."""
    return {
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
    }


def describe_environment(config: Config, device: torch.device, world: World) -> dict[str, Any]:
    """Versions, machine and device: what, besides configuration and data, decides the bits of a result."""
    of_timm = {"timm": metadata.version("timm")} if uses_timm(dataclasses.asdict(config)) else {}
    return {
        "versions": versions() | of_timm,
        "samples": samples_sha256(config.data.augment != "none" or config.data.jitter > 0),
        "sample_code": code_sha256(),
        "native": _native(),
        "git": _git_commit(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "world_size": world.size,
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


@functools.cache
def _project_sha256() -> str:
    """Return the SHA-256 of the program's own code, as it was when first asked for."""
    digest, root = hashlib.sha256(), Path(__file__).resolve().parents[2]
    for folder in ("training", "aistore_data", "sources", "etl"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _native() -> dict[str, str] | None:
    """The module that makes samples in Pillow's place. The bytes are the same, so it may change when a run goes on."""
    module = native()
    if module is None:
        return None
    return {"version": module.__version__, "simd": module.SIMD, "libjpeg_turbo": module.LIBJPEG_TURBO}


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


@functools.cache
def samples_sha256(augmented: bool = False) -> str:
    """Fingerprint of what this process makes of two images, by both recipes, several keys and both wire formats.

    With ``augmented``, of what the policies make of the photo, too.

    It stays the same when the code is rewritten, and changes when a sample's bytes do, whoever changes them: this
    project, Pillow or NumPy. It cannot see a change that needs another image or key to show; ``etl.VERSION``, which is
    part of it, and the vectors in ``tests/unit/vectors`` stand for those.
    """
    digest = hashlib.sha256(f"samples 1, version {etl.VERSION}\n".encode())
    specs = (
        Spec.train(32),
        Spec.train(20, (0.3, 0.9), (0.5, 1.5), "bicubic"),
        Spec.val(32, 36),
        Spec.val(24, 30, "bicubic"),
    )
    keys = (Key(0, 0, 0), Key(1, 2, 3), Key(5, 1, 70_000, 1))
    for data, spec, key in itertools.product((_JPEG, _PPM), specs, keys):
        pixels = transform(data, spec, key)
        digest.update(pixels.tobytes())
        digest.update(through_wire(pixels, "jpeg").tobytes())
    policies = [Spec.train(32, augment=name, augment_interpolation="bilinear", jitter=0.3) for name in AUGMENTS]
    for spec, index in itertools.product(policies if augmented else (), range(32)):
        digest.update(transform(_JPEG, spec, Key(2, 0, index)).tobytes())
    return digest.hexdigest()
