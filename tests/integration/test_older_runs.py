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

from tests.conftest import PROJECT, Result
from training.state import environment

Train = Callable[..., Result]


@pytest.fixture
def stopped_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, train: Train) -> dict[str, Any]:
    """The run in ``run``, its data in ``small``, both in the current folder; answers what is expected of it."""
    cwd = tmp_path / "cwd"
    with tarfile.open(PROJECT / "tests" / "data" / "stopped-run-1.tar.xz") as archive:
        archive.extractall(cwd, filter="data")
    expected: dict[str, Any] = json.loads((cwd / "expected.json").read_text())
    own = environment.versions()
    versions = expected["versions"] | {"sample": own["sample"]}  # other libraries would be another run
    monkeypatch.setattr(environment, "versions", lambda: versions)
    return expected


def test_a_stopped_run_of_format_1_goes_on_without_allow_changes(train: Train, stopped_run: dict[str, Any]) -> None:
    result = train(*stopped_run["command"])
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
    result = train(*stopped_run["command"])
    assert result.code == 1
    assert "last.pt is damaged: its record 'data/" in result.output and "no checkpoint in" in result.output
    assert path.read_bytes() == bytes(content)
