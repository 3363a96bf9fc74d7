"""Whole runs on a device end the same: twice, and killed and gone on with."""

import signal
from pathlib import Path

import pytest

from tests.conftest import ForkedTrain
from tests.integration.test_repeatable import RUN
from tests.support.devices import GPU_AND_LONG_CPU

MIXED = ["train.mixup=0.2", "train.cutmix=1.0", "train.random_erasing=0.3", "train.ema_decay=0.9", "train.ema_every=1"]


@pytest.mark.parametrize("device", GPU_AND_LONG_CPU)
def test_a_deterministic_run_ends_the_same_twice(fork_train: ForkedTrain, small_folder: Path, device: str) -> None:
    words = [*RUN, *MIXED, f"data.root={small_folder}", f"device={device}", "deterministic=true", "precision=bf16"]
    results = [fork_train(*words, f"run_dir={name}") for name in ("first", "second")]
    for result in results:
        assert result.code == 0, result.output
    first, second = (result.summary() for result in results)
    assert first["state_sha256"] == second["state_sha256"] and first["ema_sha256"] == second["ema_sha256"]
    assert results[0].fingerprints() == results[1].fingerprints()


@pytest.mark.parametrize("device", GPU_AND_LONG_CPU)
def test_a_killed_run_goes_on_as_if_nothing_had_been(fork_train: ForkedTrain, small_folder: Path, device: str) -> None:
    """In fp16 on a GPU, whose scale is a part of the state; a CPU has no fp16."""
    precision = "fp16" if device == "cuda" else "bf16"
    words = [*RUN, f"data.root={small_folder}", f"device={device}", "deterministic=true", f"precision={precision}"]
    whole = fork_train(*words, "run_dir=whole")
    assert whole.code == 0, whole.output
    killed = fork_train(*words, "run_dir=killed", accident="inside a step", number=6)
    assert killed.code == -signal.SIGKILL, killed.output
    result = fork_train(*words, "run_dir=killed")
    assert result.code == 0, result.output
    assert result.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert result.fingerprints() == whole.fingerprints()
