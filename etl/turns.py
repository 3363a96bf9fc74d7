"""What an ETL makes in its event loop, in turn."""

import asyncio
from collections import deque
from collections.abc import Callable


class Turns:
    """Calls functions in the event loop, first come, first served; between two of them it serves the sockets."""

    _ROUNDS = 3
    """Of the event loop: a new connection, its request, its answer. uvloop accepts one connection in each."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def append(self, function: Callable[[], None]) -> None:
        """Call ``function`` when it is its turn."""
        self._waiting.append(function)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._next, self._ROUNDS)

    def _next(self, rounds: int) -> None:
        if rounds:
            asyncio.get_running_loop().call_soon(self._next, rounds - 1)
            return
        try:
            self._waiting[0]()
        finally:
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._next, self._ROUNDS)
