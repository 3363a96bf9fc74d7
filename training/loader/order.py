"""The order of samples: a pure function of (seed, epoch), cut into global batches that every world size shares."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sources.randomness import BALANCE, ORDER, stream
from training.loader.permutation import Permutation
from training.loader.ring import Wanted

HELD = 1 << 25
"""Samples of the largest data set whose order is sorted and held, in 16 bytes for each; of larger ones it is computed
place by place. A fixed number, as the two orders differ."""


def epoch_order(length: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of 0 … length - 1 in which epoch ``epoch`` visits the manifest, int64 [length].

    It sorts 64-bit keys from Philox4x64-10 with key (seed, ORDER) and counter (0, 0, epoch, 0); equal keys keep their
    order. NumPy promises the raw stream of its bit generators, but not the output of ``Generator.permutation``.
    """
    keys = stream(seed, ORDER, (0, epoch, 0)).random_raw(length)
    return np.argsort(keys, kind="stable")


def balanced_order(labels: NDArray[Any], seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """(indices, repeats), int64 [length] each, of an epoch in which every class comes equally often.

    Of ``length`` places each of the C classes that there are gets length // C, and length mod C of them one more. A
    class goes through its samples in a random order, from the beginning again when all had their turn: ``repeats``
    counts how often a sample has come before, which makes another view of it. Then all places are shuffled. What is
    random are words of Philox4x64-10 with key (seed, BALANCE) and counter (0, 0, epoch, 0): one for each class, one for
    each sample, one for each place, each of which sorts as in ``epoch_order``.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    length, many = len(labels), len(counts)
    words = stream(seed, BALANCE, (0, epoch, 0)).random_raw(many + 2 * length)
    places = np.full(many, length // many)
    places[np.argsort(words[:many], kind="stable")[: length % many]] += 1
    # The samples of a class lie one after the other here, in their random order.
    in_turn = np.lexsort((words[many : many + length], classes))
    first, of_class = np.cumsum(counts) - counts, np.repeat(np.arange(many), places)
    turn = np.arange(length) - np.repeat(np.cumsum(places) - places, places)
    indices, repeats = in_turn[first[of_class] + turn % counts[of_class]], turn // counts[of_class]
    shuffled = np.argsort(words[many + length :], kind="stable")
    return indices[shuffled], repeats[shuffled]


def block_order(shards: NDArray[Any], window: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch, int64 [length], whose neighbours lie in ``window`` shards.

    ``shards``: of each sample the shard that it lies in, integers from 0 on. The shards are shuffled, and cut into
    windows of ``window`` shards; the samples are shuffled within each. What is random are words of Philox4x64-10 with
    key (seed, ORDER) and counter (0, 1, epoch, 0): one for each shard, one for each sample, each of which sorts as in
    ``epoch_order``.
    """
    many = int(shards.max()) + 1
    words = stream(seed, ORDER, (1, epoch, 0)).random_raw(many + len(shards))
    places = np.empty(many, np.int64)
    places[np.argsort(words[:many], kind="stable")] = np.arange(many) // window
    return np.lexsort((words[many:], places[shards]))


@dataclass(frozen=True)
class TrainBatches:
    """The batches of one rank from (epoch, batches_done) to the end of the last epoch.

    Global batch b of an epoch is ``order[b * global_batch_size : (b + 1) * global_batch_size]``, whatever the world
    size; rank r takes the r-th of ``world_size`` equal parts, as ``accumulate`` lists of equal length. The last partial
    batch of an epoch is dropped. Nothing is replayed: the position is the starting point of a slice.

    With ``views`` R a global batch of B has the next B / R samples of the order, in R views each (repeated
    augmentation): place j has sample j mod B / R of them in view j div B / R. So neighbours are different samples, and
    R processes have a view each.

    With ``balance``, the label of each sample, int64 [length], the order is ``balanced_order``. A sample that has come
    before in the epoch has further views, from R times its repeats on.

    With ``blocks``, the shard of each sample and how many of them are a window, the order is ``block_order``.
    """

    length: int
    global_batch_size: int
    seed: int
    epochs: int
    _: KW_ONLY
    rank: int = 0
    world_size: int = 1
    accumulate: int = 1
    views: int = 1
    start: tuple[int, int] = (0, 0)
    balance: NDArray[Any] | None = field(default=None, compare=False, repr=False)
    blocks: tuple[NDArray[Any], int] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        assert self.global_batch_size % (self.world_size * self.accumulate) == 0
        assert self.length >= self.global_batch_size
        assert self.global_batch_size % self.views == 0 and (self.views == 1 or self.global_batch_size > self.views)

    @property
    def batch_size(self) -> int:
        """Return the number of samples in one micro-batch of this process."""
        return self.global_batch_size // self.world_size // self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of global batches in one epoch."""
        return self.length // self.global_batch_size

    def __len__(self) -> int:
        epoch, batches_done = self.start
        return ((self.epochs - epoch) * self.steps_per_epoch - batches_done) * self.accumulate

    def __iter__(self) -> Iterator[Wanted]:
        first_epoch, batches_done = self.start
        share = self.global_batch_size // self.world_size
        for epoch in range(first_epoch, self.epochs):
            order, repeats = self._order(epoch)
            for batch in range(batches_done if epoch == first_epoch else 0, self.steps_per_epoch):
                begin = batch * self.global_batch_size + self.rank * share
                for first in range(begin, begin + share, self.batch_size):
                    positions = range(first, first + self.batch_size)
                    if self.views == 1 and repeats is None:
                        yield Wanted([(epoch, index) for index in order[first : positions.stop].tolist()], positions)
                    else:
                        yield Wanted([(epoch, *self._view_at(place, order, repeats)) for place in positions], positions)

    def _order(self, epoch: int) -> tuple[np.ndarray | Permutation, np.ndarray | None]:
        if self.balance is not None:
            return balanced_order(self.balance, self.seed, epoch)
        if self.blocks is not None:
            return block_order(*self.blocks, self.seed, epoch), None
        if self.length > HELD:
            return Permutation(self.length, self.seed, epoch), None
        return epoch_order(self.length, self.seed, epoch), None

    def _view_at(self, position: int, order: np.ndarray | Permutation, repeats: np.ndarray | None) -> tuple[int, int]:
        """(index, view) of a place in the epoch."""
        samples = self.global_batch_size // self.views
        batch, place = divmod(position, self.global_batch_size)
        at = batch * samples + place % samples
        before = 0 if repeats is None else self.views * int(repeats[at])
        return int(order[at]), before + place // samples


class ValBatches:
    """The batches of one rank for ``times`` validations, one after the other, with the keys of epoch 0.

    In each validation every sample exactly once over all ranks; its last batch may be smaller.
    """

    def __init__(self, length: int, batch_size: int, *, rank: int = 0, world_size: int = 1, times: int = 1) -> None:
        self.indices = range(rank, length, world_size)
        self.batch_size = batch_size
        self.times = times

    @property
    def batches_per_epoch(self) -> int:
        """Return the number of batches in one validation."""
        return -(-len(self.indices) // self.batch_size)

    def __len__(self) -> int:
        return self.times * self.batches_per_epoch

    def __iter__(self) -> Iterator[Wanted]:
        for _ in range(self.times):
            for begin in range(0, len(self.indices), self.batch_size):
                part = self.indices[begin : begin + self.batch_size]
                yield Wanted([(0, index) for index in part], part)
