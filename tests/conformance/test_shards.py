"""Samples of tar shards: those of the same shards on a disk, read by ranges and made by the ETL."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from aistore.sdk import Bucket, Client

from aistore_data.bucket.shards import read_shards
from aistore_data.bucket.store import AisStore, Entry
from aistore_data.client.access import Access
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import connect
from aistore_data.dataset.breaker import Breakers
from aistore_data.dataset.policy import Remote
from aistore_data.dataset.remote import RemoteDataset
from aistore_data.etls.lifecycle import EtlSettings, ensure
from aistore_data.etls.shard_index import EtlIndex
from etl.spec import Spec
from scripts.make_shards import main
from sources.samples import SampleDataset
from sources.shards.manifest import Shard, ShardManifest
from sources.shards.reader import ShardReader
from sources.shards.shard import Rows
from sources.shards.splits import ShardOptions, named, shard_splits
from tests.conformance.conftest import AIS, new_name
from tests.conftest import make_small_folder
from tests.unit.test_etl_shard_index import KINDS

SPEC = Spec.train(32)
KEYS = [(2, index) for index in range(36)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a small folder; twelve of training."""
    root = tmp_path_factory.mktemp("data")
    make_small_folder(root / "small")
    assert main([str(root / "small"), str(root / "shards"), "--samples", "3", "--workers", "1"]) == 0
    return root / "shards"


@pytest.fixture
def store(ais: AIS, bucket: Bucket, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AisStore:
    """A bucket into which the shards are put as docs/shards.md has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert len(bucket.put_files(str(folder), recursive=True, verbose=False)) >= 17
    return AisStore(f"ais://{bucket.name}", Access(ais.endpoint, ais.token))


@pytest.fixture(scope="module")
def etl(client: Client) -> Iterator[str]:
    """A running ETL of training samples; its name."""
    name, _ = ensure(client, new_name("shards"), "train", EtlSettings(num_workers=1), print)
    yield name
    client.etl(name).stop()
    client.etl(name).delete()


def opened(ais: AIS, store: AisStore, etl_name: str) -> RemoteDataset:
    found, in_parts = read_shards(store, "train/", "", print)
    manifest, _ = named((found, found), "", print, True)
    placement = Placement(connect(store.access), store.access.endpoint)
    return RemoteDataset(
        Remote(
            store.access,
            store.uri,
            manifest,
            placement,
            Breakers(len(placement.hosts)),
            SPEC,
            7,
            direct=ais.direct,
            etl_name=etl_name,
            tags=bool(etl_name),
            deadline_s=20.0,
            in_parts=in_parts,
        )
    )


@pytest.mark.parametrize("by", ["client", "etl"])
def test_samples_of_shards(ais: AIS, store: AisStore, folder: Path, by: str, etl: str) -> None:
    here = shard_splits(ShardOptions(str(folder)), print)[0]
    source, rows, expected = opened(ais, store, etl if by == "etl" else ""), *np.zeros((2, 36, 32, 32, 3), np.uint8)
    assert source.remote.manifest.sha256() == here.sha256() and not source.remote.in_parts
    counts = source.fill(KEYS, rows).counts
    SampleDataset(ShardReader(here), here, SPEC, 7).fill(KEYS, expected)
    assert np.array_equal(rows, expected)
    assert (counts.etl, counts.fallbacks, counts.retries) == (36 if by == "etl" else 0, 0, 0)


def indexed(store: AisStore, etl: str, said: list[str]) -> ShardManifest:
    """By the ETL alone; what it leaves out is missing."""
    index = EtlIndex(store.access, store.uri, 3, "", lambda: etl, said.append)

    def alone(listed: Mapping[Shard, Entry]) -> Iterator[tuple[Shard, Rows]]:
        found = dict(index.rows(listed))
        assert found.keys() == listed.keys(), said
        yield from found.items()

    return read_shards(store, "train/", "", print, alone)[0].manifest


def test_the_etl_indexes_shards(store: AisStore, folder: Path, etl: str) -> None:
    """It reads their files; a range of a shard tells its size and the checksum of the listing."""
    here, said = shard_splits(ShardOptions(str(folder)), print)[0], list[str]()
    there = indexed(store, etl, said)
    assert there.sha256() == here.sha256() and len(said) == 1
    for mine, its in zip(here.columns, there.columns, strict=True):
        assert np.array_equal(mine, its)


def test_every_kind_of_tar_is_indexed(store: AisStore, folder: Path, etl: str, tmp_path: Path) -> None:
    for number, kind in enumerate(("ustar", "gnu", "pax", "odd")):
        KINDS[kind][1](tmp_path / f"{number}.tar")
        store.put(f"train/{number}.tar", (tmp_path / f"{number}.tar").read_bytes())
    for name in ("classes.json", "index.json"):
        store.delete(f"train/{name}")
    there = indexed(store, etl, [])
    for entry in list(store.list(".imagenet-ais/")):
        store.delete(entry.name)
    assert read_shards(store, "train/", "", print)[0].manifest.to_bytes() == there.to_bytes()


def test_shards_that_were_uploaded_in_parts(ais: AIS, store: AisStore, bucket: Bucket, folder: Path, etl: str) -> None:
    """A listing tells of them, ranges are right, and an ETL is not asked."""
    if ais.embedded:
        pytest.skip("the embedded AIS keeps every object in one piece")
    item, content = bucket.object("train/train-000003.tar"), (folder / "train" / "train-000003.tar").read_bytes()
    upload = item.multipart_upload().create()
    for number, at in enumerate(range(0, len(content), 4096), 1):
        upload.add_part(number).put_content(content[at : at + 4096])
    upload.complete()
    source, rows, expected = opened(ais, store, etl), *np.zeros((2, 36, 32, 32, 3), np.uint8)
    assert source.remote.in_parts == {"train/train-000003.tar"}
    counts = source.fill(KEYS, rows).counts
    here = shard_splits(ShardOptions(str(folder)), print)[0]
    SampleDataset(ShardReader(here), here, SPEC, 7).fill(KEYS, expected)
    assert np.array_equal(rows, expected)
    assert (counts.etl, counts.local, counts.fallbacks, counts.retries) == (33, 3, 0, 0)
