"""What loader workers tell a person while they make a batch: Pillow's warnings, a pipe to the trainer, its reader.

What is said is written whole or not at all, without a lock that a killed worker could keep, and never waits: where
nobody reads, it is lost.
"""

import contextlib
import json
import multiprocessing
import os
import re
import select
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from threading import Event, Thread
from typing import Any

_MOST_BYTES = select.PIPE_BUF - 4
"""The most bytes of one message: ``Connection`` writes its length before it."""
_LONGEST = (1500, 200)
"""Characters of a path and of a text; fewer where most of them take several bytes."""

_PERIOD_S = 0.5
_QUIET_S = 3.0
"""Seconds without a word from somebody who waits after which the disk answers again."""

_AGAIN_S = 30.0


class Notices:
    """The end of the pipe that workers write to, which does not block; pickles for them as the same pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        os.set_blocking(pipe.fileno(), False)

    def waits(self, path: str, why: str) -> None:
        """A file could not be read now, and will be tried again."""
        self._write("waits", path, why)

    def odd(self, path: str, what: str) -> None:
        """A file is read although something about it is odd."""
        self._write("odd", path, what)

    def says(self, sentence: str) -> None:
        """Anything else, once in these words."""
        self._write("says", "", sentence)

    def _write(self, kind: str, path: str, text: str) -> None:
        forms = (json.dumps([kind, path[-most:], text[:most]]).encode() for most in _LONGEST)
        with contextlib.suppress(OSError):  # nobody reads it, or not fast enough
            self._pipe.send_bytes(next(form for form in forms if len(form) <= _MOST_BYTES))


class Listener:
    """Reads the pipe in a thread, for as long as its context, and tells ``say`` each thing once."""

    def __init__(self, patience_s: float, say: Callable[[str], None]) -> None:
        self._read, self._write = multiprocessing.Pipe(duplex=False)
        self.notices = Notices(self._write)
        self._patience_s = patience_s
        self._say = say
        self._begun = self._heard = self._told = 0.0  # of waiting, by the monotonic clock; 0: nobody waits
        self._kinds = set[str]()
        self._done = Event()
        self._thread = Thread(target=self._listen, name="listener", daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()
        self._read.close()
        self._write.close()

    def _listen(self) -> None:
        while not self._done.is_set():
            self._take(_PERIOD_S)
        self._take(0.0)

    def _take(self, wait_s: float) -> None:
        while self._read.poll(wait_s):
            kind, path, text = json.loads(self._read.recv_bytes())
            {"waits": self._waits, "odd": self._odd, "says": self._says}[kind](path, text)
            wait_s = 0.0
        now = time.monotonic()
        if self._begun and now - self._heard > _QUIET_S:
            if self._heard - self._begun > 1:
                self._say("the data can be read again")
            self._begun = 0.0

    def _waits(self, path: str, why: str) -> None:
        self._heard = now = time.monotonic()
        self._begun = self._begun or now
        if self._told == 0 or now - self._told > _AGAIN_S:
            waited_s = now - self._begun
            since = f"has been tried again for {waited_s:.0f} s" if waited_s > 1 else "is tried again"
            self._say(f"{path} cannot be read ({why}): it {since}, up to {self._patience_s:g} s (data.patience_s)")
            self._told = now

    def _says(self, _: str, sentence: str) -> None:
        if sentence not in self._kinds:
            self._kinds.add(sentence)
            self._say(sentence)

    def _odd(self, path: str, what: str) -> None:
        kind = re.sub(r"\d+", "N", what)
        if kind not in self._kinds:
            self._kinds.add(kind)
            self._say(f"note: {path} is odd, and used as it is read: {what}. Others of this kind are counted alone.")


_thread = threading.local()
_others: Any = None


def collect() -> list[str]:
    """What Pillow has said of odd files by Python's warnings in this thread since the last call, each sentence once.

    The first call in a process arranges for it; warnings of others, and of threads that never call, go where they went.
    """
    global _others
    if warnings.showwarning is not _show:
        _others, warnings.showwarning = warnings.showwarning, _show
        warnings.filterwarnings("always", module=r"PIL\.")
    said: list[str] = getattr(_thread, "said", [])
    _thread.said = []
    return sorted(set(said)) if said else said


def _show(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> None:
    said: list[str] | None = getattr(_thread, "said", None)
    if said is not None and "/PIL/" in filename:
        said.append(" ".join(str(message).split()).rstrip("."))
    else:
        _others(message, category, filename, *where, **more)
