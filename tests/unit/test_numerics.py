"""Threads, precision and compilers: what is set, and a sentence for what is not there."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from sources.errors import ConfigError
from training.config.schema import Config
from training.engine.numerics import check_compiler, cpu_share, set_numerics
from training.processes.rescue import in_words
from training.processes.world import World


@pytest.mark.parametrize(
    ("setting", "visible", "of_task", "world", "expected"),
    [
        (3, 8, "4", World(), 3),
        ("auto", 8, None, World(0, 4, 0, 4), 2),
        ("auto", 2, None, World(0, 4, 0, 4), 1),
        ("auto", 32, "4", World(0, 16, 0, 8, from_slurm=True), 4),  # tasks that see all CPUs
        ("auto", 4, "4", World(0, 16, 0, 8, from_slurm=True), 4),  # tasks that are bound to their own
        ("auto", 2, "4", World(0, 2, 0, 1, from_slurm=True), 2),
        ("auto", 32, None, World(0, 16, 0, 8, from_slurm=True), 4),
        ("auto", 32, "32", World(0, 8, 0, 8, has_agent=True), 4),  # torchrun as the task
    ],
)
def test_the_share_of_a_process(
    monkeypatch: pytest.MonkeyPatch, setting: int | str, visible: int, of_task: str | None, world: World, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(visible)))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if of_task:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", of_task)
    assert cpu_share(setting, world) == expected


@pytest.mark.parametrize("deterministic", [False, True])
def test_tf32_is_on_unless_the_run_is_deterministic(deterministic: bool) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, torch.get_num_threads()
    try:
        set_numerics(Config(deterministic=deterministic), torch.device("cpu"), World())
        assert (matmul.allow_tf32, cudnn.allow_tf32) == (not deterministic, not deterministic)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark, threads = before
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)


def test_compiling_without_a_compiler_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = Config()
    config.train.compile = True
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler on a CPU, and there is no g\+\+ on the PATH"):
        set_numerics(config, torch.device("cpu"), World())
    monkeypatch.setenv("CXX", "/nowhere/clang++")
    with pytest.raises(ConfigError, match=r"there is no /nowhere/clang\+\+"):
        set_numerics(config, torch.device("cpu"), World())
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="needs Triton"):
        check_compiler(torch.device("cuda"))


def explained(error: Exception, *, compiled: bool) -> str:
    return in_words(error, several=False, whole=False, compiled=compiled)


def test_errors_of_torch_are_explained() -> None:
    from torch._inductor.exc import CppCompileError

    cause = CppCompileError(["g++", "x.cpp"], "x.cpp:1: fatal error: Python.h: No such file or directory")
    try:
        try:
            raise cause
        except RuntimeError as error:
            raise RuntimeError("backend='inductor' raised:") from error
    except RuntimeError as error:
        sentence = explained(error, compiled=True)
        assert sentence.startswith("train.compile=true: torch.compile failed")
        assert "Python.h: No such file" in sentence and "Leave out train.compile" in sentence and len(sentence) < 900
        assert explained(error, compiled=False) == ""
    allocator = "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to"
    for error in (RuntimeError(allocator), MemoryError(), RuntimeError("std::bad_alloc")):
        assert "this machine's memory is too small" in explained(error, compiled=False)
    assert explained(RuntimeError("something else"), compiled=True) == ""
