"""Stopping on request: SIGTERM, SIGUSR1 and ctrl-C."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 85
"""Stopped on request, with everything saved that is needed to go on."""

ECHO_S = 5.0
"""Where all processes get a signal, torchrun's agent passes on another one, so late at most."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals that ask the run to stop. Processes started meanwhile, and theirs, never see one.

    A terminal and SLURM send a signal to the whole group, but stopping is the trainer's business: it ends the others.
    What arrives here meanwhile is delivered afterwards.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


class Stopped(BaseException):
    """The run was asked to stop, and may be started again to go on.

    Like KeyboardInterrupt no ``Exception``: a library that tries again after any of these must not swallow it.
    """


class StopFlag:
    """Remembers a request to stop until the loop gets to it.

    While ``deferred``, the first signal sets ``requested`` and a second one raises Stopped at once; otherwise, before
    and after training, the first one does. Within ``echo_s`` seconds a signal is taken for the echo of the first one.
    """

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False
        self.echo_s = 0.0
        self._first = 0.0
        for name in _SIGNALS:
            signal.signal(name, self._handle)

    def ignore_from_now_on(self) -> None:
        """After the last save: a late signal must not fail a run that is done."""
        for name in _SIGNALS:
            signal.signal(name, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self._first = now
        again, self.requested = self.requested and now - self._first >= self.echo_s, True
        if again or not self.deferred:
            raise Stopped(signal.Signals(number).name)
