"""A run is a function of its configuration and data: killed, stopped, moved or spread, it ends the same."""

import functools
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import BATCH_NORM, TINY, ForkedTrain, Result, Zygote, make_small_folder
from training.run_dir.checkpoint import state_sha256

Train = Callable[..., Result]

RUN = [*TINY, BATCH_NORM, "train.epochs=3", "train.checkpoint_every=2", "train.log_every=1"]
"""On the small folder: 9 steps of 12 in 3 epochs, with checkpoints after steps 2, 3, 5, 6, 8 and 9."""
REAL = [
    *("data.image_size=64", "data.val_image_size=64", "data.val_resize=72", "data.workers=0", "threads=1"),
    *(
        "train.batch_size=48",
        "train.epochs=2",
        "optim.lr=0.01",
        "train.checkpoint_every=2",
        "train.log_every=1",
        BATCH_NORM,
    ),
]
"""On photos of ants and bees: 10 steps in 2 epochs."""

MOMENTS = {
    "between steps": 9,
    "inside a step": 9,
    "a checkpoint half written": 6,
    "before a checkpoint is in place": 12,
    "before best.pt is in place": 1,
    "during validation": 6,
    "after the last save": 1,
    "during ETL start": 2,
}
"""How often each comes in a whole run, at least."""


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed, its data and its options."""

    root: Path
    words: list[str]
    result: Result


@pytest.fixture(scope="module")
def undisturbed(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, list[str]], Undisturbed]:
    """Runs once for each data set."""

    @functools.cache
    def call(root: Path, *words: str) -> Undisturbed:
        result = ForkedTrain(zygote, tmp_path_factory.mktemp("whole") / "cwd")(f"data.root={root}", *words)
        assert result.code == 0, result.output
        return Undisturbed(root, list(words), result)

    return lambda root, words: call(root, *words)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_folder(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture
def whole(undisturbed: Callable[..., Undisturbed], small: Path) -> Result:
    return undisturbed(small, RUN).result


def assert_the_same(result: Result, whole: Result) -> None:
    assert result.code == 0, result.output
    assert result.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert result.fingerprints() == whole.fingerprints() and len(whole.fingerprints()) in (4, 6)
    assert (result.run_dir / "stream.bin").read_bytes() == (whole.run_dir / "stream.bin").read_bytes()
    assert not list(result.run_dir.rglob("*.tmp")) and not (result.run_dir / "PREEMPTED").exists()
    for key in ("acc1", "acc5", "loss", "best_acc1", "samples_seen"):
        assert result.summary()[key] == whole.summary()[key], key


@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.long if n >= 2 else ()) for n in range(20)])
def test_killed_at_a_random_moment(
    fork_train: Train,
    undisturbed: Callable[[Path, list[str]], Undisturbed],
    small: Path,
    seed: int,
    number: int,
    request: pytest.FixtureRequest,
) -> None:
    """Twice in each run: also when it goes on, it is killed. Every third reads through ETLs, every fifth real photos."""
    draw = random.Random(f"{seed}/{number}")
    expected = undisturbed(request.getfixturevalue("hymenoptera"), REAL) if number % 5 == 4 else undisturbed(small, RUN)
    words = [*expected.words, f"data.root={expected.root}"]
    moments = draw.sample([name for name in MOMENTS if name != "during ETL start"], 2)
    if number % 3 == 1:
        words += ["data=aistore", "data.endpoint=embedded", f"data.embedded_root={expected.root}"]
        moments[draw.randrange(2)] = "during ETL start" if number % 2 else moments[0]
    elif number >= 3:
        words.append(f"data.workers={draw.choice([0, 1, 2])}")
    for place, moment in enumerate(moments):
        at = draw.randint(1, MOMENTS[moment])
        print(f"killed at {moment!r}, number {at}")
        killed = fork_train(*words, accident=moment, number=at)
        if killed.code == 0 and place > 0:
            break  # less was left to do than that
        assert killed.code == -signal.SIGKILL, killed.output
    finished = killed if killed.code == 0 else fork_train(*words)
    assert_the_same(finished, expected.result)
    summary = (finished.run_dir / "summary.json").read_bytes()
    assert "nothing to do" in fork_train(*words).output
    assert (finished.run_dir / "summary.json").read_bytes() == summary


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_comes_to_each_moment_as_often_as_is_said(fork_train: Train, small: Path, moment: str) -> None:
    """Otherwise a kill at a random moment might be none."""
    words = [f"data.root={small}", *RUN]
    if moment == "during ETL start":
        words += ["data=aistore", "data.endpoint=embedded", f"data.embedded_root={small}"]
    killed = fork_train(*words, accident=moment, number=MOMENTS[moment])
    assert killed.code == -signal.SIGKILL, killed.output


def test_going_on_from_best_and_from_a_kept_epoch(fork_train: Train, small: Path, whole: Result) -> None:
    kept = fork_train(f"data.root={small}", *RUN, "train.keep=3", "run_dir=kept")
    assert_the_same(kept, whole)
    for name in ("best.pt", "epoch-0000.pt"):
        other = fork_train(f"data.root={small}", *RUN, f"resume=kept/checkpoints/{name}", f"run_dir={name}")
        assert other.code == 0, other.output
        if "nothing to do" not in other.output:
            assert other.summary()["state_sha256"] == whole.summary()["state_sha256"]
            assert other.fingerprints().items() <= whole.fingerprints().items()
    (kept.run_dir / "checkpoints" / "last.pt").unlink()
    assert (
        "nothing to do: kept/checkpoints/epoch-0002.pt is at the end"
        in fork_train(f"data.root={small}", *RUN, "run_dir=kept").output
    )


@pytest.mark.parametrize(
    ("moment", "number"),
    [("between steps", 4), ("during validation", 1), pytest.param("inside a step", 4, marks=pytest.mark.long)],
)
def test_one_two_and_one_processes_see_the_same_stream(
    fork_train: Train, small: Path, whole: Result, moment: str, number: int
) -> None:
    words = [f"data.root={small}", *RUN]
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


def test_ranks_validate_with_the_same_statistics_and_count_each_sample_once(fork_train: Train, small: Path) -> None:
    """17 validation images over 2 processes; a BatchNorm has other running statistics in each until they are shared."""
    words = [f"data.root={small}", *TINY, BATCH_NORM, "optim.lr=0.1"]
    two = fork_train(*words, world=2)
    assert two.code == 0, two.output
    alone = fork_train(*words, "mode=evaluate", "model.weights=run/checkpoints/last.pt", "run_dir=alone")
    assert alone.code == 0, alone.output
    assert alone.summary()["acc1"] == two.summary()["acc1"]
    assert alone.summary()["loss"] == pytest.approx(two.summary()["loss"], rel=1e-6)
    assert alone.metrics("val_epoch")[0]["fingerprint"] == two.metrics("val_epoch")[-1]["fingerprint"]


def test_a_late_signal_does_not_fail_a_finished_run(fork_train: Train, small: Path, whole: Result) -> None:
    for name in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        late = fork_train(f"data.root={small}", *RUN, f"run_dir={name}", accident="after the last save", signal=name)
        assert_the_same(late, whole)


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
    fork_train: Train, small: Path, patches: list[str], steps: int, tolerance: float
) -> None:
    words = [
        f"data.root={small}",
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
