"""What a remote sample asks for."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aistore_data.client.access import Access, object_path
from aistore_data.client.answer import Get
from aistore_data.client.fetch import Fetcher
from aistore_data.client.placement import Placement
from aistore_data.dataset.breaker import FAILURES, Breakers
from aistore_data.dataset.policy import Remote, SamplePolicy, etl_paths
from aistore_data.dataset.remote import RemoteDataset
from aistore_data.dataset.sample import Sample
from etl.request import Request, encode, statement
from etl.sample import transform
from etl.spec import Key, Spec
from sources.batch import Latencies
from sources.errors import DataError, ObjectError
from sources.manifest import Manifest
from sources.substitutes import substitutes

NAMES = ("train/a b/ä+&.jpg", "train/c/1.jpg", "train/c/2.jpg", "train/c/3.jpg")
MANIFEST = Manifest.build([(name.encode(), min(number, 1), 5) for number, name in enumerate(NAMES)], ("a b", "c"))


def remote(spec: Spec, wire: str = "raw", uri: str = "ais://b", share: float = 0.0) -> Remote:
    placement = Placement({}, "http://h:1")
    return Remote(
        Access("http://h:1"), uri, MANIFEST, placement, Breakers(1), spec, 7, etl_name="e-train", wire=wire,
        local_share=share,
    )  # fmt: skip


@pytest.mark.parametrize("uri", ["ais://b", "s3://b", "ais://#ns/b"])
@pytest.mark.parametrize("wire", ["raw", "jpeg"])
@pytest.mark.parametrize(
    "spec", [Spec.train(224), Spec.train(64, (0.2, 1.0), (0.5, 2.0), "bicubic"), Spec.val(224, 256)]
)
@pytest.mark.parametrize("tags", [False, True])
def test_paths_are_those_of_whole_requests(spec: Spec, wire: str, uri: str, tags: bool) -> None:
    paths = etl_paths(replace(remote(spec, wire, uri), tags=tags), spec)
    for index, epoch, view in ((0, 0, 0), (1, 10, 0), (3, 89, 0), (2, 5, 3)):
        key = Key(7, epoch, index, view) if spec.recipe == "train" else None
        tag = index if tags else None
        arguments = encode(Request(spec, key, wire, tag=tag))  # type: ignore[arg-type]
        expected = object_path(uri, MANIFEST.name(index), etl_name="e-train", etl_args=arguments)
        path, stated = paths.ask(MANIFEST.name(index), epoch, index, view)
        assert path == expected
        assert stated == (statement(f"/b/{MANIFEST.name(index)}", arguments) if tags else None)


def test_a_share_is_made_here_whoever_asks() -> None:
    half, again = (RemoteDataset(remote(Spec.train(), share=0.5)) for _ in range(2))
    chosen = [half._is_made_here(epoch, index) for epoch in range(50) for index in range(100)]
    assert chosen == [again._is_made_here(epoch, index) for epoch in range(50) for index in range(100)]
    assert 0.47 < np.mean(chosen) < 0.53
    assert not any(RemoteDataset(remote(Spec.train()))._is_made_here(0, index) for index in range(100))
    assert all(RemoteDataset(remote(Spec.train(), share=1.0))._is_made_here(0, index) for index in range(100))


def test_what_an_etl_calls_corrupt_is_looked_at_here(small_folder: Path) -> None:
    photo = (small_folder / "train" / "cat" / "0.jpg").read_bytes()
    spec = Spec.train(32)
    here = remote(spec)
    here = replace(here, manifest=Manifest.build([(b"train/cat/0.jpg", 0, len(photo))], ("cat",)))
    row = np.zeros((32, 32, 3), np.uint8)
    sample = Sample(row, 2, 0, "train/cat/0.jpg", 0, "h:1", "etl")
    fetcher = Fetcher[Sample](here.access)
    policy = SamplePolicy(here, fetcher, etl_paths(here, spec), spec)
    said = ObjectError(500, 'ETL error: {"detail":"CorruptSample: not an image: 0 bytes"}')
    for _ in range(2 * FAILURES):
        sample.stage = "etl"
        assert policy.on_response(sample, Get("", "h:1", 1.0, error=said)) == 0.0 and sample.stage == "local"
    assert not here.breakers.is_open(0)  # it may well be right
    assert policy.on_response(sample, Get("", "h:1", 1.0, body=bytearray(photo))) is None
    assert (row == transform(photo, spec, Key(7, 2, 0))).all()
    assert policy.counts["local"] == 1 and policy.counts["fallbacks"] == 2 * FAILURES
    sample.stage = "local"
    with pytest.raises(DataError, match=r"ais://b/train/cat/0\.jpg is truncated|is not an image"):
        policy.on_response(sample, Get("", "h:1", 1.0, body=bytearray(len(photo))))


def test_substitutes_are_the_others_of_the_class() -> None:
    first = list(substitutes(MANIFEST, 1, seed=3))
    assert sorted(first) == [2, 3] and first == list(substitutes(MANIFEST, 1, seed=3))
    assert list(substitutes(MANIFEST, 0, seed=3)) == []
    orders = {tuple(substitutes(MANIFEST, 1, seed=seed)) for seed in range(20)}
    assert orders == {(2, 3), (3, 2)}


def test_a_breaker_opens_after_failures_in_a_row() -> None:
    breakers = Breakers(2)
    for _ in range(FAILURES - 1):
        breakers.failed(1)
    breakers.record_success(1)
    breakers.failed(1)
    assert breakers.opened() == []
    assert [breakers.failed(1) for _ in range(FAILURES + 1)] == [*[False] * (FAILURES - 2), True, False, False]
    assert breakers.is_open(1) and not breakers.is_open(0) and breakers.opened() == [1]
    breakers.close(1)
    assert not breakers.is_open(1)
    breakers.ban()
    assert breakers.is_open(0) and breakers.opened() == []


def test_the_deadline_follows_the_typical_node() -> None:
    """Of three nodes, one late by a second: not waited for. All late: waited for, up to the limit."""
    breakers, random = Breakers(3), np.random.Generator(np.random.Philox(key=[1, 0]))

    def batch(*late_s: float) -> None:
        deadline_s = breakers.deadline_s(2.0)
        nodes = random.integers(0, 3, 48)
        seconds = random.uniform(0.02, 0.06, 48) + np.array(late_s)[nodes]
        breakers.record_latency(nodes.tolist(), np.minimum(seconds, deadline_s).tolist())

    assert breakers.deadline_s(2.0) == 2.0  # nothing is known yet
    breakers.record_latency([], [])
    for _ in range(20):
        batch(0, 0, 1)
        assert breakers.deadline_s(2.0) < 0.7
    again = pickle.loads(pickle.dumps(breakers))
    assert 0.2 <= again.deadline_s(2.0) == breakers.deadline_s(2.0) < 0.5
    assert breakers.deadline_s(0.1) == 0.1
    for _ in range(5):
        batch(1, 1, 1)
    assert breakers.deadline_s(2.0) == 2.0
    for _ in range(60):
        batch(0, 0, 0)
    assert breakers.deadline_s(2.0) < 0.5
    breakers.failed(0)
    breakers.close(0)
    assert breakers.deadline_s(2.0) < 0.5  # closing a breaker forgets failures, not times
    alone = Breakers(1)
    alone.record_latency([0] * 9, [0.01] * 9)
    assert alone.deadline_s(2.0) == 2.0  # there is no other node to compare it with


def test_latencies_add_up() -> None:
    latencies = Latencies()
    latencies.count("etl", [number / 1000 for number in range(1, 101)])
    latencies.count("object", [])
    again = Latencies.from_bytes(latencies.to_bytes())
    again.add(latencies)
    assert again.counts.sum() == 200
    for share, seconds in ((0.5, 0.05), (0.99, 0.099)):
        assert seconds <= again.quantile("etl", share) <= 1.19 * seconds
    assert again.quantile("object", 0.5) == 0
