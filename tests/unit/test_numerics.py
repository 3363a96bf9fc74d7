"""The share of a node's CPUs that a process takes."""

import os

import pytest

from training.distributed import World
from training.numerics import cpu_share


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
