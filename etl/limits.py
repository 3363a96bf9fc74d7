"""What bounds an ETL's memory. The operator may set each by an environment variable of the pod."""

import os
from dataclasses import dataclass
from typing import Any

from etl.request import BadRequest, Request

HEAD_BYTES = 1 << 16
"""Of a request's head. A name has 3 KB at most, and is written twice, as is what it needs to be quoted."""

HEAD_S, BODY_S = 60.0, 120.0
"""Time for a request's head, from its first byte, and for its body."""

_VARIABLES = {
    "size": ("IMAGENET_AIS_MAX_SIZE", 2048, 1),
    "object_bytes": ("IMAGENET_AIS_MAX_OBJECT_MB", 128, 1 << 20),
    "memory_bytes": ("IMAGENET_AIS_MAX_MEMORY_MB", 256, 1 << 20),
    "requests": ("IMAGENET_AIS_MAX_REQUESTS", 1024, 1),
}
"""Field → variable, default, unit."""


@dataclass(frozen=True)
class Limits:
    """Of each process of a pod.

    ``size`` pixels for size and resize, ``object_bytes`` for an object, ``memory_bytes`` for all bodies that have come
    and, once more, for all answers that wait for their readers, ``requests`` that wait for their turn.
    """

    size: int
    object_bytes: int
    memory_bytes: int
    requests: int

    @classmethod
    def of_environment(cls) -> "Limits":
        """As the pod's environment has it. Raises ValueError for what is no number above 0."""
        return cls(**{field: _number(*entry) for field, entry in _VARIABLES.items()})

    def check(self, request: Request) -> None:
        """Raise BadRequest for a sample that is too large."""
        for name in ("size", "resize"):
            asked = getattr(request.spec, name) or 0
            if asked > self.size:
                variable = _VARIABLES["size"][0]
                raise BadRequest(
                    f"{name}={asked} is over this ETL's limit of {self.size}: its operator sets {variable}"
                )


def _number(variable: str, default: int, unit: int) -> int:
    text = os.environ.get(variable, "") or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise ValueError(f"{variable}={text!r} is not a whole number above 0")
    return int(text) * unit


class Refused(Exception):  # noqa: N818  # an answer, as BadRequest is
    """A request that is not answered now, or is too large to be read; its connection is closed."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Unread:
    """The answers that their readers have not taken yet. Past the limit, who has not read for longest loses his."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._written = 0  # at least what is unread
        self._transports: dict[Any, None] = {}  # oldest answer first

    def add(self, transport: Any, count: int) -> None:
        """``count`` bytes were written to a transport of asyncio."""
        self._transports.pop(transport, None)
        self._transports[transport] = None
        self._written += count
        if self._written <= self._limit:
            return
        unread = {transport: transport.get_write_buffer_size() for transport in self._transports}
        self._transports = {transport: None for transport, held in unread.items() if held}
        self._written = sum(unread.values())
        for transport in list(self._transports):
            if self._written <= self._limit:
                break
            self._written -= unread[transport]
            del self._transports[transport]
            transport.abort()
