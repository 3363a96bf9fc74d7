"""What Pillow says of odd files by Python's warnings: collected for the sample that is being made, never printed."""

import threading
import warnings
from typing import Any, TextIO

_thread = threading.local()
_others: Any = None


def collect() -> list[str]:
    """What Pillow has said in this thread since the last call, each sentence once.

    The first call in a process arranges for it; warnings of others, and of threads that never call, go where they went.
    """
    if warnings.showwarning is not _show:
        _install()
    said: list[str] = getattr(_thread, "said", [])
    _thread.said = []
    return sorted(set(said)) if said else said


def _install() -> None:
    global _others
    _others = warnings.showwarning
    warnings.filterwarnings("always", module=r"PIL\.")
    warnings.showwarning = _show


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    said: list[str] | None = getattr(_thread, "said", None)
    if said is not None and "/PIL/" in filename:
        said.append(" ".join(str(message).split()).rstrip("."))
    else:
        _others(message, category, filename, lineno, file, line)
