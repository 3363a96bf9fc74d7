"""Order and batches: the same stream for every world size, and resumable at any position."""

import hashlib

import numpy as np
import pytest

from training.loader.order import TrainBatches, ValBatches, epoch_order


def test_the_order_is_a_permutation_fixed_by_seed_and_epoch() -> None:
    order = epoch_order(1000, seed=0, epoch=0)
    assert sorted(order.tolist()) == list(range(1000))
    assert order[:8].tolist() == [338, 261, 724, 958, 333, 497, 17, 614]
    digest = hashlib.sha256(epoch_order(1281167, seed=3, epoch=89).astype("<i8").tobytes()).hexdigest()
    assert digest == "29dafc7ad676192cec86b82b1e20be38e46cdff91681d9f77685072ad1c220d0"
    assert not np.array_equal(order, epoch_order(1000, 0, 1))
    assert not np.array_equal(order, epoch_order(1000, 1, 0))


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (4, 1), (1, 3), (2, 2)])
def test_every_world_size_sees_the_same_global_batches(world_size: int, accumulate: int) -> None:
    reference = list(TrainBatches(103, 12, seed=5, epochs=2))
    ranks = [
        list(TrainBatches(103, 12, seed=5, epochs=2, rank=rank, world_size=world_size, accumulate=accumulate))
        for rank in range(world_size)
    ]
    assert {len(rank) for rank in ranks} == {len(reference) * accumulate}
    for step, batch in enumerate(reference):
        parts = [ranks[rank][step * accumulate + part] for rank in range(world_size) for part in range(accumulate)]
        assert {len(part.keys) for part in parts} == {12 // world_size // accumulate}
        assert [key for part in parts for key in part.keys] == batch.keys
        assert [position for part in parts for position in part.positions] == list(batch.positions)
        assert list(batch.positions) == list(range(step % 8 * 12, step % 8 * 12 + 12))


@pytest.mark.parametrize(("batch", "views"), [(12, 2), (12, 3), (12, 4), (12, 6), (24, 4), (6, 2)])
@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (3, 2)])
def test_repeated_augmentation_spreads_the_views_of_an_image(
    batch: int, views: int, world_size: int, accumulate: int
) -> None:
    options = {"seed": 5, "epochs": 2, "accumulate": accumulate, "world_size": world_size, "views": views}
    ranks = [list(TrainBatches(103, batch, rank=rank, **options)) for rank in range(world_size)]  # type: ignore[arg-type]
    lists = [wanted for rank in ranks for wanted in rank]
    places = sorted(
        (key[0], position, *key[1:])
        for wanted in lists
        for position, key in zip(wanted.positions, wanted.keys, strict=True)
    )
    steps = 103 // batch
    assert len(places) == 2 * steps * batch
    for number in range(2 * steps):
        epoch, step = divmod(number, steps)
        part = places[number * batch : (number + 1) * batch]
        samples = epoch_order(103, 5, epoch)[step * batch // views : (step + 1) * batch // views].tolist()
        assert [row[2:] for row in part] == [(index, view) for view in range(views) for index in samples]
        assert all(part[place][2] != part[place ^ 1][2] for place in range(batch))
    if world_size == views:
        assert all(len({key[1] for key in wanted.keys}) == len(wanted.keys) for wanted in lists)
    rest = list(TrainBatches(103, batch, rank=0, start=(1, 2), **options))  # type: ignore[arg-type]
    assert rest == ranks[0][(steps + 2) * accumulate :]


def test_one_view_of_each_image_is_what_it_was_without_views() -> None:
    assert list(TrainBatches(103, 12, seed=5, epochs=1, views=1)) == list(TrainBatches(103, 12, seed=5, epochs=1))


def test_an_epoch_visits_every_sample_at_most_once_and_drops_the_rest() -> None:
    batches = TrainBatches(103, 12, seed=5, epochs=1)
    seen = [index for batch in batches for _, index in batch.keys]
    assert batches.steps_per_epoch == len(batches) == 8
    assert len(seen) == len(set(seen)) == 96


@pytest.mark.parametrize("start", [(0, 0), (0, 7), (1, 0), (1, 8), (2, 3), (3, 0)])
def test_any_position_goes_on_where_it_was(start: tuple[int, int]) -> None:
    whole = list(TrainBatches(103, 12, seed=5, epochs=3, accumulate=2))
    rest = TrainBatches(103, 12, seed=5, epochs=3, accumulate=2, start=start)
    done = (start[0] * 8 + start[1]) * 2
    assert list(rest) == whole[done:]
    assert len(rest) == len(whole) - done


@pytest.mark.parametrize("length", [1, 2, 7, 10, 11])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_validation_sees_each_sample_exactly_once(length: int, world_size: int) -> None:
    ranks = [ValBatches(length, 3, rank=rank, world_size=world_size, times=2) for rank in range(world_size)]
    for time in range(2):
        each = [list(rank)[time * rank.batches_per_epoch : (time + 1) * rank.batches_per_epoch] for rank in ranks]
        assert sorted(index for rank in each for batch in rank for _, index in batch.keys) == list(range(length))
    assert all(list(batch.positions) == [index for _, index in batch.keys] for rank in ranks for batch in rank)
    assert all(len(rank) == len(list(rank)) == 2 * rank.batches_per_epoch for rank in ranks)
    assert min(rank.batches_per_epoch for rank in ranks) >= length // world_size // 3  # how many batches all ranks have
