"""Errors of torch that a person can do something about, as a sentence."""

import importlib.util
import os
import re
import shutil

import torch

from sources.errors import ConfigError

_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|bad_alloc|Cannot allocate memory", re.IGNORECASE)


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


def explain_runtime_error(error: BaseException, *, compiled: bool) -> str | None:
    """A sentence for an error that torch raised in a step; None for one that is nobody's but ours.

    ``compiled``: whether train.compile is set.
    """
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"the GPU's memory is too small: raise train.accumulate. {error}"
    if "deterministic implementation" in first:
        return f"deterministic=true: {first}"
    if _NO_MEMORY.search(text) or isinstance(error, MemoryError):
        return (
            f"this machine's memory is too small: raise train.accumulate, or lower data.workers, data.prefetch or "
            f"train.batch_size. ({first[:200]})"
        )
    if compiled and _of_compiler(error):
        last = next((line.strip() for line in reversed(_root(error).splitlines()) if line.strip()), "")
        detail = first[:200] if last in first else f"{first[:200]} … {last[:200]}"
        return (
            f"train.compile=true: torch.compile failed in {type(error).__name__}: {detail} "
            "Leave out train.compile, or mend the compiler (a C++ compiler and Python's headers on CPUs, Triton and a "
            "C compiler on GPUs)."
        )
    return None


def _of_compiler(error: BaseException | None) -> bool:
    """Whether torch.compile raised it, or something below it did."""
    while error is not None:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "triton")):
            return True
        error = error.__cause__ or error.__context__
    return False


def _root(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(error)
