"""Requests to stop inside calls that must not be disturbed."""

import signal
import threading
from collections.abc import Iterator

import pytest

from training.processes.preemption import StopFlag, Stopped, undisturbed

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@pytest.fixture
def stop() -> Iterator[StopFlag]:
    former = {name: signal.getsignal(name) for name in SIGNALS}
    flag = StopFlag()
    flag.deferred = True
    yield flag
    for name, handler in former.items():
        signal.signal(name, handler)


def test_a_block_is_left_whole(stop: StopFlag) -> None:
    passed = []
    with pytest.raises(Stopped, match="SIGTERM"), undisturbed():
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
        passed.append("the inner block")
    assert passed and stop.requested
    with undisturbed():  # nothing is left over
        pass


def test_a_first_signal_alone_raises_nothing(stop: StopFlag) -> None:
    with undisturbed():
        signal.raise_signal(signal.SIGINT)
    assert stop.requested


def test_before_training_the_first_signal_raises_at_the_end(stop: StopFlag) -> None:
    stop.deferred = False
    passed = []
    with pytest.raises(Stopped, match="SIGINT"), undisturbed():
        signal.raise_signal(signal.SIGINT)
        passed.append("the signal")
    assert passed


def test_one_more_signal_ends_a_block_that_hangs(stop: StopFlag) -> None:
    with pytest.raises(Stopped, match="SIGUSR1"), undisturbed():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        pytest.fail("the third signal did not raise")


def test_the_errors_of_a_block_go_first(stop: StopFlag) -> None:
    with pytest.raises(OSError, match="full"), undisturbed():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        raise OSError("the disk is full")
    with undisturbed():
        pass


def test_other_threads_are_not_concerned(stop: StopFlag) -> None:
    inside, over = threading.Event(), threading.Event()

    def other() -> None:
        with undisturbed():
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
