"""Whatever ends a run saves first what was trained, says so, and the same command comes to the same end."""

import copy
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sources.errors import DataError
from sources.samples import SampleDataset
from tests.conftest import PROJECT, TINY, ForkedTrain, Result, make_small_folder, write_image
from training.engine.objective import Objective

Train = Callable[..., Result]
RUN = [*TINY, "train.log_every=50"]
"""Six steps in two epochs, and no line within them: all figures of an epoch are pending when something happens."""
SAVED = "What was done is saved in run/checkpoints/last.pt: the same command goes on."


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_folder(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def whole(zygote: Any, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    result = ForkedTrain(zygote, tmp_path_factory.mktemp("whole") / "cwd")(f"data.root={small}", *RUN)
    assert result.code == 0, result.output
    return result


@pytest.fixture
def broken() -> Iterator[Callable[..., None]]:
    """Lets a function of a module or class raise at its n-th call; mended after ``undo``."""
    patch = pytest.MonkeyPatch()

    def call(place: Any, name: str, number: int, error: BaseException) -> Callable[[], None]:
        original, calls = getattr(place, name), 0

        def function(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                raise error
            return original(*arguments, **options)

        patch.setattr(place, name, function)
        return patch.undo

    yield call
    patch.undo()


def position(result: Result) -> tuple[int, int]:
    state = torch.load(result.run_dir / "checkpoints" / "last.pt", weights_only=True)
    return state["epoch"], state["batches_done"]


def assert_the_same(result: Result, whole: Result, records: bool = True) -> None:
    assert result.code == 0, result.output
    assert result.summary()["state_sha256"] == whole.summary()["state_sha256"]
    if records:
        assert result.fingerprints() == whole.fingerprints()
        assert (result.run_dir / "stream.bin").read_bytes() == (whole.run_dir / "stream.bin").read_bytes()
        for name in ("acc1", "best_acc1", "samples_seen", "samples_by_source"):
            assert result.summary()[name] == whole.summary()[name], name
        lines, expected = (one.metrics("train_epoch")[-1] for one in (result, whole))
        assert lines["loss"] == pytest.approx(expected["loss"], rel=1e-12) and lines["acc1"] == expected["acc1"]


FAULTS: dict[str, tuple[BaseException, str]] = {
    "data": (DataError("x.jpg is no image"), "error: x.jpg is no image " + SAVED),
    "memory": (MemoryError(), "error: this machine's memory is too small: raise train.accumulate"),
    "memory of torch": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "memory is too small"),
    "memory of a GPU": (torch.cuda.OutOfMemoryError("CUDA out of memory."), "the GPU's memory is too small: raise"),
    "a file server": (OSError(errno.ESTALE, "Stale file handle", "x.jpg"), "error: this machine refused something: x.jpg"),
    "a limit": (OSError(errno.EMFILE, "Too many open files"), "Too many open files (see ulimit -n)."),
}  # fmt: skip


ALWAYS = (("data", "between steps"), ("memory of a GPU", "inside a step"))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        pytest.param(name, place, marks=() if (name, place) in ALWAYS else pytest.mark.long)
        for name in FAULTS
        for place in ("between steps", "inside a step")
    ],
)
def test_a_fault_costs_no_step(train: Train, small: Path, whole: Result, broken: Any, name: str, place: str) -> None:
    """The seventh batch is the fifth of training. Inside a step BatchNorm's statistics have been touched by the forward pass, which will be repeated."""
    kind, expected = FAULTS[name]
    error = copy.copy(kind)  # without the notes of another run
    undo = broken(SampleDataset, "fill", 7, error) if place == "between steps" else broken(Objective, "loss", 5, error)
    ended = train(f"data.root={small}", *RUN)
    undo()
    assert ended.code == 1 and "Traceback" not in ended.output, ended.output
    assert expected in ended.output and SAVED in ended.output, ended.output
    assert position(ended) == (1, 1)
    assert_the_same(train(f"data.root={small}", *RUN), whole)


def test_a_mistake_of_ours_keeps_its_traceback_and_saves(train: Train, small: Path, whole: Result, broken: Any) -> None:
    undo = broken(Objective, "loss", 3, ZeroDivisionError("a mistake"))
    with pytest.raises(ZeroDivisionError) as raised:
        train(f"data.root={small}", *RUN)
    undo()
    assert raised.value.__notes__ == [SAVED]
    result = train(f"data.root={small}", *RUN)
    assert "going on from run/checkpoints/last.pt: epoch 1, 2 of 3" in result.output
    assert_the_same(result, whole)


def test_a_fault_in_validation_costs_no_epoch(train: Train, small: Path, whole: Result, broken: Any) -> None:
    undo = broken(Objective, "validation_loss", 3, DataError("val/x.jpg is no image"))  # of the second epoch
    ended = train(f"data.root={small}", *RUN)
    undo()
    assert ended.code == 1 and f"error: val/x.jpg is no image {SAVED}" in ended.output, ended.output
    assert position(ended) == (1, 3)
    best = torch.load(ended.run_dir / "checkpoints" / "best.pt", weights_only=True)
    assert (best["epoch"], best["batches_done"]) == (1, 0)
    result = train(f"data.root={small}", *RUN)
    assert_the_same(result, whole)
    assert [line["epoch"] for line in result.metrics("val_epoch")] == [0, 1]


def test_a_step_that_fails_in_the_optimiser_is_not_saved(train: Train, small: Path, whole: Result, broken: Any) -> None:
    undo = broken(torch.optim.SGD, "step", 5, MemoryError())
    ended = train(f"data.root={small}", *RUN)
    undo()
    assert ended.code == 1 and "in the midst of a step and is not saved; the last checkpoint is run/" in ended.output
    assert position(ended) == (1, 0)
    assert_the_same(train(f"data.root={small}", *RUN), whole)


def test_weights_that_are_not_finite_never_replace_others(train: Train, small: Path, broken: Any) -> None:
    first = train(f"data.root={small}", *RUN, "train.epochs=1")
    before = (first.run_dir / "checkpoints" / "last.pt").read_bytes()
    words = [f"data.root={small}", *RUN, "optim.lr=1e38", "train.epochs=3", "allow_changes=true"]
    for extra in ([], ["train.checkpoint_every=1"]):
        ended = train(*words, *extra)
        assert ended.code == 1 and "not finite" in ended.output, ended.output
        assert (first.run_dir / "checkpoints" / "last.pt").read_bytes() == before
    undo = broken(Objective, "loss", 3, MemoryError())  # when nobody has looked at the loss yet
    ended = train(*words)
    undo()
    assert "What was trained since the last checkpoint is not saved: the loss is not finite" in ended.output, (
        ended.output
    )
    assert (first.run_dir / "checkpoints" / "last.pt").read_bytes() == before


def test_too_many_replaced_samples_are_told_after_saving(train: Train, tmp_path: Path) -> None:
    root = make_small_folder(tmp_path / "bad")
    (root / "train" / "dog" / "3.jpg").write_bytes(b"no photo")
    ended = train(f"data.root={root}", *RUN, "data.on_corrupt=replace", "data.max_replaced=0")
    assert ended.code == 1 and "more than data.max_replaced=0" in ended.output and SAVED in ended.output, ended.output
    assert position(ended) == (0, 3)


def test_a_bad_photo_ends_two_processes_with_all_figures_saved(fork_train: ForkedTrain, tmp_path: Path) -> None:
    root = make_small_folder(tmp_path / "two")
    words = [f"data.root={root}", *RUN]
    whole = fork_train(*words, "run_dir=whole", world=2)
    good, path = (root / "train" / "eel" / "7.jpg").read_bytes(), root / "train" / "eel" / "7.jpg"
    path.write_bytes(b"no photo".ljust(len(good), b"\0"))
    codes, ended = fork_train.ranks([words, words])
    assert codes == [1, 1] and SAVED in ended.output, ended.output
    assert ended.output.count("error: ") == 1
    path.write_bytes(good)
    assert_the_same(fork_train(*words, "allow_changes=true", world=2), whole)  # its time of change is another


def test_a_lost_peer_costs_rank_0_no_step(fork_train: ForkedTrain, small: Path) -> None:
    words = [f"data.root={small}", *RUN]
    whole = fork_train(*words, "run_dir=whole", world=2)
    codes, ended = fork_train.ranks([words, words], victim=1, accident="inside a step", number=5)
    assert codes == [1, -signal.SIGKILL], ended.output
    assert "rank 0: error: another process of the run has ended" in ended.output and SAVED in ended.output
    assert "Traceback" not in ended.output
    assert position(ended) == (1, 1)
    result = fork_train(*words, world=2)
    assert_the_same(result, whole, records=False)
    first, second = result.metrics("train_epoch")
    assert first["fingerprint"] == whole.metrics("train_epoch")[0]["fingerprint"]
    assert "fingerprint" not in second  # of hashes that were lost with the other process


def children(pid: int) -> dict[int, str]:
    rows = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    parts = [row.split(None, 2) for row in rows.splitlines()]
    return {int(number): words for number, parent, words in parts if int(parent) == pid}


@pytest.mark.parametrize("victim", ["worker", pytest.param("server", marks=pytest.mark.long)])
def test_a_worker_that_is_killed(tmp_path: Path, small: Path, train: Train, victim: str) -> None:
    words = [f"data.root={small}", *RUN, "data.workers=1", "train.epochs=500", "train.log_every=1", "run_dir=run"]
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "train.py"), *words], cwd=tmp_path / "cwd",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        output = ""
        for line in process.stdout:
            output += line
            if "epoch 2/500  step" in line:
                break
        (server,) = [pid for pid, words_ in children(process.pid).items() if "forkserver" in words_]
        os.kill(server if victim == "server" else max(children(server)), signal.SIGKILL)
        output += process.communicate(timeout=120)[0]
    finally:
        process.kill()
    assert process.returncode == 1 and SAVED in output and "Traceback" not in output, output
    assert position(Result(1, output, tmp_path / "cwd" / "run")) >= (1, 0)
    assert not list((tmp_path / "cwd" / "run").rglob("*.tmp"))


def test_nothing_is_claimed_to_be_saved_before_the_first_step(train: Train, tmp_path: Path) -> None:
    root = make_small_folder(tmp_path / "bad")
    for path in (root / "train").rglob("*.jpg"):
        path.write_bytes(b"no photo")
    ended = train(f"data.root={root}", *RUN)
    assert ended.code == 1 and "is saved" not in ended.output, ended.output
    write_image(root / "train" / "cat" / "0.jpg", 0)
