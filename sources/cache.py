"""Files that can be made again, in $XDG_CACHE_HOME/imagenet-ais (~/.cache/imagenet-ais without it)."""

import hashlib
import os
import stat
import warnings
from pathlib import Path

from sources.disk import replace_file


def cache_file(key: str) -> Path:
    """Where what belongs to ``key`` is kept. Raises RuntimeError for a user without a home folder."""
    return _folder().expanduser() / hashlib.sha256(key.encode()).hexdigest()[:32]


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


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "imagenet-ais"
