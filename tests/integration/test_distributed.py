"""Several processes: they agree before they start, end together, and come back by themselves."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import BATCH_NORM, PROJECT, TINY, ForkedTrain, free_port

RUN = [*TINY, BATCH_NORM, "train.log_every=1"]


def test_ranks_that_differ_are_named(fork_train: ForkedTrain, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *RUN]
    codes, result = fork_train.ranks([words, [*words, "optim.lr=0.5", "seed=3"]])
    assert codes == [2, 2]
    errors = [line for line in result.output.splitlines() if "error: " in line]
    assert len(errors) == 1, result.output
    assert re.match(
        r"rank 0: error: rank 1 on \S+ is not like rank 0: seed: 0 → 3; optim.lr: 0.01 → 0.5\. All", errors[0]
    )
    assert not result.run_dir.exists()


def test_a_rank_without_its_device_is_named(fork_train: ForkedTrain, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *RUN]
    codes, result = fork_train.ranks([words, [*words, "device=cuda"]])
    assert codes == [2, 2]
    assert re.search(r"rank 0: error: rank 1 on \S+: device=cuda, but torch sees no GPU here", result.output), (
        result.output
    )


def test_a_killed_rank_ends_the_others_in_seconds_with_a_sentence(fork_train: ForkedTrain, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *RUN, "train.epochs=50"]
    begin = time.monotonic()
    codes, result = fork_train.ranks([words, words], accident="inside a step", number=4)
    assert codes == [-signal.SIGKILL, 1], result.output
    assert "rank 1: error: another process of the run has ended" in result.output
    assert "Traceback" not in result.output
    assert time.monotonic() - begin < 60
    again = fork_train(f"data.root={small_folder}", *RUN, world=2)
    assert again.code == 0 and "going on from run/checkpoints/last.pt: epoch 2, 0 of 3" in again.output, again.output


def test_a_directory_that_is_not_shared_is_noticed_at_the_start(fork_train: ForkedTrain, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *RUN]
    codes, result = fork_train.ranks([words, words], apart=True, patches=["impatient"])
    assert codes == [1, 1], result.output
    errors = [line for line in result.output.splitlines() if "error: " in line]
    assert len(errors) == 1, result.output
    assert (
        errors[0].startswith("rank 1: error: ") and "does not see in run_dir=run what rank 0 has written" in errors[0]
    )


def launch(cwd: Path, *words: str, options: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-m",
        "training.processes.launch",
        "--nproc-per-node=2",
        *options,
        str(PROJECT / "train.py"),
        *words,
    ]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "MASTER_PORT": free_port()}
    cwd.mkdir(exist_ok=True)
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def output_until(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(f"it ended without saying {text!r}:\n{output}")


def test_the_launcher_keeps_the_exit_code_and_the_run_goes_on(fork_train: ForkedTrain, small_folder: Path) -> None:
    """SIGTERM to all processes, as SLURM sends it: the agent passes on a second one, which must not cut the save short."""
    words = [f"data.root={small_folder}", *RUN]
    whole = fork_train(*words, "train.epochs=4", "run_dir=whole", world=2)
    process = launch(fork_train.cwd, *words, "train.epochs=4", "run_dir=run", options=("--standalone",))
    try:
        output_until(process, "epoch 2/4")
        os.killpg(process.pid, signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    assert process.returncode == 85, output
    assert "stopped on request; the same command goes on" in output
    resumed = fork_train(*words, "train.epochs=4", world=2)
    assert resumed.code == 0, resumed.output
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert resumed.fingerprints() == whole.fingerprints()


@pytest.mark.long
def test_a_killed_worker_comes_back_by_itself(fork_train: ForkedTrain, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *RUN, "train.epochs=4"]
    whole = fork_train(*words, "run_dir=whole", world=2)
    process = launch(fork_train.cwd, *words, options=("--max-restarts=1",))  # no run_dir: the id must be a stable one
    output_until(process, "epoch 2/4")
    rows = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    workers = [int(row.split()[0]) for row in rows.splitlines() if int(row.split()[1]) == process.pid]
    os.kill(max(workers), signal.SIGKILL)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert "going on from " in output
    runs = list((fork_train.cwd / "runs").iterdir())
    assert len(runs) == 1
    from tests.conftest import Result

    assert Result(0, output, runs[0]).summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_a_mistake_keeps_its_exit_code(fork_train: ForkedTrain, small_folder: Path) -> None:
    process = launch(
        fork_train.cwd, f"data.root={small_folder}", *TINY, "train.batch_size=11", options=("--standalone",)
    )
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2, output
    assert "train.batch_size=11 cannot be split evenly over 2 processes" in output
