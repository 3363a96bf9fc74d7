"""A run that an older version began goes on with this one: what only the program changed is no reason to refuse it.

``tests/data/stopped-run-1.tar.xz`` holds a run directory of the version that wrote checkpoints of format 1, stopped on
request in its second epoch, and the data that it was trained on. ``expected.json`` has the words of its command line,
the versions it ran with, and the fingerprints of an uninterrupted run. Never make it anew: it stands for the runs that
users have.
"""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.conftest import PROJECT, Result
from training.config.options import MOVED
from training.state import environment

Train = Callable[..., Result]


@pytest.fixture
def stopped_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """The run in ``run``, its data in ``small``, both in the current folder; answers what is expected of it."""
    cwd = tmp_path / "cwd"
    with tarfile.open(PROJECT / "tests" / "data" / "stopped-run-1.tar.xz") as archive:
        archive.extractall(cwd, filter="data")
    expected: dict[str, Any] = json.loads((cwd / "expected.json").read_text())
    own = environment.versions()
    versions = expected["versions"] | {"sample": own["sample"]}  # other libraries would be another run
    monkeypatch.setattr(environment, "versions", lambda: versions)
    return expected


def present_words(stopped_run: dict[str, Any]) -> list[str]:
    """The words of its command line by today's names."""
    words = [word.partition("=") for word in stopped_run["command"]]
    return [f"{MOVED.get(name, name)}={value}" for name, _, value in words]


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_its_own_command_is_told_the_new_name(fork_train: Train, stopped_run: dict[str, Any], tmp_path: Path) -> None:
    before = content(tmp_path / "cwd" / "run")
    result = fork_train(*stopped_run["command"])
    assert (result.code, result.output) == (2, "error: train.lr is called optim.lr now.\n")
    assert content(tmp_path / "cwd" / "run") == before


def test_what_it_was_not_begun_with_is_refused_by_the_new_name(train: Train, stopped_run: dict[str, Any]) -> None:
    result = train(*present_words(stopped_run), "optim.lr=0.02")
    assert result.code == 2 and ":\n  optim.lr: 0.01 → 0.02\nUndo these changes" in result.output


def test_it_is_repeated_by_its_config_yaml(fork_train: Train, stopped_run: dict[str, Any], tmp_path: Path) -> None:
    result = fork_train("--config-path", str(tmp_path / "cwd" / "run"), "--config-name", "config", "run_dir=again")
    assert result.code == 0, result.output
    assert [[*key, value] for key, value in sorted(result.fingerprints().items())] == stopped_run["fingerprints"]
    recorded = yaml.safe_load((result.run_dir / "config.yaml").read_text())
    assert recorded["optim"]["lr"] == 0.01 and "lr" not in recorded["train"] and "submit" not in recorded


def test_a_stopped_run_of_format_1_goes_on_without_allow_changes(train: Train, stopped_run: dict[str, Any]) -> None:
    result = train(*present_words(stopped_run))
    assert result.code == 0, result.output
    assert "going on from run/checkpoints/last.pt: epoch 2, 4 of 6 batches done" in result.output
    assert [[*key, value] for key, value in sorted(result.fingerprints().items())] == stopped_run["fingerprints"]
    assert json.loads((result.run_dir / "environment.json").read_text())["changes"] == []


def test_a_flipped_bit_ends_the_run_before_it_goes_on(
    train: Train, stopped_run: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "cwd" / "run" / "checkpoints" / "last.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = train(*present_words(stopped_run))
    assert result.code == 1
    assert "last.pt is damaged: its record 'data/" in result.output and "no checkpoint in" in result.output
    assert path.read_bytes() == bytes(content)
