"""Circuit breakers, one for each storage node: a broken ETL must not cost a timeout for each sample.

The state is in memory that all loader workers of a node share. Workers open a breaker when requests fail one after the
other; whoever has seen the ETL work again closes it (``aistore_data.etls.monitor``). A race costs a request at most.

Beside it, how long each node takes to answer: a node that is much later than the others is not waited for.
"""

import time
from collections.abc import Sequence

import numpy as np

from sources.shared_memory import SharedMemory

FAILURES = 3
"""Failures in a row that open a breaker."""

_FAILED, _OPENED, _TAKES, _VARIES = 0, 1, 2, 3
_DISTRUSTED, _WAITING_SINCE, _WAITED, _OUT_OF_STEP = 0, 1, 2, 3

_STALE_S = 3.0
"""Seconds after which somebody who said that he waits does so no more."""

_LEAST_S = 0.2
_MARGIN = 4
"""How much later than the other nodes' answers is late: so many times, and at least so many seconds."""


class Breakers:
    """Of a number of nodes; pickles as the same shared memory: float64 [4] and float64 [nodes, 4].

    Times are those of time.monotonic, which all processes of a machine share on Linux, and which nobody sets.
    """

    def __init__(self, hosts: int, memory: SharedMemory | None = None) -> None:
        self._memory = memory or SharedMemory(8 * (4 + 4 * hosts))
        values = np.frombuffer(self._memory.buffer, np.float64)
        self._all, self._nodes = values[:4], values[4:].reshape(hosts, 4)
        self._values = memoryview(self._memory.buffer).cast("d")  # the same, for what is asked for each sample

    def __reduce__(self) -> tuple[type, tuple[int, SharedMemory]]:
        return Breakers, (len(self._nodes), self._memory)

    # What workers say.

    def failed(self, node: int) -> bool:
        """A request to the ETL on this node got no right answer; whether that has opened its breaker."""
        self._nodes[node, _FAILED] += 1
        opens = bool(self._nodes[node, _FAILED] >= FAILURES and not self._nodes[node, _OPENED])
        if opens:
            self._nodes[node, _OPENED] = time.monotonic()
        return opens

    def record_success(self, node: int) -> None:
        """Record that a node has answered a request."""
        if self._values[4 + 4 * node + _FAILED]:
            self._nodes[node, _FAILED] = 0

    def record_latency(self, nodes: Sequence[int], seconds: Sequence[float]) -> None:
        """How long requests to these nodes took until they were answered, or given up; of a batch, all at once.

        Keeps a mean and a mean deviation of each node, smoothed by 1/8 and 1/4 as RFC 6298 has it for round trips.
        """
        if len(self._nodes) == 1:  # there is no other to be later than
            return
        where, took = np.asarray(nodes, np.int64), np.asarray(seconds)
        for node in np.unique(where):
            here = took[where == node]
            takes, varies = self._nodes[node, [_TAKES, _VARIES]]
            if takes == 0:
                takes, varies = here.mean(), here.std()
            self._nodes[node, _TAKES] = takes + (here.mean() - takes) / 8
            self._nodes[node, _VARIES] = varies + (np.abs(here - takes).mean() - varies) / 4

    def ban(self) -> None:
        """The ETL makes other pixels than it should: none of its nodes is asked any more."""
        self._all[_DISTRUSTED] = 1

    def record_starvation(self) -> None:
        """Somebody has neither a sample nor the bytes to make it of; to be said again every second."""
        if not self.waiting_s():
            self._all[_WAITING_SINCE] = time.monotonic()
        self._all[_WAITED] = time.monotonic()

    def out_of_step(self) -> None:
        """An answer was that to another request; it is not used."""
        self._all[_OUT_OF_STEP] += 1

    # What anybody may ask.

    @property
    def answers_out_of_step(self) -> int:
        """How many answers were those to other requests."""
        return int(self._all[_OUT_OF_STEP])

    def is_open(self, node: int) -> bool:
        """Whether the ETL on this node is not to be asked."""
        return bool(self._values[4 + 4 * node + _OPENED] or self._values[_DISTRUSTED])

    def deadline_s(self, limit_s: float) -> float:
        """Seconds after which an answer is late beside those of the typical node; at most ``limit_s``.

        All nodes have the same: a slow one does not get more time for being slow. If all become slower, so does the
        typical one, and each gets more.
        """
        if len(self._nodes) == 1:
            return limit_s
        takes, varies = self._nodes[:, _TAKES], self._nodes[:, _VARIES]
        late = np.sort(np.where(takes > 0, _MARGIN * (takes + 4 * varies), limit_s))
        return float(min(limit_s, max(_LEAST_S, late[(len(late) - 1) // 2])))

    @property
    def banned(self) -> bool:
        """Tell whether ``ban`` was called."""
        return bool(self._all[_DISTRUSTED])

    def opened(self) -> list[int]:
        """The nodes whose breakers are open."""
        return [int(node) for node in self._nodes[:, _OPENED].nonzero()[0]]

    def waiting_s(self) -> float:
        """Seconds since somebody began to wait for the cluster; 0 if nobody does."""
        now = time.monotonic()
        return now - float(self._all[_WAITING_SINCE]) if now - self._all[_WAITED] < _STALE_S else 0.0

    def close(self, node: int) -> None:
        """The ETL on this node works again."""
        self._nodes[node, [_FAILED, _OPENED]] = 0
