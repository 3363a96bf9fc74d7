"""What all sources of samples have in common."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from etl import Spec
from sources.samples import SyntheticDataset
from sources.source import Specs
from tests.conftest import PROJECT
from training.config.data_options import DataConfig
from training.loader.open_data import OPENERS


def test_a_synthetic_batch_has_the_side_of_its_epoch() -> None:
    specs = Specs(Spec.train(8), ((2, Spec.train(12)),))
    source = SyntheticDataset(100, specs, 10, 4)
    alone = SyntheticDataset(100, Spec.train(12), 10, 4)
    for epoch, side in ((0, 8), (2, 12), (1, 8)):
        batch = source.__getitems__([(epoch, index) for index in range(4)])
        assert batch.images.shape == (4, side, side, 3)
        assert np.array_equal(batch.images, source.batches[side][0])
    assert np.array_equal(source.batches[12][0], alone.batches[12][0])


def test_each_source_that_may_be_chosen_can_be_opened() -> None:
    (source,) = (field for field in fields(DataConfig) if field.name == "source")
    files = {Path(path).stem for path in (PROJECT / "conf" / "data").glob("*.yaml")}
    assert {*OPENERS} == {*source.metadata["choices"]} == files


def test_an_epoch_has_the_last_spec_that_has_begun() -> None:
    specs = Specs(Spec.train(64), ((2, Spec.train(96)), (5, Spec.train(80))))
    assert [specs.at(epoch).size for epoch in range(7)] == [64, 64, 96, 96, 96, 80, 80]
    assert specs.largest == 96
    assert Specs.of(specs) is specs and Specs.of(Spec.val(32)).at(1000) == Spec.val(32)


def test_a_synthetic_batch_is_written_once_to_the_same_memory() -> None:
    source = SyntheticDataset(100, Spec.train(8), 10, 4)
    images, labels = source.batches[8]
    rows = np.zeros((4, 8, 8, 3), np.uint8)
    first = source.fill([(0, index) for index in range(3)], rows[:3])
    assert (rows[3] == 0).all() and np.array_equal(rows[:3], images[:3])
    assert first.labels.tolist() == labels[:3].tolist() and first.counts.local == 3
    source.fill([(0, index) for index in range(4)], rows)
    assert np.array_equal(rows, images)
    rows[1] = 7
    source.fill([(1, index) for index in range(4)], rows)
    assert (rows[1] == 7).all()  # nothing was copied
