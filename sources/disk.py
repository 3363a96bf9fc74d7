"""Files of disks and network file systems, whose faults are waited for where they may pass."""

import errno
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_NAMES = (
    *("EAGAIN", "EBUSY", "ECOMM", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EINTR"),
    *("EIO", "EMFILE", "ENETDOWN", "ENETRESET", "ENETUNREACH", "ENFILE", "ENOBUFS", "ENOLCK", "ENOLINK", "ENOMEM"),
    *("ENOTCONN", "EPIPE", "EPROTO", "EREMOTEIO", "ESHUTDOWN", "ESTALE", "ETIMEDOUT", "EKEYEXPIRED", "ENODEV", "ENXIO"),
)
TRANSIENT = frozenset(getattr(errno, name) for name in _NAMES)
"""Errors of a disk, a network file system or a machine short of memory or descriptors that may be over soon."""

MISSING_S = 2.0
"""Seconds after which a file that is missing counts as gone: network file systems lose sight of one for a moment."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0


def patiently(
    work: Callable[[], T],
    patience_s: float,
    on_wait: Callable[[OSError], None] = lambda error: None,
    missing_s: Callable[[], float] = lambda: 0.0,
    ended: Callable[[], bool] = lambda: False,
) -> T:
    """What ``work`` answers, called again with back-off for up to ``patience_s`` seconds while its fault may pass.

    What is missing is asked for again for ``missing_s()`` seconds, no longer than ``patience_s``. ``on_wait`` hears
    each fault before the next call. Where nobody waits for it any more, which ``ended`` tells, it gives up. Raises the
    last OSError.
    """
    begin, pause_s = time.monotonic(), _FIRST_PAUSE_S
    while True:
        try:
            return work()
        except OSError as error:
            limit_s = patience_s if error.errno in TRANSIENT else 0.0
            if error.errno == errno.ENOENT:
                limit_s = min(patience_s, missing_s())
            left_s = limit_s - (time.monotonic() - begin)
            if left_s <= 0 or ended():
                raise
            on_wait(error)
            time.sleep(min(pause_s, left_s))
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)


def read_file(path: str) -> bytes:
    """All of a file. Raises OSError."""
    with open(path, "rb") as file:
        return file.read()


def replace_file(path: Path, content: bytes, folder: Path, mode: int = 0o600) -> None:
    """Write a file whole or not at all, by one in ``folder`` of the same disk that takes its name. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a sentence: on one line, and printable whatever bytes it has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def cause(error: OSError) -> str:
    """What an error says, in the system's words, without the path."""
    return error.strerror or str(error)
