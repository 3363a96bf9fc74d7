"""How many CPUs a process may use."""

import os
from pathlib import Path

import pytest

from sources import cpus


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000\n", 8),
        ("400000 100000\n", 4),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("6400000 100000\n", 8),
        ("", 8),
    ],
)
def test_a_containers_limit_counts(
    content: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(cpus, "_CPU_MAX", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert cpus.cpu_count() == expected


def test_without_cgroups_the_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "_CPU_MAX", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert cpus.cpu_count() == 2
