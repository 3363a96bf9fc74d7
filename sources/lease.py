"""One holder at a time, also among machines: of a folder on a shared disk, or of a bucket.

Who wants it leaves an entry there with a name of its own, and holds it if no other one lives beside it: of two that
start at once, at least one sees the other. Names are never used twice, so that a stale entry can be removed by anybody
without hurting a fresh one. The holder renews its entry every ten seconds. After a crash an entry is told to be stale
in one of two ways: on the machine, boot and process namespace of its owner by the process, which is gone or, its number
reused, began at another time; elsewhere because it was not renewed in thirty seconds *of watching it*, so that neither
a wrong clock nor one that jumps decides. (``flock`` would be shorter, but parallel file systems are often mounted with
locks that only the one machine sees, and a bucket has none.)
"""

import json
import os
import random
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from sources.errors import ConfigError, UserError

LOCK_PREFIX = "run.lock."
"""What the names of files begin with by which a folder is held."""
RENEW_S = 10.0
STALE_S = 30.0
_TRIES = 10
"""Attempts of processes that start at the same moment; each gives way for a random time."""
_PAUSE_S = 0.1


class Lease(ABC):
    """Holds a place as long as its context. A subclass says what the place is, and how entries lie in it.

    Its methods raise FileNotFoundError for an entry that is gone, OSError or UserError for what else fails.
    """

    where: str
    """The folder or the bucket; ``title`` is the same as a command line names it."""
    title: str
    in_use: str
    """The beginning of the sentence that another process holds it, and ``advice`` what to do instead of waiting."""
    advice: str
    loss: str
    """What the holder has done, and does, whose entry is gone."""
    is_strict: bool
    """Whether an entry that cannot be renewed is given up before another process may take it for stale."""

    def __init__(self, prefix: str, say: Callable[[str], None], on_loss: Callable[[], None] = lambda: None) -> None:
        """Names of entries begin with ``prefix``. ``on_loss`` is called from a thread, as soon as a loss is seen."""
        self.name = f"{prefix}{uuid.uuid4().hex}"
        self._say = say
        self._on_loss = on_loss
        self._lost = ""
        self._done = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease", daemon=True)

    @abstractmethod
    def _entries(self) -> list[str]:
        """List the names of all entries."""

    @abstractmethod
    def _read(self, name: str) -> tuple[str, object]:
        """An entry's text, and what is another one after each renewal."""

    @abstractmethod
    def _put(self) -> None:
        """Leave our entry, which describes this process."""

    @abstractmethod
    def _touch(self) -> None:
        """Renew the entry of this process."""

    @abstractmethod
    def _delete(self, name: str) -> None:
        """Remove an entry."""

    def __enter__(self) -> Self:
        """Raises ConfigError if another process holds the place, or it is a folder that cannot be written to."""
        try:
            for _ in range(_TRIES):
                living, begin = self._others_that_live(), time.monotonic()
                if not living and self._claim():
                    self._renewer.start()
                    return self
                time.sleep(random.uniform(0, _PAUSE_S + 4 * (time.monotonic() - begin)))  # noqa: S311
        except OSError as error:
            advice = self.advice[0].upper() + self.advice[1:]
            raise ConfigError(f"{self.title} cannot be written to: {error.strerror}. {advice}.") from None
        raise ConfigError(f"{self.in_use}{''.join(living[:1])}: wait for it, stop it, or {self.advice}.")

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._renewer.join()
        try:
            self._remove(self.name)
        except (OSError, UserError) as error:  # it goes stale
            self._say(f"{self.where}/{self.name} could not be removed: {error}")

    def check(self) -> None:
        """Raises UserError if another process has taken the place over, as while this one stood still for long."""
        with suppress(OSError, UserError):  # who cannot tell now does not say that it is lost
            if self._look(self.name) is None:
                self._lost = f"{self.where}/{self.name} is gone: {self.loss}"
        if self._lost:
            raise UserError(self._lost)

    def _claim(self) -> bool:
        """Leave our entry; True if it is the only one, else it is taken away again."""
        alone = False
        try:
            self._put()
            alone = not self._others()
        finally:
            if not alone:
                with suppress(OSError, UserError):  # it goes stale
                    self._delete(self.name)
        return alone

    def _others(self) -> list[str]:
        return [name for name in self._entries() if name != self.name]

    def _others_that_live(self) -> list[str]:
        """Descriptions of the living owners of other entries; entries of dead ones are removed."""
        living = []
        for name in self._others():
            found = self._look(name)
            if found and self._is_alive(name, *found):
                living.append(describe(found[0]))
            elif found:
                self._remove(name)
        return living

    def _look(self, name: str) -> tuple[str, object] | None:
        with suppress(FileNotFoundError):
            return self._read(name)
        return None

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._delete(name)

    def _is_alive(self, name: str, text: str, sign: object) -> bool:
        known = is_process_alive(text)
        if known is not None:
            return known
        self._say(f"{self.where} is held{describe(text)}; waiting {STALE_S:.0f} s for a sign of life")
        end = time.monotonic() + STALE_S
        while time.monotonic() < end:
            time.sleep(STALE_S / 60)
            now = self._look(name)
            if now is None or now[1] != sign:
                return now is not None
        return False

    def _renew(self) -> None:
        failing_since: float | None = None
        while not self._lost and not self._done.wait(RENEW_S):
            try:
                self._touch()
                failing_since = None
            except FileNotFoundError:  # taken over: check() says so
                self._lost = f"{self.where}/{self.name} is gone: {self.loss}"
            except Exception as error:  # a server for a moment: whatever it is, renewing goes on
                if failing_since is None:
                    failing_since = time.monotonic()
                    self._say(f"the lock of {self.where} could not be renewed: {error}. It is tried again.")
                if self.is_strict and time.monotonic() - failing_since > STALE_S - RENEW_S:
                    self._lost = f"the lock of {self.where} could not be renewed: {error}"
        if self._lost:
            self._on_loss()


class FolderLease(Lease):
    """Holds a folder that ``option`` of a command line names; an entry is a file, renewed by its time of change."""

    is_strict = False

    def __init__(
        self, folder: Path, option: str, say: Callable[[str], None], on_loss: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(LOCK_PREFIX, say, on_loss)
        self.folder = folder
        self.path = folder / self.name
        self.where = str(folder)
        self.title = f"{option}={folder}"
        self.in_use = f"{self.title} is in use by another run"
        self.advice = f"choose another {option}"
        self.loss = (
            f"the run stood still for {STALE_S:.0f} s or more, and another one has taken the directory over. This one "
            "stops, so that nothing is mixed up."
        )

    def _entries(self) -> list[str]:
        return [path.name for path in self.folder.glob(f"{LOCK_PREFIX}*")]

    def _read(self, name: str) -> tuple[str, object]:
        """See ``Lease``; opening a file makes a network file system look again."""
        with open(self.folder / name, "rb") as file:
            return file.read().decode("utf-8", "replace"), os.fstat(file.fileno()).st_mtime_ns

    def _put(self) -> None:
        self.path.write_text(json.dumps(myself()))

    def _touch(self) -> None:
        os.utime(self.path)

    def _delete(self, name: str) -> None:
        (self.folder / name).unlink()


def myself() -> dict[str, Any]:
    """This process, by machine, boot, process namespace, number and start."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _start_ticks(os.getpid()),
        "boot": _told(Path("/proc/sys/kernel/random/boot_id").read_text),
        "namespace": _told(Path("/proc/self/ns/pid").readlink),
    }


def is_process_alive(content: str) -> bool | None:
    """Whether the owner that ``myself`` described lives; None where this machine's process table cannot tell."""
    try:
        owner = json.loads(content)
        mine = myself()
        if not mine["boot"] or any(owner[key] != mine[key] for key in ("boot", "namespace")):
            return None
        return _start_ticks(int(owner["pid"])) == owner["started"] is not None
    except (ValueError, KeyError, TypeError):
        return None  # being written, or nothing that we have written


def describe(content: str) -> str:
    """Return ``, process 17 on node-3`` for a sentence; "" for content that this program has not written."""
    try:
        owner = json.loads(content)
        return f", process {owner['pid']} on {owner['host']}"
    except (ValueError, KeyError, TypeError):
        return ""


def _start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if it is gone or a zombie."""
    fields = _told(Path(f"/proc/{pid}/stat").read_text).rpartition(")")[2].split()
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def _told(ask: Callable[[], object]) -> str:
    try:
        return str(ask()).strip()
    except OSError:
        return ""
