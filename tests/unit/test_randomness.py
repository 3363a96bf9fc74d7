"""Each use of the seed has words of its own, and those that a run has drawn once are drawn again."""

import itertools
import re

import numpy as np
import pytest
import torch

from sources import randomness
from sources.manifest import Manifest
from sources.randomness import stream
from sources.substitutes import substitutes
from tests.conftest import PROJECT
from training.engine.numerics import seed_step
from training.loader.order import epoch_order

DOMAINS = {name: value for name, value in vars(randomness).items() if name.isupper() and name != "RANDOM_DOMAIN"}


def test_all_domains_differ() -> None:
    assert DOMAINS == {"SAMPLE": 0, "ORDER": 1, "DROPOUT": 2, "MIXING": 3, "ERASING": 4, "SUBSTITUTES": 5, "BALANCE": 6}
    words = {name: stream(7, domain, (0, 3, 0)).random_raw(8).tolist() for name, domain in DOMAINS.items()}
    assert all(not set(a) & set(b) for a, b in itertools.combinations(words.values(), 2))


@pytest.mark.parametrize("folder", ["aistore_data", "etl", "scripts", "sources", "training"])
def test_no_other_file_makes_streams_of_its_own(folder: str) -> None:
    makers = re.compile(r"Philox\(|default_rng|RandomState|np\.random\.(?:rand|seed|shuffle|permutation)")
    found = {
        str(path.relative_to(PROJECT)): len(makers.findall(path.read_text()))
        for path in sorted((PROJECT / folder).rglob("*.py"))
    }
    allowed = {"sources/randomness.py", "etl/sample.py", "sources/samples.py", "scripts/make_demo_data.py"}
    assert {name: count for name, count in found.items() if count} == {
        name: 1 for name in allowed if name.startswith(folder)
    }


def test_order_and_dropout_are_those_of_the_first_version() -> None:
    assert epoch_order(10, 7, 3).tolist() == [5, 6, 1, 2, 4, 0, 9, 7, 8, 3]
    seed_step(7, 3, 5, 1, torch.device("cpu"))
    assert torch.initial_seed() == 2790653119748444388


def test_dropout_and_substitutes_do_not_meet() -> None:
    manifest = Manifest.build([(b"%03d.jpg" % number, 0, 1) for number in range(200)], ["a"])
    order = list(substitutes(manifest, 11, seed=7))
    others = np.delete(np.arange(200), 11)
    of_dropout = stream(7, randomness.DROPOUT, (0, 11, 0)).random_raw(199)  # rank 0, epoch 11, step 0
    assert order != others[np.argsort(of_dropout)].tolist()
    assert sorted(order) == others.tolist()
