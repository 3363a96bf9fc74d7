"""The benchmark of what ingredients are worth: its scenes, its runs' commands, and that a run that is done is kept."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from benchmarks import learns, scenes
from tests.conftest import PROJECT
from training.config.compose import check, register


def test_scenes_are_the_same_at_every_call_and_differ_by_class(tmp_path: Path) -> None:
    assert len(set(scenes.CLASSES)) == 30
    names = ("warm_striped_ring", "cool_striped_ring")
    one, again, other = (
        np.asarray(scenes.scene(np.random.default_rng(3), name)) for name in (names[0], names[0], names[1])
    )
    assert (one == again).all() and one.shape == other.shape and (one != other).any()
    assert min(one.shape[:2]) >= 140 and max(one.shape[:2]) <= 320


def test_scenes_that_are_there_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "CLASSES", ["warm_striped_ring", "cool_checked_star"])
    counts = {"train": 1, "val": 1}
    scenes.write(tmp_path / "data", counts)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.jpg")}
    assert len(files) == 4
    scenes.write(tmp_path / "data", counts)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*.jpg")} == files
    scenes.write(tmp_path / "data", {"train": 2, "val": 1})
    assert len(list((tmp_path / "data").rglob("*.jpg"))) == 6


@pytest.mark.parametrize("name", learns.INGREDIENTS)
def test_commands_are_commands_of_the_trainer(name: str, tmp_path: Path) -> None:
    words = learns.command(tmp_path, name, 1)
    register()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = check(compose("config", overrides=words[2:]))
    assert config.seed == 1 and config.train.epochs == learns.EPOCHS


def test_a_run_that_is_done_is_kept_and_one_of_other_options_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def trained(words: list[str], **more: object) -> object:
        calls.append(words)
        run_dir = Path(next(word for word in words if word.startswith("run_dir=")).removeprefix("run_dir="))
        (run_dir / "checkpoints").mkdir(parents=True)
        (run_dir / "summary.json").write_text(json.dumps({"acc1": 50.0, "state_sha256": "x"}))
        return learns.subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(learns.subprocess, "run", trained)
    record = learns.run(tmp_path, "label smoothing", 2)
    assert record["acc1"] == 50.0 and shlex.split(record["command"])[:2] == ["python", "train.py"]
    assert learns.run(tmp_path, "label smoothing", 2) == record and len(calls) == 1
    assert learns.kept(tmp_path, 3) == {"label smoothing": [50.0]}
    monkeypatch.setattr(learns, "BASE", (*learns.BASE, "optim.momentum=0.8"))
    learns.run(tmp_path, "label smoothing", 2)
    assert len(calls) == 2


def test_notes() -> None:
    base = [50.0, 52.0, 51.0]
    assert learns.note(base, base) == "mean 51.0"
    assert (
        learns.note([53.0, 54.0], base) == "mean 53.5, +2.5 against the base; each run is better than each of the base"
    )
    assert learns.note([40.0], base) == "mean 40.0, -11.0 against the base; each run is worse than each of the base"
    assert learns.note([51.5, 56.0], base) == "mean 53.8, +2.8 against the base; the ranges overlap"
