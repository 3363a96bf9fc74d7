"""Orders of shards and of very large data sets: permutations, whose neighbours are where they should be."""

import hashlib
import itertools

import numpy as np
import pytest

from training.loader import order
from training.loader.order import HELD, TrainBatches, block_order, epoch_order
from training.loader.permutation import Permutation


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9, 100, 1023, 1024, 1025, 5000])
def test_every_number_comes_once(length: int) -> None:
    for seed, epoch in ((0, 0), (5, 3), (2**63 - 1, 89)):
        found = Permutation(length, seed, epoch)[:]
        assert sorted(found.tolist()) == list(range(length)) and found.dtype == np.int64


@pytest.mark.long
def test_every_number_comes_once_whatever_the_length() -> None:
    for length in (*range(1, 400), 10_000_019):
        assert np.array_equal(np.sort(Permutation(length, length, 1)[:]), np.arange(length))


def test_places_of_a_hundred_million_are_computed_alone() -> None:
    whole = Permutation(100_000_000, 7, 2)
    part = whole[99_999_000:]
    assert len(part) == 1000 == len(set(part.tolist())) and part.max() < 100_000_000
    assert part[-1] == whole[99_999_999] and part[5] == whole[99_999_005]
    assert part[:6].tolist() == FROZEN_PERMUTATION


def test_it_looks_random() -> None:
    length = 1 << 16
    found, other = Permutation(length, 0, 0)[:], Permutation(length, 0, 1)[:]
    for values in (found, other, np.argsort(found), found[other]):
        distance = np.abs(values - np.arange(length)).mean() / length
        steps = np.abs(np.diff(values)).mean() / length
        assert abs(distance - 1 / 3) < 0.01 and abs(steps - 1 / 3) < 0.01
        table, _, _ = np.histogram2d(np.arange(length), values, 32)
        assert 850 < ((table - 64) ** 2 / 64).sum() < 1100  # chi squared with 961 degrees of freedom, 3 deviations
    assert np.count_nonzero(found == np.arange(length)) < 8


def test_today_s_sizes_keep_their_order_and_larger_ones_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HELD == 33_554_432
    before = [key[1] for batch in TrainBatches(103, 12, seed=5, epochs=1) for key in batch.keys]
    assert before == epoch_order(103, 5, 0)[:96].tolist()
    monkeypatch.setattr(order, "HELD", 102)
    whole = list(TrainBatches(103, 12, seed=5, epochs=2, views=2))
    assert [key[1] for key in whole[0].keys[:6]] == Permutation(103, 5, 0)[:6].tolist()
    assert list(TrainBatches(103, 12, seed=5, epochs=2, views=2, start=(1, 3))) == whole[11:]
    plain = list(TrainBatches(103, 12, seed=5, epochs=2))
    assert sorted(key[1] for batch in plain[:8] for key in batch.keys) == sorted(Permutation(103, 5, 0)[:96].tolist())
    ranks = [list(TrainBatches(103, 12, seed=5, epochs=2, rank=rank, world_size=2)) for rank in range(2)]
    assert [[*a.keys, *b.keys] for a, b in zip(*ranks, strict=True)] == [batch.keys for batch in plain]


SHARDS = np.random.default_rng(0).integers(0, 23, 1000)


@pytest.mark.parametrize("window", [1, 4, 23, 100])
def test_blocks_are_windows_of_shuffled_shards(window: int) -> None:
    found = block_order(SHARDS, window, seed=3, epoch=1)
    assert sorted(found.tolist()) == list(range(1000))
    inside = SHARDS[found]  # the shards in the order of the epoch: each window's shards do not come again behind it
    first, last = ([f(np.flatnonzero(inside == shard)) for shard in range(23)] for f in (np.min, np.max))
    begins = sorted(range(23), key=lambda shard: first[shard])
    windows = [begins[at : at + window] for at in range(0, 23, window)]
    for some, behind in itertools.pairwise(windows):
        assert max(last[shard] for shard in some) < min(first[shard] for shard in behind)
    if window > 1:
        assert all(max(first[shard] for shard in some) < min(last[shard] for shard in some) for some in windows[:-1])
    other = block_order(SHARDS, window, seed=3, epoch=2)
    assert not np.array_equal(found, other) and not np.array_equal(found, block_order(SHARDS, window, 4, 1))


def test_the_order_of_blocks_is_frozen() -> None:
    digest = hashlib.sha256(block_order(SHARDS, 4, seed=3, epoch=1).astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == FROZEN_BLOCKS
    assert np.array_equal(block_order(SHARDS.astype(np.uint8), 4, 3, 1), block_order(SHARDS, 4, 3, 1))


def test_blocks_resume_and_care_for_no_world_size() -> None:
    blocks = (SHARDS[:103], 2)
    whole = list(TrainBatches(103, 12, seed=5, epochs=2, blocks=blocks))
    assert [key[1] for key in whole[8].keys] == block_order(*blocks, 5, 1)[:12].tolist()
    assert list(TrainBatches(103, 12, seed=5, epochs=2, blocks=blocks, start=(1, 2))) == whole[10:]
    ranks = [list(TrainBatches(103, 12, seed=5, epochs=2, blocks=blocks, rank=rank, world_size=2)) for rank in range(2)]
    assert [[*a.keys, *b.keys] for a, b in zip(*ranks, strict=True)] == [batch.keys for batch in whole]


FROZEN_PERMUTATION = [45555612, 18086710, 75060018, 33092920, 99404568, 97462933]
FROZEN_BLOCKS = "9e4ef08347d6a864"
