"""What decides the bits of a result besides data and code: threads, precision, deterministic algorithms, seeds."""

import importlib.util
import os
import shutil

import torch

from sources.cpus import cpu_count
from sources.errors import ConfigError
from sources.randomness import DROPOUT, stream
from training.config.schema import Config
from training.processes.world import World


def cpu_share(setting: int | str, world: World) -> int:
    """A number of threads or workers: as set, or this process's share of the node's CPUs.

    SLURM may bind each task to CPUs of its own, or let all of them see all; its own number tells.
    """
    if isinstance(setting, int):
        return setting
    of_task = os.environ.get("SLURM_CPUS_PER_TASK") if world.from_slurm else None
    return max(1, min(int(of_task), cpu_count()) if of_task else cpu_count() // world.local_size)


def set_numerics(config: Config, device: torch.device, world: World) -> None:
    """Set threads, TF32 and determinism. Raises ConfigError for a precision or a compiler that is not there.

    TF32 rounds the factors of float32 products to 10 bits of fraction on GPUs, in convolutions and matrix products
    alike; it is on unless ``deterministic`` is set.
    """
    require_precision(config.precision, device, "precision")
    if config.train.compile:
        check_compiler(device)
    torch.set_num_threads(cpu_share(config.threads, world))
    if config.deterministic:
        # cuBLAS reads it when its first handle is made.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.deterministic = config.deterministic
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cudnn.allow_tf32 = not config.deterministic
    torch.backends.cuda.matmul.allow_tf32 = not config.deterministic


def require_precision(precision: str, device: torch.device, option: str) -> None:
    """Raise ConfigError where the device does not have the precision that ``option`` names."""
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(f"{option}=fp16 needs a GPU: on a CPU use {option}=bf16 or fp32.")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(False):
        raise ConfigError(f"{option}=bf16 is not supported by this GPU: use {option}=fp16 or fp32.")


def check_compiler(device: torch.device) -> None:
    """Raise ConfigError where ``train.compile=true`` cannot work: on CPUs it needs a C++ compiler, on GPUs Triton."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError(
            "train.compile=true needs Triton on a GPU, which is not installed: pip install triton, or leave out "
            "train.compile."
        )
    compiler = os.environ.get("CXX") or "g++"
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise ConfigError(
            f"train.compile=true needs a C++ compiler on a CPU, and there is no {compiler} on the PATH: install one "
            "(Debian: g++), name another in the variable CXX, or leave out train.compile."
        )


def seed_step(seed: int, epoch: int, step: int, rank: int, device: torch.device) -> None:
    """Seed the generators of CPU and device for a step, so that dropout depends on (seed, epoch, step, rank) alone.

    No generator's state needs to be stored. The seed is the first word, halved, of the stream DROPOUT of all domains.
    """
    word = int(stream(seed, DROPOUT, (rank, epoch, step)).random_raw()) >> 1
    # torch.manual_seed seeds every kind of device, and formats a stack for each that is not in use: 0.5 ms a step.
    torch.default_generator.manual_seed(word)
    if device.type == "cuda":
        torch.cuda.manual_seed(word)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Mixed precision for the forward pass; does nothing for fp32."""
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
