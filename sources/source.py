"""What the loader needs of a source of samples: every source slots in here, and nothing downstream knows which."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from etl import Spec
from sources.batch import Batch, Filled, Keys


@dataclass(frozen=True)
class Specs:
    """Which spec the samples of an epoch have: ``first``, and from the epochs of ``later`` on, in their order, others.

    Samples of one recipe, whose size, for example, may grow with the epochs.
    """

    first: Spec
    later: tuple[tuple[int, Spec], ...] = ()

    @classmethod
    def of(cls, given: "Spec | Specs") -> "Specs":
        """One spec for all epochs, or what is given."""
        return cls(given) if isinstance(given, Spec) else given

    def at(self, epoch: int) -> Spec:
        """Return the spec that an epoch's samples have."""
        return next((spec for begin, spec in reversed(self.later) if begin <= epoch), self.first)

    @property
    def sides(self) -> list[int]:
        """Return the sides of the samples in pixels, in the order of the epochs."""
        return [spec.size for spec in (self.first, *(spec for _, spec in self.later))]

    @property
    def largest(self) -> int:
        """Pixels of the largest side of all epochs."""
        return max(self.sides)


class Source(Protocol):
    """A split of a data set. Its classes name it as their base, for the sake of the methods that it has already."""

    specs: Specs
    made_here: bool
    """Whether samples cost this machine's CPUs, and are not merely received."""

    def __len__(self) -> int: ...

    def fill(self, keys: Keys, rows: NDArray[np.uint8]) -> Filled:
        """Make the samples of ``keys`` in ``rows``, uint8 [n, side, side, 3] as the epoch's spec has them.

        Raises DataError that names the sample.
        """
        ...

    def locate(self, index: int) -> str:
        """Say where sample ``index`` lies, for messages."""
        ...

    def end(self) -> None:
        """Let no worker that makes a batch wait any more: nobody wants it."""
        return

    def __getitems__(self, keys: Keys) -> Batch:
        """The samples of ``keys`` in memory of their own, for who has no ring. Errors as ``fill``."""
        side = self.specs.at(keys[0][0]).size
        images = torch.zeros((len(keys), side, side, 3), dtype=torch.uint8)
        labels, counts, latencies, replaced = self.fill(keys, images.numpy())
        indices = torch.tensor([key[1] for key in keys])
        return Batch(images, torch.from_numpy(labels), indices, counts, latencies, replaced)
