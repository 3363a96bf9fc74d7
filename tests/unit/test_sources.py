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
    rows = np.zeros((4, 8, 8, 3), np.uint8)
    first = source.fill([(0, index) for index in range(3)], rows[:3])
    assert (rows[3] == 0).all() and np.array_equal(rows[:3], source.images[:3])
    assert first.labels.tolist() == source.labels[:3].tolist() and first.counts.local == 3
    source.fill([(0, index) for index in range(4)], rows)
    assert np.array_equal(rows, source.images)
    rows[1] = 7
    source.fill([(1, index) for index in range(4)], rows)
    assert (rows[1] == 7).all()  # nothing was copied
