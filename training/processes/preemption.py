"""Stopping on request: SIGTERM, SIGUSR1, ctrl-C, and SIGHUP unless it is ignored, as nohup does it.

And how a process tells ``training.processes.launch`` its exit code: after a signal torch's agent does not hand it on.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from sources.errors import chain
from sources.processes import SIGNALS

EXIT_CODE = 85
"""Stopped on request, with everything saved that is needed to go on."""

VARIABLE = "IMAGENET_AIS_EXITS"
"""The environment variable that names the folder in which each process leaves its exit code."""

ECHO_S = 5.0
"""Seconds within which torchrun's agent repeats a signal that all processes have had already."""

AGAIN_S = 0.02
"""How long after Python has dropped Stopped it is raised once more."""

CLEAN_UP_S = 10.0
"""Seconds for which further signals are ignored after Stopped was raised; a later one ends the process at once."""


class Stopped(BaseException):
    """The run was asked to stop, and may be started again to go on.

    Like KeyboardInterrupt no ``Exception``: a library that tries again after any of these must not swallow it.
    """


def stopped_in(error: BaseException) -> Stopped | None:
    """The Stopped over which a library raised an error of its own; None if the error has nothing to do with one.

    ``torch.save`` does so: a write that Stopped interrupts becomes a RuntimeError about the file's position.
    """
    return next((link for link in chain(error) if isinstance(link, Stopped)), None)


class _Block:
    """The outermost ``defer_signals`` block that the main thread is in."""

    entered = False
    reason = ""
    """The signal that came meanwhile and is to raise Stopped."""
    raised: float | None = None
    """When Stopped was raised, by ``time.monotonic``."""
    dropped = ""
    """The signal whose Stopped Python has dropped, and which is to raise it once more."""


@contextmanager
def defer_signals() -> Iterator[None]:
    """Raise Stopped at the block's end, not in it; one more signal raises it there all the same.

    For calls that share locks with threads and return soon. ``queue`` and ``threading`` have those in Python: an
    exception out of a signal handler may leave a lock taken or a waiting thread forgotten, and who joins it waits
    forever.
    """
    if _Block.entered or threading.current_thread() is not threading.main_thread():
        yield
        return
    _Block.entered, _Block.reason = True, ""
    try:
        yield
    finally:
        _Block.entered = False
    if _Block.reason:
        _Block.raised = time.monotonic()
        raise Stopped(_Block.reason)


def _raise(reason: str) -> None:
    """Raise Stopped here, or at the end of the block that the main thread is in; a second one raises in the block."""
    if _Block.entered and not _Block.reason:
        _Block.reason = reason
        return
    _Block.raised = time.monotonic()
    raise Stopped(reason)


class _RaisedAgain:
    """``sys.unraisablehook`` where a signal may come while a finalizer runs, which no exception can leave.

    A Stopped that ends there is raised again, by a timer, when the main thread is somewhere else. All others go to
    ``former``.
    """

    def __init__(self, former: Callable[[Any], object]) -> None:
        self._former = former

    def __call__(self, unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Stopped):
            self._former(unraisable)
            return
        _Block.dropped = str(unraisable.exc_value)
        signal.signal(signal.SIGALRM, lambda *_: _raise(_Block.dropped))
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


def silence() -> None:
    """Ignore the signals that ask to stop, when nothing is left to do but to exit."""
    for name in SIGNALS:
        signal.signal(name, signal.SIG_IGN)


class StopFlag:
    """Remembers a request to stop until the loop gets to it.

    While ``deferred``, the first signal sets ``requested`` and a second one raises Stopped at once; otherwise, before
    and after training, the first one does. A signal that comes within ``duplicate_signal_window_s`` seconds of the
    first one is taken for its echo.
    """

    late = ""
    """What came after the last save of this process's last run: it concerns what would be begun next."""

    def __init__(self) -> None:
        self.requested = False
        self.deferred = False
        self.duplicate_signal_window_s = 0.0
        self._first = 0.0
        self._saved = False
        _Block.raised, StopFlag.late = None, ""
        if not isinstance(sys.unraisablehook, _RaisedAgain):
            sys.unraisablehook = _RaisedAgain(sys.unraisablehook)
        for name in SIGNALS:
            if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:
                signal.signal(name, self._handle)

    def request(self) -> None:
        """Ask the run to stop, from any thread, as the first signal does while it is deferred."""
        self.requested = True

    def ignore_from_now_on(self) -> None:
        """Ignore signals after the last save: a late one must not fail a run that is done. It is remembered."""
        self._saved = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        reason = signal.Signals(number).name
        if self._saved:
            StopFlag.late = reason
            return
        now = time.monotonic()
        if not self.requested:
            self._first = now
        again, self.requested = self.requested and now - self._first >= self.duplicate_signal_window_s, True
        if again or not self.deferred:
            if _Block.raised is not None:  # the run cleans up
                if now - _Block.raised > CLEAN_UP_S:
                    os._exit(EXIT_CODE)
                return
            _raise(reason)


def report(code: int) -> None:
    """Leave this process's exit code, where a launcher asks for it. One that cannot be left counts as a failure."""
    folder = os.environ.get(VARIABLE)
    if folder:
        path = Path(folder) / os.environ.get("LOCAL_RANK", "0")
        with suppress(OSError):
            path.write_text(f"{code} {os.environ.get('LOCAL_WORLD_SIZE', 1)}")


def reported(folder: Path) -> list[int]:
    """The codes of all processes, 1 for one that left none; nothing if none did."""
    left = [words for path in folder.iterdir() if len(words := path.read_text().split()) == 2]
    codes, sizes = [int(code) for code, _ in left], [int(size) for _, size in left]
    return codes + [1] * (max(sizes, default=0) - len(codes))
