"""A run is a function of its configuration and data: killed, stopped, moved or spread, it ends the same."""

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY, Result
from training.checkpoint import state_sha256

Train = Callable[..., Result]

RUN = [*TINY, "train.epochs=3", "train.checkpoint_every=2", "train.log_every=1"]
"""9 steps of 12 in 3 epochs, with checkpoints after steps 2, 3, 5, 6, 8 and 9 and 2 validation batches an epoch."""

MOMENTS = {
    "between steps": 9,
    "inside a step": 9,
    "a checkpoint half written": 6,
    "before a checkpoint is in place": 12,
    "before best.pt is in place": 1,
    "during validation": 6,
    "during ETL start": 2,
}
"""How often each comes in a whole run, at least."""


@pytest.fixture
def whole(fork_train: Train, small_folder: Path) -> Result:
    """The run that nobody disturbed."""
    result = fork_train(f"data.root={small_folder}", *RUN, "run_dir=whole")
    assert result.code == 0, result.output
    return result


def assert_the_same(result: Result, whole: Result) -> None:
    assert result.code == 0, result.output
    assert result.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert result.fingerprints() == whole.fingerprints() and len(whole.fingerprints()) == 6
    assert (result.run_dir / "stream.bin").read_bytes() == (whole.run_dir / "stream.bin").read_bytes()
    assert not list(result.run_dir.rglob("*.tmp")) and not (result.run_dir / "PREEMPTED").exists()
    for key in ("acc1", "acc5", "loss", "best_acc1", "samples_seen"):
        assert result.summary()[key] == whole.summary()[key], key


@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.long if n >= 3 else ()) for n in range(20)])
def test_killed_at_a_random_moment(
    fork_train: Train, small_folder: Path, whole: Result, seed: int, number: int
) -> None:
    draw = random.Random(f"{seed}/{number}")
    moments = draw.sample(list(MOMENTS), 2)
    source = [f"data.root={small_folder}", f"data.workers={draw.choice([0, 0, 1])}"]
    if draw.random() < 0.25 or "during ETL start" in moments:
        source = ["data=aistore", "data.endpoint=embedded", f"data.embedded_root={small_folder}"]
    for moment in moments:  # a run that is killed, goes on, and is killed again
        at = draw.randint(1, MOMENTS[moment])
        print(f"killed at {moment!r}, number {at}")
        killed = fork_train(*RUN, *source, accident=moment, number=at)
        assert killed.code in (-signal.SIGKILL, 0), killed.output  # 0: less was left to do than that
        if moment == moments[0]:
            assert killed.code == -signal.SIGKILL, killed.output
    resumed = fork_train(*RUN, *source)
    if killed.code != 0:
        assert_the_same(resumed, whole)
    assert fork_train(*RUN, *source).output.count("nothing to do") == 1
    summary = (resumed.run_dir / "summary.json").read_text()
    assert summary == (resumed.run_dir / "summary.json").read_text()


def test_going_on_from_best_and_from_a_kept_epoch(fork_train: Train, small_folder: Path, whole: Result) -> None:
    kept = fork_train(f"data.root={small_folder}", *RUN, "train.keep=3", "run_dir=kept")
    assert_the_same(kept, whole)
    for name in ("best.pt", "epoch-0000.pt"):
        other = fork_train(f"data.root={small_folder}", *RUN, f"resume=kept/checkpoints/{name}", f"run_dir={name}")
        assert other.code == 0, other.output
        if "nothing to do" not in other.output:
            assert other.summary()["state_sha256"] == whole.summary()["state_sha256"]
            assert other.fingerprints().items() <= whole.fingerprints().items()
    (kept.run_dir / "checkpoints" / "last.pt").unlink()
    assert (
        "nothing to do: kept/checkpoints/epoch-0002.pt is at the end"
        in fork_train(f"data.root={small_folder}", *RUN, "run_dir=kept").output
    )


@pytest.mark.parametrize(
    ("moment", "number"),
    [("between steps", 4), ("during validation", 1), pytest.param("inside a step", 9, marks=pytest.mark.long)],
)
def test_one_two_and_one_processes_see_the_same_stream(
    fork_train: Train, small_folder: Path, whole: Result, moment: str, number: int
) -> None:
    words = [f"data.root={small_folder}", *RUN]
    first = fork_train(*words, accident=moment, number=number, signal=signal.SIGTERM)
    assert first.code == 85, first.output
    second = fork_train(*words, world=2, accident=moment, number=2, signal=signal.SIGUSR1)
    assert second.code == 85, second.output
    assert "world_size: 1 → 2" in second.output
    third = fork_train(*words)
    assert third.code == 0, third.output
    assert "world_size: 2 → 1" in third.output
    assert third.fingerprints() == whole.fingerprints()
    assert (third.run_dir / "stream.bin").read_bytes() == (whole.run_dir / "stream.bin").read_bytes()
    assert fork_train(*words, "run_dir=two", world=2).fingerprints() == whole.fingerprints()


def weights(result: Result) -> dict[str, torch.Tensor]:
    state: dict[str, Any] = torch.load(result.run_dir / "checkpoints" / "last.pt", weights_only=True)
    model: dict[str, torch.Tensor] = state["model"]
    return model


@pytest.mark.parametrize(
    ("patches", "steps", "tolerance"),
    [(["without dropout", "float64"], 10, 1e-12), (["without dropout"], 1, 1e-6)],
    ids=["float64", "float32"],
)
def test_weights_of_one_and_two_processes_agree_without_batch_statistics(
    fork_train: Train, small_folder: Path, patches: list[str], steps: int, tolerance: float
) -> None:
    words = [
        f"data.root={small_folder}",
        *TINY,
        "model.name=squeezenet1_1",
        "data.image_size=64",
        "data.val_image_size=64",
    ]
    words += ["data.val_resize=72", "train.epochs=4"]
    stop: Any = {"accident": "between steps", "number": steps, "signal": signal.SIGTERM, "patches": patches}
    results = [fork_train(*words, f"run_dir={world}", world=world, **stop) for world in (1, 2)]
    assert [result.code for result in results] == [85, 85], results[0].output + results[1].output
    one, two = map(weights, results)
    difference = max((one[name] - two[name]).abs().max().item() for name in one)
    print(f"{patches}: weights differ by {difference:.2g} after {steps} steps")
    assert 0 < difference <= tolerance or state_sha256(one) == state_sha256(two)
