"""One sample of a bucket, from the request for it to its row of the batch."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(slots=True, eq=False)
class Sample:
    """One sample on its way into its row of the batch."""

    row: Any
    epoch: int
    index: int
    name: str
    node: int
    host: str
    stage: Literal["etl", "local"]
    view: int = 0
    tries: int = 0
    doubts: int = 0
    """Answers that were not, or may not have been, about it."""
    since: float = 0.0
    """When its bytes were first asked for in vain."""
    others: Iterator[int] | None = None
    reason: str = ""
    source_index: int = field(init=False)
    """Whose bytes it is made of."""

    def __post_init__(self) -> None:
        self.source_index = self.index
