"""Tar shards in a bucket: their index, photos read by ranges, and samples of an ETL, while shards change and answers break."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aistore_data.bucket import shards
from aistore_data.bucket.layout import index_name
from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.shards import read_shards
from aistore_data.bucket.store import AisStore, Entry
from aistore_data.client.access import Access
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import connect, make_client
from aistore_data.dataset import policy
from aistore_data.dataset.breaker import Breakers
from aistore_data.dataset.policy import Remote
from aistore_data.dataset.remote import RemoteDataset
from aistore_data.embedded import EmbeddedAIS
from aistore_data.etls.asking import knows_shards, knows_tags, prove
from aistore_data.etls.kept import PodCaches
from aistore_data.etls.lifecycle import EtlSettings, ensure
from aistore_data.etls.monitor import EtlMonitor
from etl.spec import Spec
from scripts.make_shards import main
from sources.batch import Counts
from sources.errors import ClusterError, DataError, ObjectError, UserError
from sources.samples import SampleDataset
from sources.shards.manifest import ShardManifest, in_memory
from sources.shards.reader import ShardReader
from sources.shards.splits import ShardOptions, named, shard_splits
from tests.conftest import make_small_folder
from tests.support.link import Fault, Link, links_to

SPEC = Spec.train(32)
KEYS = [(1, index) for index in range(36)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of a small folder; six of training."""
    root = tmp_path_factory.mktemp("data")
    make_small_folder(root / "small")
    assert main([str(root / "small"), str(root / "shards"), "--samples", "7", "--workers", "1"]) == 0
    return root / "shards"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAIS]:
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as server:
        yield server


@pytest.fixture
def store(
    server: EmbeddedAIS, folder: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AisStore:
    """A bucket with the training shards, and the names of the classes; of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = AisStore(f"ais://b{abs(hash(request.node.nodeid))}", Access(server.endpoint, server.token))
    store.create()
    for path in (folder / "train").iterdir():
        if path.is_file() and path.name != "index.json":
            store.put(f"train/{path.name}", path.read_bytes())
    return store


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that have been read for an index."""
    names: list[str] = []
    real = shards._rows
    monkeypatch.setattr(shards, "_rows", lambda *args: names.append(args[-1].name) or real(*args))
    return names


def opened(store: AisStore, said: list[str] | None = None) -> ShardManifest:
    found, _ = read_shards(store, "train/", "", (said if said is not None else []).append)
    return named((found, found), "", print, True)[0]


def dataset(store: AisStore, manifest: ShardManifest, **options: Any) -> RemoteDataset:
    access = options.pop("access", store.access)
    placement = Placement(connect(access), access.endpoint)
    return RemoteDataset(Remote(access, store.uri, manifest, placement, Breakers(1), SPEC, 7, direct=True, **options))


def local(folder: Path) -> np.ndarray:
    manifest = shard_splits(ShardOptions(str(folder)), print)[0]
    return pixels(SampleDataset(ShardReader(manifest), manifest, SPEC, 7))


def pixels(source: Any) -> np.ndarray:
    rows = np.zeros((len(KEYS), 32, 32, 3), np.uint8)
    source.fill(KEYS, rows)
    return rows


def refused(work: Callable[[], object], kind: type[UserError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        work()
    text = str(caught.value)
    assert text.isprintable() and text.endswith(".")
    return text


def put_changed(store: AisStore, folder: Path, change: Callable[[bytearray], bytes | bytearray]) -> None:
    content = bytearray((folder / "train" / "train-000002.tar").read_bytes())
    store.put("train/train-000002.tar", bytes(change(content)))


def flip(content: bytearray) -> bytearray:
    content[512 + 200] ^= 1
    return content


def move(content: bytearray) -> bytearray:
    """The members one block later, behind an empty one."""
    header = bytearray(content[:512])
    header[:10], header[124:136] = b"0empty.txt", b"00000000000\0"
    header[10:100], header[148:156] = bytes(90), b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    assert not any(content[-512:])
    return header + content[:-512]


def test_the_samples_are_those_of_local_shards(store: AisStore, folder: Path) -> None:
    manifest, here = opened(store), shard_splits(ShardOptions(str(folder)), print)[0]
    assert manifest.sha256() == here.sha256() and manifest.classes == here.classes
    assert [manifest.name(at) for at in range(36)] == [here.name(at) for at in range(36)]
    source = dataset(store, manifest)
    assert np.array_equal(pixels(source), local(folder))
    assert source.locate(0) == f"cat/0.jpg in {store.uri}/{manifest.shard_of(0).name}"


def test_an_index_is_kept_in_the_bucket_and_of_what_changed_alone_made_anew(
    store: AisStore, folder: Path, read: list[str]
) -> None:
    first = opened(store)
    assert sorted(read) == [f"train/train-{number:06d}.tar" for number in range(6)]
    assert store.get(index_name("train/", "")) == first.to_bytes()
    assert opened(store).sha256() == first.sha256() and len(read) == 6
    put_changed(store, folder, flip)
    again = opened(store)
    assert read[6:] == ["train/train-000002.tar"] and again.sha256() == first.sha256()
    assert (again.columns.crc32 != first.columns.crc32).sum() == 1
    store.delete("train/train-000005.tar")
    assert len(opened(store)) < 36 and len(read) == 7


def test_an_index_that_is_damaged_or_contradicts_itself_is_made_anew(store: AisStore, read: list[str]) -> None:
    first, name = opened(store), index_name("train/", "")
    good = first.to_bytes()
    number = np.arange(36)

    def image(**columns: Any) -> bytes:
        return in_memory(first.columns._replace(**columns), first.shards, Path(), ()).to_bytes()

    digest = first.sha256().encode()
    for bad, said in (
        (b"x" * 200, "of another version"),
        (good[:-64], "damaged"),
        (image(offsets_in=np.full(36, 1 << 40)), "photos that lie outside their shards"),
        (image(offsets_in=np.full(36, 0)), "photos that lie outside their shards"),
        (image(shard=np.full(36, 99)), "labels, or shards, that there are not"),
        (image(labels=number + 10**6), "labels, or shards, that there are not"),
        (first.columns.chosen(number[::-1]), "its hash or its order is not that of its samples"),
        (good.replace(digest, b"0" * 64), "its hash or its order is not that of its samples"),
        (good.replace(b'"train/train-000002.tar"', b"[1234567890123456789]   "), "damaged"),
    ):
        bad = bad if isinstance(bad, bytes) else in_memory(bad, first.shards, Path(), ()).to_bytes()
        store.put(name, bad)
        told: list[str] = []
        assert opened(store, told).sha256() == first.sha256()
        assert any(f"{store.uri}/train/ cannot be used, as " in line for line in told), told
        assert said in told[0] or said == "damaged"
        assert store.get(name) == good
    assert len(read) == 6 * 10


def test_an_index_of_a_read_only_bucket_lies_in_the_cache(
    store: AisStore, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: AisStore, name: str, content: bytes) -> None:
        raise ObjectError(403, "access denied")

    monkeypatch.setattr(AisStore, "put", refuse)
    assert opened(store).sha256() == opened(store).sha256() and len(read) == 6


def test_what_was_read_is_kept_when_a_later_shard_is_bad(store: AisStore, folder: Path, read: list[str]) -> None:
    store.put("train/train-000004.tar", (folder / "train" / "train-000004.tar").read_bytes()[:700])
    text = refused(lambda: opened(store))
    assert text.startswith(f"{store.uri}/train/train-000004.tar is cut off") and len(read) == 5
    store.put("train/train-000004.tar", (folder / "train" / "train-000004.tar").read_bytes())
    assert len(opened(store)) == 36 and read[5:] == ["train/train-000004.tar", "train/train-000005.tar"]


def test_no_shards_and_both_layouts(store: AisStore, folder: Path) -> None:
    with pytest.raises(UserError, match=r"holds no images .* It holds tar shards, which data\.layout=shards reads\."):
        read_manifest(store, "train/")
    store.put("train/cat/0.jpg", b"x")
    said: list[str] = []
    assert len(opened(store, said)) == 36
    assert said == [f"{store.uri}/train holds 1 photos beside its shards, which data.layout=shards leaves out"]
    assert f"{store.uri}/val holds no tar shards" in refused(lambda: read_shards(store, "val/", "", print), UserError)
    store.put("train/a.tar", b"")
    assert "train/a.tar is empty: upload it again" in refused(lambda: opened(store))


def test_the_list_beside_the_shards_is_compared(store: AisStore, folder: Path, read: list[str]) -> None:
    text = (folder / "train" / "index.json").read_text()
    store.put("train/index.json", text.encode())
    assert len(opened(store)) == 36
    store.put("train/index.json", text.replace('"nsamples": 1', '"nsamples": 2').encode())
    assert " holds 1 photos, and " in refused(lambda: opened(store)) and len(read) == 6
    store.put("train/index.json", text.encode())
    store.delete("train/train-000004.tar")
    said = (
        f"{store.uri}/train/train-000004.tar is missing, and {store.uri}/train/index.json lists it: upload the shards"
    )
    assert said in refused(lambda: opened(store)) and len(read) == 6
    put = (folder / "train" / "train-000004.tar").read_bytes()
    store.put("train/train-000004.tar", put)
    store.put("train/x.tar", put)
    assert f"train/x.tar is there, and {store.uri}/train/index.json does not list it" in refused(lambda: opened(store))
    store.put("train/index.json", b"[]")
    assert "train/index.json is not a list of shards" in refused(lambda: opened(store))


def test_a_shard_that_was_changed_while_it_was_read(
    store: AisStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = flip(bytearray((folder / "train" / "train-000002.tar").read_bytes()))
    for content in (bytes(other), bytes(other[:-512]), bytes(other) + b"more"):
        monkeypatch.setattr(AisStore, "read", lambda self, name, content=content: iter([content]))
        assert "did not come as it was listed a moment ago" in refused(lambda: opened(store))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (move, "was changed since it was indexed: another member lies at byte "),
        (lambda content: content + bytes(10240), "was changed since it was indexed: it has "),
        (lambda content: content[:600], "was changed since it was indexed: it has no byte "),
    ],
    ids=["moved", "longer", "shorter"],
)
def test_a_shard_that_is_overwritten_ends_the_run(
    store: AisStore, folder: Path, change: Callable[[bytearray], bytes], said: str
) -> None:
    source = dataset(store, opened(store), replace=True)
    put_changed(store, folder, change)
    text = refused(lambda: pixels(source))
    assert text.startswith(f"{store.uri}/train/train-000002.tar {said}"), text


def test_a_photo_that_is_overwritten_is_damaged(store: AisStore, folder: Path) -> None:
    manifest, right = opened(store), local(folder)
    put_changed(store, folder, flip)
    said = "is damaged, or overwritten in its shard: its CRC-32 is not the one that was indexed. Look at it with: curl "
    assert said in refused(lambda: pixels(dataset(store, manifest)))
    source, rows = dataset(store, manifest, replace=True), np.zeros_like(right)
    [replaced] = source.fill(KEYS, rows).replaced
    others = [at for at in range(36) if at != replaced.sample]
    assert np.array_equal(rows[others], right[others]) and "overwritten in its shard" in replaced.reason


def test_a_shard_that_is_missing_ends_the_run_and_one_that_returns_does_not(
    store: AisStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dataset(store, opened(store), replace=True)
    store.delete("train/train-000002.tar")
    real = policy.SamplePolicy._wait

    def back(self: Any, sample: Any, get: Any, error: Any) -> float | None:
        if sample.tries == 2:
            put_changed(store, folder, lambda content: content)
        return real(self, sample, get, error)

    with monkeypatch.context() as patch:
        patch.setattr(policy.SamplePolicy, "_wait", back)
        assert np.array_equal(pixels(source), local(folder))
    store.delete("train/train-000002.tar")
    monkeypatch.setattr(policy, "GONE_S", 0.0)
    text = refused(lambda: pixels(source))
    assert text.startswith(f"{store.uri}/train/train-000002.tar does not exist any more, and did when it was listed.")


@pytest.fixture
def links(server: EmbeddedAIS) -> Iterator[list[Link]]:
    access = Access(server.endpoint, server.token)
    links = links_to(server.endpoint, Placement(connect(access), access.endpoint).hosts)
    yield links
    for link in links:
        link.close()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("cut", "/train/"),
        Fault("short", "/train/"),
        Fault("alter", "/train/"),
        Fault("empty", "/train/"),
        Fault("reset", "/train/"),
        Fault("status", "/train/", code=503),
        Fault("status", "/train/", code=404, body=b'{"message":"ais://b/train does not exist"}'),
        Fault("status", "/train/", code=200, body=bytes(1 << 20)),
    ],
    ids=["cut", "short", "alter", "empty", "reset", "503", "404", "whole"],
)
def test_answers_that_break_are_asked_for_again(store: AisStore, folder: Path, links: list[Link], fault: Fault) -> None:
    access = replace(store.access, endpoint=f"http://{links[0].host}")
    source, gate = dataset(store, opened(store), access=access), links[1].gate
    gate.quiet()
    gate.fault = fault
    gate.at[4] = lambda: setattr(gate, "fault", None)
    rows = np.zeros((len(KEYS), 32, 32, 3), np.uint8)
    counts = source.fill(KEYS, rows).counts
    assert np.array_equal(rows, local(folder)) and counts.retries > 0 and counts.replaced == 0


def test_a_server_that_knows_no_ranges_is_no_source(store: AisStore, links: list[Link]) -> None:
    access = replace(store.access, endpoint=f"http://{links[0].host}")
    source = dataset(store, opened(store), access=access)
    links[1].gate.fault = Fault("status", "/train/", code=200, body=bytes(1 << 20))
    assert "the answer is the whole object, and not the part that was asked for" in refused(lambda: pixels(source))


def test_a_part_that_never_comes_is_told(store: AisStore, links: list[Link]) -> None:
    source = dataset(store, opened(store), access=replace(store.access, endpoint=f"http://{links[0].host}"))
    links[1].gate.fault = Fault("short", "/train/")
    assert ".tar did not come: the answer is not the part of the shard that was asked for. Look" in refused(
        lambda: pixels(source)
    )


def test_shards_of_a_folder_without_names_of_classes_have_numbers(
    store: AisStore, folder: Path, tmp_path: Path
) -> None:
    store.delete("train/classes.json")
    assert opened(store).classes == ("0", "1", "2")
    shutil.copytree(folder / "train", tmp_path / "train")
    store.put("train/classes.json", b"{}")
    assert "train/classes.json is not a list of class names" in refused(lambda: opened(store), UserError)


@pytest.fixture(scope="module")
def etl(server: EmbeddedAIS) -> Iterator[str]:
    """A running ETL of training samples; its name."""
    name, _ = ensure(
        make_client(Access(server.endpoint, server.token)), "imagenet-train", "train", EtlSettings(num_workers=1), print
    )
    yield name


def remote(store: AisStore, etl: str, **options: Any) -> RemoteDataset:
    return dataset(store, opened(store), etl_name=etl, tags=True, deadline_s=20.0, **options)


def made(source: RemoteDataset) -> tuple[np.ndarray, Counts]:
    rows = np.zeros((len(KEYS), 32, 32, 3), np.uint8)
    return rows, source.fill(KEYS, rows).counts


def test_the_etl_makes_the_samples_of_local_shards(store: AisStore, folder: Path, etl: str) -> None:
    rows, counts = made(remote(store, etl, audit_every=8))
    assert np.array_equal(rows, local(folder))
    assert (counts.etl, counts.local, counts.audits, counts.fallbacks, counts.retries) == (36, 0, 1, 0, 0)
    rows, counts = made(remote(store, etl, local_share=0.5))
    assert np.array_equal(rows, local(folder)) and counts.etl + counts.local == 36 and counts.etl and counts.local


def test_the_etl_is_proved_and_watched(store: AisStore, etl: str) -> None:
    source, reader = remote(store, etl), HttpReader(store.access)
    manifest = source.remote.manifest
    assert knows_shards(reader, store.uri, manifest, etl) and knows_tags(reader, store.uri, manifest, etl)
    assert prove(reader, store.uri, manifest, etl, SPEC, 1, True) == 2
    assert prove(reader, store.uri, manifest, etl, SPEC, 1, True, {shard.name for shard in manifest.shards}) == 0
    monitor = EtlMonitor([(source.remote, None)], print)
    assert monitor._works(source.remote, 0) and len(monitor._get(source.remote, 0) or b"") == 1
    caches = PodCaches(source.remote)
    assert any("IMAGENET_AIS_CACHE_GB" in line for line in caches.beginning()) and caches._average_bytes() > 0


def test_an_etl_of_a_former_version_is_not_asked(store: AisStore, links: list[Link], etl: str) -> None:
    reader = HttpReader(replace(store.access, endpoint=f"http://{links[0].host}"))
    links[1].gate.fault = Fault("status", "etl_args=.*%22at%22", code=400)
    assert not knows_shards(reader, store.uri, opened(store), etl)
    links[1].gate.fault = Fault("status", "etl_args=.*%22at%22", code=500)
    with pytest.raises(ClusterError, match="train-00000.*injected"):
        knows_shards(reader, store.uri, opened(store), etl)
    links[1].gate.fault = Fault("reset", "etl_args=")
    with pytest.raises(ClusterError, match="does not answer for .*train-00000.*reset"):
        knows_shards(reader, store.uri, opened(store), etl)
    with pytest.raises(ClusterError, match="does not answer for .*train-00000.*reset"):
        prove(reader, store.uri, opened(store), etl, SPEC, 1)


def test_an_etl_that_fails_costs_no_sample(store: AisStore, folder: Path, links: list[Link], etl: str) -> None:
    access = replace(store.access, endpoint=f"http://{links[0].host}")
    for fault in (Fault("status", "etl_name="), Fault("cut", "etl_name="), Fault("alter", "etl_name=")):
        source = remote(store, etl, access=access, audit_every=1)
        links[1].gate.fault = fault
        rows, counts = made(source)
        links[1].gate.fault = None
        assert np.array_equal(rows, local(folder)) and counts.fallbacks + counts.local > 0


def test_shards_in_parts_are_read_here(
    store: AisStore,
    folder: Path,
    etl: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = AisStore.list

    def listed(self: AisStore, prefix: str) -> Iterator[Entry]:
        for entry in real(self, prefix):
            yield entry._replace(in_parts=entry.name.endswith("2.tar"))

    monkeypatch.setattr(AisStore, "list", listed)
    _, in_parts = read_shards(store, "train/", "", print)
    assert in_parts == {"train/train-000002.tar"}
    rows, counts = made(remote(store, etl, in_parts=in_parts))
    assert np.array_equal(rows, local(folder))
    assert (counts.etl, counts.local, counts.fallbacks) == (36 - 7, 7, 0)


def test_a_shard_that_is_overwritten_is_no_sample_and_no_fault_of_the_etl(
    store: AisStore,
    folder: Path,
    etl: str,
) -> None:
    source, whole = remote(store, etl), local(folder)
    put_changed(store, folder, flip)
    assert "its CRC-32 is not the one that was indexed" in refused(lambda: pixels(source))
    replaced = remote(store, etl, replace=True)
    put_changed(store, folder, lambda content: content)
    replaced = replace(replaced.remote, manifest=opened(store))
    put_changed(store, folder, flip)
    rows = np.zeros_like(whole)
    [other] = RemoteDataset(replaced).fill(KEYS, rows).replaced
    others = [at for at in range(36) if at != other.sample]
    assert np.array_equal(rows[others], whole[others]) and not replaced.breakers.opened()
    put_changed(store, folder, move)
    text = refused(lambda: pixels(source))
    assert text.startswith(f"{store.uri}/train/train-000002.tar was changed since it was indexed: another member lies")
