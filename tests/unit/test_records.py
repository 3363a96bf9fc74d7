"""What a run writes about itself: into its own directory alone, and once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.event_file_writer import AtomicCounter

from sources.errors import UserError
from sources.lease import FolderLease
from tests.support.checkpoints import sound_state
from training.config.schema import Config
from training.report.answered import Answered
from training.report.metrics import Metrics, Validation
from training.run_dir import checkpoint
from training.run_dir.records import RunDirectory, claim

METRICS = Metrics(1.0, 50.0, 100.0, 4)


def opened(folder: Path, step: int = 0) -> RunDirectory:
    config = Config(run_dir=str(folder))
    claim(config)
    return RunDirectory(config, FolderLease(folder, "run_dir", print), step)


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "summary.json", "PREEMPTED"])
def test_a_planted_link_beside_a_file_is_not_written_through(tmp_path: Path, name: str) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    (folder / "config.yaml").write_text("# imagenet-ais\n")
    (folder / f"{name}.tmp").symlink_to(victim)
    with opened(folder) as records:
        records.environment({}, [])
        records.summary(acc1=1.0)
        records.preempted()
    assert victim.read_text() == "precious" and not (folder / name).is_symlink()


@pytest.mark.parametrize("name", ["metrics.jsonl", "stream.bin", "replaced.jsonl"])
def test_a_planted_link_in_place_of_a_file_is_a_sentence(tmp_path: Path, name: str) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    (folder / "config.yaml").write_text("# imagenet-ais\n")
    (folder / name).symlink_to(victim)
    with (
        pytest.raises(UserError, match=f"could not be written: {name} is a symbolic link"),
        opened(folder) as r,
    ):
        r.replaced([])
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["last.pt.tmp", "best.pt.tmp", "best.pt", "last.pt"])
def test_a_planted_link_among_checkpoints_is_not_written_through(tmp_path: Path, name: str) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "checkpoints"
    victim.write_text("precious")
    folder.mkdir()
    (folder / name).symlink_to(victim)
    checkpoint.save(folder, sound_state(), ["best.pt"])
    assert victim.read_text() == "precious"
    assert sorted(path.name for path in folder.iterdir()) == ["best.pt", "last.pt"]
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_resume_never_removes_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    for path in (folder, elsewhere):
        path.mkdir()
    (elsewhere / "precious").touch()
    (folder / "config.yaml").write_text("# imagenet-ais\n")
    (folder / "tensorboard").symlink_to(elsewhere)
    config = Config(run_dir=str(folder), resume="never")
    with RunDirectory(config, FolderLease(folder, "run_dir", print)):
        assert (elsewhere / "precious").exists() and not (folder / "tensorboard").exists()


def test_tensorboard_has_each_step_once_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Files of one second and one process are told apart by a number alone, which sorts as text: 10 comes before 9.
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer._global_uid", AtomicCounter(0))
    for begin, steps in ((0, (1, 2, 3, 4)), (0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        with opened(tmp_path, begin) as records:
            for step in steps:
                records.metric("train_step", 0, step, METRICS)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train_step/loss")] == [1, 2, 3, 4, 5]


def test_tensorboard_has_an_epoch_once_that_a_killed_run_records_again(tmp_path: Path) -> None:
    """A run that is killed after a validation, before it saves, goes on from the step of the epoch's end."""
    photo = Answered(np.zeros((32, 32, 3), np.uint8), "cat", "dog", 0.5, right=False)
    tally = Validation(torch.tensor([4.0, 2, 4, 4], dtype=torch.float64), photos=[photo])
    for begin in (0, 3, 3):
        with opened(tmp_path, begin) as records:
            for step in range(begin + 1, 4):
                records.metric("train_step", 0, step, METRICS)
            records.metric("train_epoch", 0, 3, METRICS)
            records.validation(0, 3, tally)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3 + 3 * 2
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train_step/loss")] == [1, 2, 3]
    tags = ("train_epoch/loss", "val_epoch/loss")
    assert [[event.step for event in events.Scalars(tag)] for tag in tags] == [[3], [3]]
    assert [event.step for event in events.Images("val_photos")] == [3]


@pytest.mark.parametrize("how", ["validation", "checkpoint"])
def test_what_a_run_that_goes_on_does_not_repeat_is_written_at_once(tmp_path: Path, how: str) -> None:
    with opened(tmp_path) as records:
        records.metric("train_step", 0, 1, METRICS)
        if how == "validation":
            records.validation(0, 1, Validation(torch.ones(4, dtype=torch.float64)))
        else:
            records.mirror((0, 1))
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert [event.step for event in events.Scalars("train_step/loss")] == [1]
