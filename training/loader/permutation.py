"""A permutation that is not stored: each place is computed when it is asked for.

It is a Feistel network over as many bits as the length needs, at most two times as many numbers as there are. Numbers
beyond the length go through the network again until they are below it, which leaves a permutation of the rest.
"""

from typing import overload

import numpy as np
from numpy.typing import NDArray

from sources.randomness import ORDER, stream

_ROUNDS = 8
"""An even number, so that the halves, which may differ by one bit, have their sizes again in the end."""


class Permutation:
    """Of 0 … length - 1, for an epoch; indexed like an array. Its keys are words of Philox4x64-10 with key
    (seed, ORDER) and counter (0, 2, epoch, 0), one for each round."""

    def __init__(self, length: int, seed: int, epoch: int) -> None:
        bits = max(2, (length - 1).bit_length())
        self._length = length
        self._widths = bits - bits // 2, bits // 2
        self._keys = stream(seed, ORDER, (2, epoch, 0)).random_raw(_ROUNDS)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> NDArray[np.int64]: ...
    def __getitem__(self, place: int | slice) -> int | NDArray[np.int64]:
        if isinstance(place, slice):
            return self._at(np.arange(*place.indices(self._length), dtype=np.uint64))
        return int(self._at(np.array([place], np.uint64))[0])

    def _at(self, numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
        numbers = self._through(numbers)
        while (beyond := np.flatnonzero(numbers >= self._length)).size:
            numbers[beyond] = self._through(numbers[beyond])
        return numbers.astype(np.int64)

    def _through(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        high, low = self._widths
        left, right = numbers >> np.uint64(low), numbers & np.uint64((1 << low) - 1)
        for key in self._keys:
            left, right = right, left ^ (_mixed(right + key) >> np.uint64(64 - high))
            high, low = low, high
        return left << np.uint64(low) | right


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The words after SplitMix64's last step, in which each bit depends on all bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
