"""Files: faults that may pass are waited for; some are written whole, kept to save time, or end with their process."""

import errno
import hashlib
import json
import mmap
import os
import shutil
import stat
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias, TypeVar

from etl.spec import shown_path
from sources.lease import is_process_alive, myself

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

PREFIX = "imagenet-ais-"
"""What the names of scratch folders begin with."""

_OWNER = "owner.json"
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


class MappedFile(mmap.mmap):
    """A file's content as it is now, without reading it: it stays so when the file is replaced or grows."""

    def __iter__(self) -> Iterator[bytes]:  # type: ignore[override]
        """Let requests take it for a stream, which it sends in pieces, and again if the proxy redirects it."""
        return iter(lambda: self.read(1 << 16), b"")


Content: TypeAlias = bytes | MappedFile


def map_file(path: Path) -> Content:
    """A file's content as it is now; one that is empty cannot be mapped. Raises OSError."""
    with open(path, "rb") as file:
        return MappedFile(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def replace_file(path: Path, content: Content, folder: Path, mode: int = 0o600) -> None:
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


shown = shown_path
"""A path for a sentence."""


def cause(error: OSError) -> str:
    """What an error says, in the system's words, without the path."""
    return error.strerror or str(error)


def cache_file(key: str) -> Path:
    """Where what belongs to ``key``, and can be made again, is kept: in $XDG_CACHE_HOME/imagenet-ais, or ~/.cache.

    Raises RuntimeError for a user without a home folder.
    """
    return cache_folder() / hashlib.sha256(key.encode()).hexdigest()[:32]


def read_cached(key: str, most: int = 1 << 30) -> bytes | None:
    """What was last written for ``key``; None if there is nothing, or nothing that can be read, or over ``most``."""
    try:
        with open(os.open(cache_file(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe would be waited for
                return None
            content = file.read(most + 1)
            return content if len(content) <= most else None
    except (OSError, RuntimeError):
        return None  # it is made again, and write_cached says what is wrong


def write_cached(key: str, content: bytes) -> None:
    """Keep ``content`` for ``key``, whole or not at all; warns where that cannot be done."""
    try:
        path = cache_file(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content, path.parent)
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"{_folder()} cannot be written to: {error}. The next start takes as long as this one.", stacklevel=2
        )


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/imagenet-ais, or ~/.cache/imagenet-ais. Raises RuntimeError for a user without a home folder."""
    return _folder().expanduser()


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "imagenet-ais"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in the machine's place for temporary files, which ends with this process.

    Those of killed processes are removed before.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another's, one that is being made or removed, or one of an older version
            mine = path.lstat().st_uid == os.getuid() and not path.is_symlink()
            if mine and is_process_alive((path / _OWNER).read_text()) is False:
                shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as whole:
        Path(whole, _OWNER).write_text(json.dumps(myself()))
        inside = Path(whole, "files")
        inside.mkdir()
        yield inside
