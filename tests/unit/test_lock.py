"""One run at a time in a directory, and no lock that outlives its holder."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sources import lease
from sources.errors import ConfigError, UserError
from sources.lease import LOCK_PREFIX, RENEW_S, STALE_S, FolderLease, myself
from tests.conftest import PROJECT

HOLD = """
import sys, time
from pathlib import Path
from sources.lease import FolderLease
with FolderLease(Path(sys.argv[1]), "run_dir", print):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def leave(folder: Path, **changes: Any) -> Path:
    """A lock file as another holder would have left it."""
    content = myself() | changes
    path = folder / f"{LOCK_PREFIX}other"
    path.write_text(json.dumps(content))
    return path


class Clock:
    """The time that a lock measures and sleeps by. It passes when somebody sleeps; ``each_s`` is called meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.each_s: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        for _ in range(int(before), int(self.now)):
            self.each_s()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock is renewed five times a second."""
    monkeypatch.setattr(lease, "RENEW_S", 0.2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lease, "time", made)
    return made


def test_it_is_gone_afterwards_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), FolderLease(tmp_path, "run_dir", print):
        assert len(list(tmp_path.glob(f"{LOCK_PREFIX}*"))) == 1
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_second_run_is_refused_while_the_first_lives_and_follows_a_killed_one_at_once(
    tmp_path: Path, clock: Clock
) -> None:
    first = hold(tmp_path)
    with (
        pytest.raises(ConfigError, match=rf"in use by another run, process {first.pid} on "),
        FolderLease(tmp_path, "run_dir", print),
    ):
        pass
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie: that holds nothing
    before = clock.now
    with FolderLease(tmp_path, "run_dir", print):
        assert clock.now == before
    first.wait()
    assert not list(tmp_path.iterdir())


def test_a_number_that_another_process_has_by_now_holds_nothing(tmp_path: Path) -> None:
    leave(tmp_path, pid=os.getppid(), started=1)
    with FolderLease(tmp_path, "run_dir", print):
        pass


@pytest.mark.parametrize("changes", [{"host": "node7", "boot": "another"}, {"namespace": "pid:[1]"}])
def test_a_holder_elsewhere_is_watched(tmp_path: Path, clock: Clock, changes: dict[str, Any]) -> None:
    path = leave(tmp_path, **changes)
    said: list[str] = []
    with FolderLease(tmp_path, "run_dir", said.append):
        assert clock.now == 1000 + STALE_S
    assert len(said) == 1 and "waiting 30 s for a sign of life" in said[0]

    path = leave(tmp_path, **changes)
    clock.each_s = lambda: renewed() if int(clock.now) % 10 == 0 else None

    def renewed() -> None:
        os.utime(path, (0, clock.now))  # whatever the other machine's clock says

    with pytest.raises(ConfigError, match="in use by another run"), FolderLease(tmp_path, "run_dir", said.append):
        pass
    assert path.exists() and clock.now > 1000 + STALE_S + RENEW_S


def test_half_a_lock_of_a_full_disk_goes_stale(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / f"{LOCK_PREFIX}other").write_text('{"ho')
    with FolderLease(tmp_path, "run_dir", print):
        assert clock.now == 1000 + STALE_S
    assert not list(tmp_path.iterdir())


def test_the_holder_renews_it_and_notices_its_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    with FolderLease(tmp_path, "run_dir", print) as held:
        path = next(tmp_path.iterdir())
        before = path.stat().st_mtime_ns
        end = time.monotonic() + 30
        while path.stat().st_mtime_ns == before:
            assert time.monotonic() < end, "not renewed within 30 s"
            time.sleep(0.01)
        held.check()
        path.unlink()
        with pytest.raises(UserError, match="another one has taken the directory over"):
            held.check()


@pytest.mark.usefixtures("quick")
def test_a_file_server_that_fails_for_a_moment_ends_no_renewing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    failures = [OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "Input/output error"), RuntimeError("x")]
    real, renewed = os.utime, threading.Event()

    def utime(path: Path) -> None:
        if failures:
            raise failures.pop(0)
        real(path)
        renewed.set()

    monkeypatch.setattr(lease.os, "utime", utime)
    with FolderLease(tmp_path, "run_dir", said.append) as held:
        assert renewed.wait(30)
        held.check()
    assert len(said) == 1 and "could not be renewed: [Errno 116] Stale file handle. It is tried again." in said[0]


@pytest.mark.usefixtures("quick")
def test_a_loss_is_told_at_once(tmp_path: Path) -> None:
    lost = threading.Event()
    with FolderLease(tmp_path, "run_dir", print, on_loss=lost.set) as held:
        held.path.unlink()
        assert lost.wait(30)


def test_a_file_server_that_cannot_tell_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(path: Path, mode: str) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with FolderLease(tmp_path, "run_dir", print) as held, monkeypatch.context() as patch:
        patch.setattr("builtins.open", stale)
        held.check()


@pytest.mark.parametrize("_", range(5))
def test_of_many_that_find_a_stale_lock_one_gets_it(tmp_path: Path, _: int) -> None:
    leave(tmp_path, pid=1 << 22, started=1)
    held, refused, together = [], [], threading.Barrier(8)

    def start() -> None:
        mine = FolderLease(tmp_path, "run_dir", print)
        together.wait()
        try:
            held.append(mine.__enter__())
        except ConfigError:
            refused.append(mine)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(refused) == 7
    held[0].__exit__()


def test_a_read_only_directory_is_named() -> None:
    for option, lock in (
        ("run_dir", FolderLease(Path("/proc/self"), "run_dir", print)),
        ("DEST", FolderLease(Path("/proc/self"), "DEST", print)),
    ):
        with (
            pytest.raises(
                ConfigError, match=rf"{option}=/proc/self cannot be written to: .*\. Choose another {option}\.$"
            ),
            lock,
        ):
            pass
