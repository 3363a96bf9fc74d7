"""How far a long task is, for a person who waits."""

import os
import sys
import time
from contextlib import AbstractContextManager

SILENT_S = 1.0
_LIVE_S = 0.5
PLAIN_S = 10.0


class Progress(AbstractContextManager["Progress"]):
    """A live line on a terminal, a plain line every 10 s elsewhere; none for a task of less than a second.

    It goes to standard error, as this is no result, and where several processes run by RANK, from rank 0 alone. Use it
    in ``with``; ``total`` is how many items there are, None if nobody knows.
    """

    def __init__(self, items: str, total: int | None = None) -> None:
        self.items = items
        self.total = total
        self.done = self.size = 0
        self._live = sys.stderr.isatty()
        self._enabled = os.environ.get("RANK", "0") == "0"
        self._begin = time.monotonic()
        self._due = self._begin + (SILENT_S if self._live else PLAIN_S)

    def __exit__(self, *exception: object) -> None:
        """Say how much it was in the end, also if an error ended it."""
        if time.monotonic() - self._begin >= SILENT_S:
            self._print("\n")

    def add(self, count: int, size: int = 0) -> None:
        """Some more items are done, of ``size`` bytes together."""
        self.done += count
        self.size += size
        now = time.monotonic()
        if now >= self._due:
            self._due = now + (_LIVE_S if self._live else PLAIN_S)
            self._print("" if self._live else "\n")

    def _print(self, end: str) -> None:
        rate = self.done / max(time.monotonic() - self._begin, 1e-9)
        parts = [f"{self.done:,}{f' of {self.total:,}' if self.total is not None else ''} {self.items}"]
        if self.size:
            parts.append(f"{self.size / 1e6:,.1f} MB")
        parts.append(f"{rate:,.0f}/s")
        if self.total is not None and rate and self.done < self.total:
            parts.append(f"{(self.total - self.done) / rate:,.0f} s left")
        if self._enabled:
            print(("\r\x1b[K" if self._live else "") + ", ".join(parts), end=end, file=sys.stderr, flush=True)
