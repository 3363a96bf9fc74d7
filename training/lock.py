"""One run at a time in a run directory, also among machines that share a disk.

The lock is a file that names its holder, which renews the file's time of change every ten seconds. After a crash it is
told to be stale in one of two ways. On the machine, boot and process namespace of the holder: by the process, which is
gone or, its number reused, began at another time. Elsewhere: it has not been renewed for thirty seconds *of watching
it*, so that neither a clock that is wrong nor one that jumps decides. (``flock`` would be shorter, but parallel file
systems are often mounted with locks of the one machine only.)
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aistore_data.errors import ConfigError, UserError

NAME = "run.lock"
RENEW_S = 10.0
STALE_S = 30.0


class RunLock:
    """Holds the lock of a run directory as long as its context."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self._path = folder / NAME
        self._say = say
        self._content = json.dumps(_myself()).encode()
        self._done = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="run lock", daemon=True)

    def __enter__(self) -> "RunLock":
        """Raises ConfigError if another run lives in the directory or it cannot be written to."""
        try:
            while not self._create():
                self._wait_until_stale_and_remove()
        except OSError as error:
            raise ConfigError(
                f"run_dir={self._path.parent} cannot be written to: {error.strerror}. Choose another run_dir."
            ) from None
        self._renewer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._renewer.join()
        if self._is_mine():
            self._path.unlink()

    def check(self) -> None:
        """Raises UserError if another run has taken the directory over, as while this one stood still for long."""
        if not self._is_mine():
            raise UserError(
                f"{self._path} is no longer this run's: the run stood still for {STALE_S:.0f} s or more, and another "
                "one has taken the directory over. This one stops, so that nothing is mixed up."
            )

    def _create(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        try:
            os.write(descriptor, self._content)
        finally:
            os.close(descriptor)
        return True

    def _is_mine(self) -> bool:
        seen = _read(self._path)
        return seen is not None and seen[0] == self._content

    def _renew(self) -> None:
        while not self._done.wait(RENEW_S):
            if self._is_mine():
                os.utime(self._path)

    def _wait_until_stale_and_remove(self) -> None:
        """Raises ConfigError as soon as the holder is known to live."""
        first = _read(self._path)
        if first is None:
            return
        alive = _is_alive(first[0])
        if alive is None:
            self._say(f"{self._path} is held by {_describe(first[0])}; waiting {STALE_S:.0f} s for a sign of life")
        end = time.monotonic() + STALE_S
        while alive is None and time.monotonic() < end:
            time.sleep(0.5)
            if _read(self._path) != first:
                alive = True
        if alive and _read(self._path) is not None:
            raise ConfigError(
                f"run_dir={self._path.parent} is in use by another run, {_describe(first[0])}: wait for it, stop it, "
                "or choose another run_dir."
            )
        _remove_if(self._path, first[0])


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _start_ticks(os.getpid()),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
        "id": uuid.uuid4().hex,
    }


def _is_alive(content: bytes) -> bool | None:
    """Whether the holder of a lock lives, as far as the process table of this machine tells."""
    try:
        holder = json.loads(content)
        mine = _myself()
        if not mine["boot"] or any(holder[key] != mine[key] for key in ("boot", "namespace")):
            return None
        return _start_ticks(int(holder["pid"])) == holder["started"] is not None
    except (ValueError, KeyError, TypeError):
        return None  # being written, or nothing that we have written


def _describe(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "a process that left no name"


def _read(path: Path) -> tuple[bytes, int] | None:
    """Content and time of change of a lock, asked of the file server anew; None if it is gone."""
    try:
        with open(path, "rb") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def _remove_if(path: Path, content: bytes) -> None:
    """Remove a stale lock, but not the fresh one by which somebody has replaced it in the meantime."""
    aside = path.with_name(f"{NAME}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    if aside.read_bytes() != content:
        os.link(aside, path)
    aside.unlink()


def _start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None if it is gone or a zombie."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
