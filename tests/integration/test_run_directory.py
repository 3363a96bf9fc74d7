"""What a run directory promises: one run at a time, no silent drift, nothing lost on a bad disk, repeatable alone."""

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

from sources.lease import LOCK_PREFIX, FolderLease
from tests.conftest import SMALL_MODEL, TINY, Result, write_image
from tests.integration.test_bad_input import error

Train = Callable[..., Result]


def test_a_change_stops_a_resumed_run_unless_allowed(train: Train, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *TINY]
    first = train(*words, "train.epochs=1")
    before = (first.run_dir / "checkpoints" / "last.pt").read_bytes(), first.metrics("train_step")
    refused = train(*words, "optim.lr=0.02", "seed=1", "data.workers=1", "train.log_every=1")
    assert "to go on from run/checkpoints/last.pt would not be the same run" in error(refused, 2)
    assert "\n  seed: 0 → 1\n  optim.lr: 0.01 → 0.02\nUndo these changes" in refused.output
    write_image(small_folder / "train" / "dog" / "99.jpg", 99)
    assert "\n  data set train.samples: 36 → 37\n  data set train.sha256: " in train(*words).output
    assert ((first.run_dir / "checkpoints" / "last.pt").read_bytes(), first.metrics("train_step")) == before

    allowed = train(*words, "optim.lr=0.02", "allow_changes=true")
    assert allowed.code == 0, allowed.output
    assert "allowed changes since run/checkpoints/last.pt was written:\n  optim.lr: 0.01 → 0.02\n" in allowed.output
    assert {line["lr"] for line in allowed.metrics("train_step") if line["epoch"] == 1} == {0.02}
    recorded = json.loads((allowed.run_dir / "environment.json").read_text())["changes"]
    assert [(entry["epoch"], entry["step"], entry["changes"][0]) for entry in recorded] == [
        (1, 3, "optim.lr: 0.01 → 0.02")
    ]

    longer = train(*words, "optim.lr=0.02", "train.epochs=3")
    assert longer.code == 0, longer.output
    assert json.loads((longer.run_dir / "environment.json").read_text())["changes"] == recorded


def test_another_batch_size_begins_the_epoch_again(fork_train: Train, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *TINY]
    stopped = fork_train(*words, accident="between steps", number=2, signal=15)
    assert stopped.code == 85
    result = fork_train(*words, "train.batch_size=6", "allow_changes=true")
    assert result.code == 0, result.output
    assert "epoch 1 begins again, since it has 6 steps now" in result.output
    assert [line["step"] for line in result.metrics("train_epoch")] == [6, 12]


def test_a_run_is_repeated_by_what_it_printed(train_py: Train, train: Train, small_folder: Path) -> None:
    first = train(f"data.root={small_folder}", *TINY, "train.label_smoothing=0.1", "seed=7", "data.fingerprint=full")
    command = re.findall(r"repeat it +(python train.py .*)", first.output)[0]
    words = shlex.split(command.replace("$PWD", str(first.run_dir.parent)).replace("NEW", "again"))
    again = train_py(*words[2:])
    assert again.code == 0, again.output
    assert again.summary()["state_sha256"] == first.summary()["state_sha256"]
    assert again.fingerprints() == first.fingerprints()
    assert {path.name for path in first.run_dir.parent.iterdir()} == {"run", "again"}  # Hydra wrote nothing


def test_two_runs_never_share_a_directory(train: Train, fork_train: Train, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *TINY]
    killed = fork_train(*words, accident="inside a step", number=2)
    assert killed.code == -9 and len(list(killed.run_dir.glob(f"{LOCK_PREFIX}*"))) == 1
    with FolderLease(killed.run_dir, "run_dir", print):
        for resume in ("auto", "never"):
            assert "run_dir=run is in use by another run, process" in error(train(*words, f"resume={resume}"), 2)
    finished = train(*words)
    assert finished.code == 0, finished.output
    assert not list(finished.run_dir.glob(f"{LOCK_PREFIX}*"))


def test_what_a_run_left_that_was_killed_at_its_start_is_no_obstacle(train: Train, small_folder: Path) -> None:
    folder = Path("run")
    folder.mkdir()
    (folder / f"{LOCK_PREFIX}gone").write_text(json.dumps({"host": "gone", "pid": 1}))
    (folder / "config.yaml.tmp").write_text("half")
    with mock.patch("sources.lease.STALE_S", 0.5):
        assert train(f"data.root={small_folder}", *TINY, "train.epochs=1").code == 0


def test_what_was_submitted_and_logged_stays(train: Train, small_folder: Path) -> None:
    kept = [Path("run/submitted/now/config.yaml"), Path("run/logs/17.log")]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text("kept")
    for resume in ("auto", "never"):
        assert train(f"data.root={small_folder}", *TINY, "train.epochs=1", f"resume={resume}").code == 0
        assert [path.read_text() for path in kept] == ["kept", "kept"]


def test_half_a_line_of_a_killed_run_is_cut_off(train: Train, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *TINY]
    first = train(*words, "train.epochs=1")
    path = first.run_dir / "metrics.jsonl"
    lines = path.read_bytes()
    path.write_bytes(lines + b'{"kind": "train_st')
    assert train(*words).code == 0
    assert path.read_bytes().startswith(lines)
    assert len(first.metrics("train_epoch")) == 2


def test_a_clock_that_jumps_changes_no_figure(
    train: Train, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"data.root={small_folder}", *TINY, "train.checkpoint_every_s=1000"]
    expected = train(*words, "run_dir=whole").summary()
    clock = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    result = train(*words)
    assert result.code == 0, result.output
    assert result.summary()["state_sha256"] == expected["state_sha256"]
    assert all(line["img_per_s"] > 0 and 0 <= line["data_wait"] <= 1 for line in result.metrics("train_step"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4.5 MB: one checkpoint of 3 MB fits, and not a second one beside it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4500k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_former_checkpoint(fork_train: Train, small_folder: Path, small_disk: Path) -> None:
    words = [f"data.root={small_folder}", *TINY, *SMALL_MODEL]
    whole = fork_train(*words)
    run_dir = f"run_dir={small_disk}/run"
    full = fork_train(*words, run_dir)
    message = error(full, 1)
    assert f"the checkpoint {small_disk}/run/checkpoints/last.pt could not be written" in message
    assert "No space left on device" in message and "The former one is untouched" in message
    assert [path.name for path in (full.run_dir / "checkpoints").iterdir()] == ["last.pt"]  # from before validation
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    resumed = fork_train(*words, run_dir)
    assert resumed.code == 0 and "epoch 1, 3 of 3 batches done" in resumed.output, resumed.output
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


@pytest.mark.parametrize("left", [0, 8192, 40960])
def test_a_disk_without_room_for_the_records(
    fork_train: Train, small_folder: Path, small_disk: Path, left: int
) -> None:
    free = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - left))
    message = error(
        fork_train(f"data.root={small_folder}", *TINY, *SMALL_MODEL, f"run_dir={small_disk}/run"), 2 if left == 0 else 1
    )
    assert "could not be written" in message or "cannot be written to" in message
    assert "No space left on device" in message


DISKS_KB = [round(20 * 1.32**number) for number in range(24)]
"""From a disk that holds no record to one that holds two checkpoints."""


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=[] if index == 14 else pytest.mark.long) for index, size in enumerate(DISKS_KB)]
)
def test_a_disk_that_is_full_at_any_moment_costs_no_run(
    fork_train: Train, small_folder: Path, small_disk: Path, size: int
) -> None:
    words = [f"data.root={small_folder}", *TINY, *SMALL_MODEL, "train.checkpoint_every=2"]
    whole = fork_train(*words)
    subprocess.run(["mount", "-o", f"remount,size={size}k", str(small_disk)], check=True)
    full = fork_train(*words, f"run_dir={small_disk}/run")
    assert full.code in (0, 1, 2) and "Traceback" not in full.output, full.output
    assert full.code == 0 or "No space left on device" in full.output, full.output
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    resumed = fork_train(*words, f"run_dir={small_disk}/run")
    assert resumed.code == 0, resumed.output
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_a_read_only_disk_is_named(fork_train: Train, small_folder: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    message = error(fork_train(f"data.root={small_folder}", *TINY, f"run_dir={small_disk}/run"), 2)
    assert f"run_dir={small_disk}/run cannot be written to: Read-only file system" in message
