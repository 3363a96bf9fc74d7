"""Requests to stop inside calls that must not be disturbed."""

import io
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from sources.errors import UserError
from training.config.schema import Config
from training.processes.preemption import EXIT_CODE, StopFlag, Stopped, defer_signals, stopped_in
from training.run import run
from training.run_dir import checkpoint

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@pytest.fixture
def stop() -> Iterator[StopFlag]:
    former, hook = {name: signal.getsignal(name) for name in (*SIGNALS, signal.SIGALRM)}, sys.unraisablehook
    flag = StopFlag()
    flag.deferred = True
    yield flag
    sys.unraisablehook = hook
    for name, handler in former.items():
        signal.signal(name, handler)


def test_a_block_is_left_whole(stop: StopFlag) -> None:
    passed = []
    with pytest.raises(Stopped, match="SIGTERM"), defer_signals():
        with defer_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        passed.append("the inner block")
    assert passed and stop.requested
    with defer_signals():  # nothing is left over
        pass


def test_a_first_signal_alone_raises_nothing(stop: StopFlag) -> None:
    with defer_signals():
        signal.raise_signal(signal.SIGINT)
    assert stop.requested


def test_before_training_the_first_signal_raises_at_the_end(stop: StopFlag) -> None:
    stop.deferred = False
    passed = []
    with pytest.raises(Stopped, match="SIGINT"), defer_signals():
        signal.raise_signal(signal.SIGINT)
        passed.append("the signal")
    assert passed


class Finalized:
    """Is asked to stop while Python frees it, where no exception gets out."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("inside", [False, True])
def test_a_signal_that_comes_in_a_finalizer_stops_the_run(
    stop: StopFlag, inside: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    stop.deferred = False
    passed = []
    with pytest.raises(Stopped, match="SIGINT"):
        Finalized()
        with defer_signals() if inside else nullcontext():
            time.sleep(0.2)
            passed.append("the block")
        time.sleep(10)
    assert bool(passed) is inside and not capfd.readouterr().err


def test_what_else_goes_wrong_in_a_finalizer_is_said_as_ever(stop: StopFlag, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    said: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: said.append(str(unraisable.exc_value)))
    StopFlag()
    Broken()
    assert said == ["broken"]


def test_one_more_signal_ends_a_block_that_hangs(stop: StopFlag) -> None:
    with pytest.raises(Stopped, match="SIGUSR1"), defer_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        pytest.fail("the third signal did not raise")


def test_the_errors_of_a_block_go_first(stop: StopFlag) -> None:
    with pytest.raises(OSError, match="full"), defer_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        raise OSError("the disk is full")
    with defer_signals():
        pass


def test_other_threads_are_not_concerned(stop: StopFlag) -> None:
    inside, over = threading.Event(), threading.Event()

    def other() -> None:
        with defer_signals():
            inside.set()
            over.wait()

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    stop.deferred = False
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGINT)
    over.set()
    thread.join()


def test_a_request_that_interrupts_a_checkpoint_is_no_failed_write(
    stop: StopFlag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.save answers the interruption with an error of its own, about the position in the file."""
    write = io.BufferedWriter.write

    class Interrupted(io.BufferedWriter):
        def write(self, content: Any) -> int:
            written = write(self, content)
            if stop.requested:
                signal.raise_signal(signal.SIGTERM)
            return written

    monkeypatch.setattr(io, "BufferedWriter", Interrupted)
    folder = tmp_path / "checkpoints"
    state = {"weights": torch.zeros(100_000)}
    checkpoint.save(folder, state)
    before = (folder / "last.pt").read_bytes()
    signal.raise_signal(signal.SIGINT)
    with pytest.raises((UserError, Stopped)) as caught:
        checkpoint.save(folder, state)
    assert isinstance(stopped_in(caught.value), Stopped)
    assert [path.name for path in folder.iterdir()] == ["last.pt"] and (folder / "last.pt").read_bytes() == before


def test_an_error_over_a_request_to_stop_ends_as_a_stopped_run(
    stop: StopFlag, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> int:
        try:
            try:
                raise Stopped("SIGTERM")
            finally:
                raise RuntimeError("unexpected pos 2076736 vs 2076624")
        except RuntimeError as error:
            raise UserError(f"the checkpoint could not be written: {error}") from None

    monkeypatch.setattr("training.run._run", interrupted)
    assert run(Config(device="cpu")) == EXIT_CODE
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert stopped_in(OSError("the disk is full")) is None
