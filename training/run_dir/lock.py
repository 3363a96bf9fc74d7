"""One run at a time in a run directory, also among machines that share a disk.

Who wants the directory leaves a file there with a name of its own, and holds the directory if no other one lives beside
it. Names are never used twice, so that a stale file can be removed by anybody without hurting a fresh one. The holder
renews its file's time of change every ten seconds. After a crash a file is told to be stale in one of two ways: on the
machine, boot and process namespace of its owner by the process, which is gone or, its number reused, began at another
time; elsewhere because it was not renewed in thirty seconds *of watching it*, so that neither a wrong clock nor one
that jumps decides. (``flock`` would be shorter, but parallel file systems are often mounted with locks that only the
one machine sees.)
"""

import json
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from sources.errors import ConfigError, UserError
from sources.owner import describe, is_process_alive, myself

PREFIX = "run.lock."
RENEW_S = 10.0
STALE_S = 30.0
_TRIES = 10
"""Of runs that start at the same moment; each gives way for a random time."""


class RunLock:
    """Holds a run directory, or another folder that ``option`` of a command line names, as long as its context."""

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None],
        option: str = "run_dir",
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_loss`` is called from a thread, as soon as another run is seen to have taken the folder over."""
        self.folder = folder
        self.option = option
        self.path = folder / f"{PREFIX}{uuid.uuid4().hex}"
        self._say = say
        self._on_loss = on_loss
        self._done = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="run lock", daemon=True)

    def __enter__(self) -> "RunLock":
        """Raises ConfigError if another run lives in the directory or it cannot be written to."""
        try:
            for _ in range(_TRIES):
                living = self._others_that_live()
                if not living and self._claim():
                    self._renewer.start()
                    return self
                time.sleep(random.uniform(0, 0.1))  # noqa: S311
        except OSError as error:
            raise ConfigError(
                f"{self.option}={self.folder} cannot be written to: {error.strerror}. Choose another {self.option}."
            ) from None
        raise ConfigError(
            f"{self.option}={self.folder} is in use by another run{''.join(living[:1])}: wait for it, stop it, "
            f"or choose another {self.option}."
        )

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._renewer.join()
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:  # it goes stale
            self._say(f"{self.path} could not be removed: {error.strerror}")

    def check(self) -> None:
        """Raises UserError if another run has taken the directory over, as while this one stood still for long."""
        if self._is_lost():
            raise UserError(
                f"{self.path} is gone: the run stood still for {STALE_S:.0f} s or more, and another one has taken the "
                "directory over. This one stops, so that nothing is mixed up."
            )

    def _claim(self) -> bool:
        """Leave our file; True if it is the only one, else it is taken away again."""
        try:
            self.path.write_text(json.dumps(myself()))
            if self._others():
                self.path.unlink()
                return False
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        return True

    def _others(self) -> list[Path]:
        return [path for path in self.folder.glob(f"{PREFIX}*") if path != self.path]

    def _others_that_live(self) -> list[str]:
        """Descriptions of the living owners of other files; files of dead ones are removed."""
        living = []
        for path in self._others():
            content = _read(path)
            if content is None:
                continue
            if self._is_alive(path, content):
                living.append(describe(content))
            else:
                path.unlink(missing_ok=True)
        return living

    def _is_alive(self, path: Path, content: str) -> bool:
        known = is_process_alive(content)
        if known is not None:
            return known
        first = _time_of_change(path)
        self._say(f"{self.folder} is held{describe(content)}; waiting {STALE_S:.0f} s for a sign of life")
        end = time.monotonic() + STALE_S
        while time.monotonic() < end:
            time.sleep(0.5)
            now = _time_of_change(path)
            if now != first:
                return now is not None
        return False

    def _is_lost(self) -> bool:
        """Whether the file is gone; a file server that cannot tell now does not mean that."""
        try:
            self.path.lstat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    def _renew(self) -> None:
        failing = False
        while not self._done.wait(RENEW_S):
            try:
                os.utime(self.path)
                failing = False
            except FileNotFoundError:  # taken over: check() says so
                self._on_loss()
                return
            except Exception as error:  # a file server for a moment: whatever it is, renewing goes on
                if not failing:
                    self._say(f"the lock of {self.folder} could not be renewed: {error}. It is tried again.")
                failing = True


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _time_of_change(path: Path) -> int | None:
    """In ns, asked of the file server anew, as opening a file does; None if it is gone."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
