"""Tar shards of a cloud's bucket, as AIStore lists and gives them: other checksums, and objects that it does not have yet."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aistore_data.bucket.shards import read_shards
from aistore_data.bucket.store import AisStore, Entry
from aistore_data.client.access import Access
from aistore_data.dataset import policy
from aistore_data.embedded import EmbeddedAIS
from sources.errors import DataError, ObjectError
from tests.support.link import Fault, Link
from tests.unit.test_bucket_shards import dataset, flip, folder, links, local, made, opened, pixels, put_changed, read
from tests.unit.test_etl_shard_index import by, etl, server

__all__ = ["etl", "folder", "links", "read", "server"]


@pytest.fixture
def store(
    server: EmbeddedAIS, folder: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AisStore:
    """A bucket that says it is a cloud's: its listing has MD5, and after an object was read AIStore's own checksum."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = AisStore(f"ais://c{abs(hash(request.node.nodeid))}", Access(server.endpoint, server.token))
    store.create()
    for path in (folder / "train").glob("*.*"):
        if path.is_file() and path.name != "index.json":
            store.put(f"train/{path.name}", path.read_bytes())
    listed, real = set[str](), AisStore.list

    def entries(self: AisStore, prefix: str) -> Iterator[Entry]:
        for entry in list(real(self, prefix)):
            md5 = hashlib.md5(self.get(entry.name)).hexdigest()
            yield entry if entry.name in listed else entry._replace(checksum=md5)
            listed.add(entry.name)

    monkeypatch.setattr(AisStore, "is_cloud", True)
    monkeypatch.setattr(AisStore, "list", entries)
    return store


@pytest.mark.parametrize("reader", ["client", "etl"])
def test_an_index_is_bound_to_sizes_alone(
    store: AisStore, folder: Path, etl: str, read: list[str], reader: str
) -> None:
    said: list[str] = []
    asked = by(store, etl, "", said).rows if reader == "etl" else None
    first = read_shards(store, "train/", "", print, asked)[0].manifest
    assert {shard.stamp for shard in first.shards} == {0} and len(read) == (0 if asked else 6)
    assert not any("not indexed" in line for line in said)
    again = read_shards(store, "train/", "", print, asked)[0].manifest  # which lists other checksums
    assert again.to_bytes() == first.to_bytes() and len(read) == (0 if asked else 6)
    store.put("train/train-000002.tar", (folder / "train" / "train-000002.tar").read_bytes() + bytes(10240))
    read_shards(store, "train/", "", print, asked)
    assert read[6:] == ([] if asked else ["train/train-000002.tar"])


def test_what_is_overwritten_by_as_many_bytes_is_seen_when_it_is_read(store: AisStore, folder: Path, etl: str) -> None:
    manifest = opened(store)
    put_changed(store, folder, flip)
    assert opened(store).to_bytes() == manifest.to_bytes()
    for name in ("", etl):
        source = dataset(store, manifest, etl_name=name, tags=bool(name), deadline_s=20.0)
        with pytest.raises(DataError, match="overwritten in its shard: its CRC-32 is not the one that was indexed"):
            pixels(source)


@pytest.mark.parametrize("reader", ["client", "etl"])
def test_shards_that_must_be_fetched_from_the_cloud_first_are_waited_for(
    store: AisStore, folder: Path, links: list[Link], etl: str, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answers take longer than any deadline."""
    monkeypatch.setattr(policy, "RAW_TIMEOUT_S", 0.2)
    access, name = replace(store.access, endpoint=f"http://{links[0].host}"), etl if reader == "etl" else ""
    source, gate = (
        dataset(store, opened(store), access=access, etl_name=name, tags=bool(name), deadline_s=0.2),
        links[1].gate,
    )
    gate.quiet()
    gate.fault = Fault("delay", r"train-00000[0-4]\.tar", seconds=0.5)
    gate.at[20] = lambda: setattr(gate, "fault", None)
    rows, counts = made(source)
    assert np.array_equal(rows, local(folder)) and counts.retries > 0 and counts.replaced == 0


def test_an_index_of_a_bucket_that_takes_none_lies_in_the_cache(
    store: AisStore, etl: str, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: AisStore, name: str, content: bytes) -> None:
        raise ObjectError(403, "AccessDenied")

    monkeypatch.setattr(AisStore, "put", refuse)
    first = read_shards(store, "train/", "", print, by(store, etl).rows)[0].manifest
    assert opened(store).sha256() == first.sha256() and read == []
