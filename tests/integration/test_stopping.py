"""Stopping and dying: nothing half-written, no process left behind, and the run goes on where it was."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT, TINY, Result

Train = Callable[..., Result]


def long_case(*values: str) -> Any:
    """A case of a matrix that ``make test-all`` runs."""
    return pytest.param(*values, marks=pytest.mark.long)


def heard_signals() -> None:
    """As in a terminal: who runs the tests in the background, or under nohup, ignores these, and children inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts train.py in a process group of its own, and kills the group in the end."""
    started = []

    def call(*overrides: str) -> subprocess.Popen[str]:
        cwd = tmp_path / "cwd"
        cwd.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, str(PROJECT / "train.py"), *overrides, "run_dir=run"],
            cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            preexec_fn=heard_signals,
        )  # fmt: skip
        started.append(process)
        return process

    yield call
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if text in line:
            return output
    raise AssertionError(f"it ended without saying {text!r}:\n{output}")


def group_members(group: int) -> list[str]:
    rows = subprocess.run(["ps", "-wweo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    parts = [row.split(None, 2) for row in rows.splitlines()]
    return [args for pgid, stat, args in parts if int(pgid) == group and not stat.startswith("Z")]


def wait_until_empty(group: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while group_members(group) and time.monotonic() < end:
        time.sleep(0.2)
    assert group_members(group) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", long_case("SIGUSR1"), long_case("SIGHUP")])
def test_a_request_to_stop_saves_and_the_run_goes_on(
    train: Train, start: Callable[..., subprocess.Popen[str]], small_folder: Path, name: str
) -> None:
    words = [f"data.root={small_folder}", *TINY, "data.workers=2", "train.epochs=40", "train.log_every=1"]
    process = start(*words)
    wait_for(process, "epoch 2/40")
    os.killpg(process.pid, getattr(signal, name))  # as a terminal does: to the workers too
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 85, output
    assert "the same command goes on" in output and "Traceback" not in output
    wait_until_empty(process.pid, 10)
    run = small_folder.parent / "cwd" / "run"
    assert (run / "PREEMPTED").exists()
    assert not list(run.rglob("*.tmp"))
    if name == "SIGTERM":
        stopped_in = 1 + int(re.findall(r"epoch (\d+)/40", output)[-1] if "epoch" in output else 2)
        words = [word for word in words if not word.startswith("train.epochs")] + [f"train.epochs={stopped_in}"]
        resumed = train(*words)
        assert resumed.code == 0 and "going on from" in resumed.output, resumed.output
        assert not (run / "PREEMPTED").exists()
        whole = train(*words, "run_dir=whole", "data.workers=0")
        assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_a_second_signal_stops_at_once(start: Callable[..., subprocess.Popen[str]], small_folder: Path) -> None:
    process = start(f"data.root={small_folder}", *TINY, "train.epochs=99", "train.log_every=1")
    wait_for(process, "epoch 1/99")
    process.send_signal(signal.SIGSTOP)  # so that both arrive within one step
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 85, output
    assert "Traceback" not in output


def test_many_signals_end_in_85_and_one_line(start: Callable[..., subprocess.Popen[str]], small_folder: Path) -> None:
    process = start(f"data.root={small_folder}", *TINY, "data.workers=2", "train.epochs=99", "train.log_every=1")
    wait_for(process, "epoch 1/99")
    for _ in range(10):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.03)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 85 and "Traceback" not in output and "stopped" in output, output


def test_ctrl_c_while_modules_are_imported(start: Callable[..., subprocess.Popen[str]], small_folder: Path) -> None:
    process = start(f"data.root={small_folder}", *TINY)
    while b"_yaml" not in Path(f"/proc/{process.pid}/maps").read_bytes():  # which Hydra needs; torch comes later
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert (process.returncode, output) == (130, "\nstopped by SIGINT before the run began.\n")


def test_output_that_nobody_takes_is_no_error(start: Callable[..., subprocess.Popen[str]], small_folder: Path) -> None:
    """As with ``| tee log``, which the ctrl-C ends, too."""
    process = start(f"data.root={small_folder}", *TINY, "train.epochs=99", "train.log_every=1")
    wait_for(process, "epoch 1/99")
    assert process.stdout is not None
    process.stdout.close()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 85
    run = small_folder.parent / "cwd" / "run"
    assert (run / "PREEMPTED").exists() and (run / "checkpoints" / "last.pt").exists()


@pytest.mark.long
def test_a_directory_that_is_taken_over_ends_the_run_at_once(
    start: Callable[..., subprocess.Popen[str]], small_folder: Path
) -> None:
    process = start(f"data.root={small_folder}", *TINY, "train.epochs=2000", "train.log_every=1")
    wait_for(process, "epoch 1/2000")
    run = small_folder.parent / "cwd" / "run"
    for path in run.glob("run.lock.*"):
        path.unlink()
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "another one has taken the directory over" in output, output
    assert "Traceback" not in output and not (run / "PREEMPTED").exists()


def test_a_killed_trainer_leaves_no_worker(start: Callable[..., subprocess.Popen[str]], small_folder: Path) -> None:
    process = start(f"data.root={small_folder}", *TINY, "data.workers=2", "train.epochs=99")
    wait_for(process, "epoch 2/99")
    assert len(group_members(process.pid)) >= 3
    process.kill()
    wait_until_empty(process.pid, 20)


def descendants(pid: int) -> dict[int, str]:
    """Command lines of all live processes that a process has started, and these in turn."""
    rows = subprocess.run(["ps", "-wweo", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    processes = [row.split(None, 3) for row in rows.splitlines()]
    found, parents = {}, {pid}
    while parents:
        children = {int(p): args for p, parent, stat, args in processes if int(parent) in parents and stat[0] != "Z"}
        found.update(children)
        parents = set(children)
    return found


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("SIGINT", "ETL imagenet-train: started"),
        ("SIGKILL", "epoch 1/99"),
        long_case("SIGINT", "epoch 1/99"),
        long_case("SIGKILL", "ETL imagenet-train: started"),
    ],
)
def test_neither_server_nor_pods_outlive_the_trainer(
    start: Callable[..., subprocess.Popen[str]],
    small_folder: Path,
    moment: str,
    name: str,
) -> None:
    source = ["data=aistore", "data.endpoint=embedded", f"data.embedded_root={small_folder}"]
    process = start(*source, *TINY, "data.workers=1", "train.epochs=99", "train.log_every=1")
    wait_for(process, moment)
    started = descendants(process.pid)
    assert any("aistore_data.embedded" in args for args in started.values())
    assert any("embedded/pod_main.py" in args for args in started.values()), started
    process.send_signal(getattr(signal, name))
    output = process.communicate(timeout=60)[0]
    assert "Traceback" not in output, output
    assert process.returncode == (85 if name == "SIGINT" else -9)
    end = time.monotonic() + 15
    alive = set(started)
    while alive and time.monotonic() < end:
        time.sleep(0.2)
        alive = {pid for pid in alive if Path(f"/proc/{pid}").exists()}
    assert alive == set(), [started[pid] for pid in alive]


def test_a_terminal_shows_one_live_line_for_each_epoch(small_folder: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, str(PROJECT / "train.py"), f"data.root={small_folder}", *TINY, f"run_dir={tmp_path}/run"]
    process = subprocess.Popen(command, stdout=slave, stderr=slave)
    os.close(slave)
    output = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux's end of file on a pseudo-terminal
            break
        output += chunk
    os.close(master)
    assert process.wait(60) == 0, output.decode()
    screen = [line.split("\r\x1b[K")[-1] for line in output.decode().replace("\r\n", "\n").split("\n")]
    lines = [line for line in screen if line.startswith("epoch")]
    lines = [line for line in lines if "  samples " not in line]  # what limits the speed, where something does
    assert [line.split("  ")[1] for line in lines] == ["step 3/3", "validation", "step 3/3", "validation"]
    assert all(word in lines[0] for word in ("loss", "acc@1", "acc@5", "img/s", "data wait", "ETA"))
