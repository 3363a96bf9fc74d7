"""The progress of a long task, for a person who waits."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from sources.text import format_duration

T = TypeVar("T")

SILENT_S = 1.0
_LIVE_S = 0.5
FIRST_S = 10.0
PLAIN_S = 60.0
_WIDTH = 24
"""Characters of the bar."""


class Progress(AbstractContextManager["Progress"]):
    """A bar on a terminal; elsewhere a line after 10 s and then one a minute. A task of less than a second has none.

    It goes to standard error, as this is no result. Where torchrun or srun has started several processes, that of rank
    0 alone prints. Use it in ``with``; ``total`` is how many items there are, None if nobody knows.
    """

    def __init__(self, items: str, total: int | None = None) -> None:
        self.items = items
        self.total = total
        self.done = self.size = 0
        self._printed = -1
        self._live = sys.stderr.isatty()
        self._enabled = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
        self._begin = time.monotonic()
        self._due = self._begin + (SILENT_S if self._live else FIRST_S)

    def __exit__(self, *exception: object) -> None:
        """Say how much it was in the end, also if an error ended it."""
        if time.monotonic() - self._begin >= SILENT_S and (self._live or self.done != self._printed):
            self._print("\n")

    def add(self, count: int, size: int = 0) -> None:
        """Some more items are done, of ``size`` bytes together."""
        self.done += count
        self.size += size
        now = time.monotonic()
        if now >= self._due:
            self._due = now + (_LIVE_S if self._live else PLAIN_S)
            self._print("" if self._live else "\n")

    def over(self, items: Iterable[T], every: int = 100) -> Iterator[T]:
        """The same items, each of which is done when the next one is asked for; told of ``every`` at a time."""
        count = 0
        for item in items:
            yield item
            count += 1
            if count == every:
                self.add(count)
                count = 0
        self.add(count)

    def _print(self, end: str) -> None:
        self._printed = self.done
        rate = self.done / max(time.monotonic() - self._begin, 1e-9)
        parts = [f"{self.done:,}{f' of {self.total:,}' if self.total is not None else ''} {self.items}"]
        if self.size:
            parts.append(f"{self.size / 1e6:,.1f} MB")
        parts.append(f"{rate:,.0f}/s")
        if self.total is not None and rate and self.done < self.total:
            parts.append(f"ETA {format_duration((self.total - self.done) / rate)}")
        if self._enabled:
            begin = f"\r\x1b[K{self._bar()}" if self._live else ""
            print(begin + ", ".join(parts), end=end, file=sys.stderr, flush=True)

    def _bar(self) -> str:
        if not self.total:
            return ""
        full = min(_WIDTH, _WIDTH * self.done // self.total)
        return f"[{'=' * full}{' ' * (_WIDTH - full)}] {100 * self.done // self.total:3} %  "
