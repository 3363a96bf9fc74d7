"""One run at a time in a run directory, also among machines that share a disk."""

from collections.abc import Callable
from pathlib import Path

from sources.lease import LOCK_PREFIX as PREFIX
from sources.lease import FolderLease

__all__ = ["PREFIX", "RunLock"]


class RunLock(FolderLease):
    """Holds a run directory as long as its context."""

    def __init__(self, folder: Path, say: Callable[[str], None], on_loss: Callable[[], None] = lambda: None) -> None:
        super().__init__(folder, "run_dir", say, on_loss)
