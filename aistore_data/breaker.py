"""Circuit breakers, one for each storage node: a broken ETL must not cost a timeout for each sample.

The state is in memory that all loader workers of a node share. Workers open a breaker when requests fail one after the
other; whoever has seen the ETL work again closes it (``training.keeper``). A race costs a request at most.
"""

import time

import numpy as np

from aistore_data.shared import SharedMemory

FAILURES = 3
"""Failures in a row that open a breaker."""

_FAILED, _OPENED = 0, 1
_DISTRUSTED, _WAITING_SINCE, _WAITED = 0, 1, 2

_STALE_S = 3.0
"""Seconds after which somebody who said that he waits does so no more."""


class Breakers:
    """Of a number of nodes; pickles as the same shared memory: float64 [3] and float64 [nodes, 2]."""

    def __init__(self, hosts: int, memory: SharedMemory | None = None) -> None:
        self._memory = memory or SharedMemory(8 * (3 + 2 * hosts))
        values = np.frombuffer(self._memory.buffer, np.float64)
        self._all, self._nodes = values[:3], values[3:].reshape(hosts, 2)

    def __reduce__(self) -> tuple[type, tuple[int, SharedMemory]]:
        return Breakers, (len(self._nodes), self._memory)

    # What workers say.

    def failed(self, node: int) -> bool:
        """A request to the ETL on this node got no right answer; whether that has opened its breaker."""
        self._nodes[node, _FAILED] += 1
        opens = bool(self._nodes[node, _FAILED] >= FAILURES and not self._nodes[node, _OPENED])
        if opens:
            self._nodes[node, _OPENED] = time.time()
        return opens

    def worked(self, node: int) -> None:
        """A request got its answer."""
        if self._nodes[node, _FAILED]:
            self._nodes[node, _FAILED] = 0

    def distrust(self) -> None:
        """The ETL makes other pixels than it should: none of its nodes is asked any more."""
        self._all[_DISTRUSTED] = 1

    def waits(self) -> None:
        """Somebody has neither a sample nor the bytes to make it of; to be said again every second."""
        if not self.waiting_s():
            self._all[_WAITING_SINCE] = time.time()
        self._all[_WAITED] = time.time()

    # What anybody may ask.

    def is_open(self, node: int) -> bool:
        """Whether the ETL on this node is not to be asked."""
        return bool(self._nodes[node, _OPENED] or self._all[_DISTRUSTED])

    @property
    def distrusted(self) -> bool:
        """Whether ``distrust`` was called."""
        return bool(self._all[_DISTRUSTED])

    def opened(self) -> list[int]:
        """The nodes whose breakers are open."""
        return [int(node) for node in self._nodes[:, _OPENED].nonzero()[0]]

    def waiting_s(self) -> float:
        """Seconds since somebody began to wait for the cluster; 0 if nobody does."""
        now = time.time()
        return now - float(self._all[_WAITING_SINCE]) if now - self._all[_WAITED] < _STALE_S else 0.0

    def close(self, node: int) -> None:
        """The ETL on this node works again."""
        self._nodes[node] = 0
