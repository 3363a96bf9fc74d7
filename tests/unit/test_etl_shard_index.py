"""The index of a tar shard that an ETL's pod makes: that which this machine reads, or none."""

import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aistore_data.bucket import shards
from aistore_data.bucket.shards import read_shards
from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.etls import shard_index
from aistore_data.etls.asking import knows_index
from aistore_data.etls.lifecycle import EtlSettings, ensure
from aistore_data.etls.shard_index import EtlIndex
from etl.request import BadRequest, encode_index, parse
from etl.shard_index import MOST_BYTES, index_of, packed, unpacked
from sources.errors import ClusterError, DataError
from sources.shards.shard import read_shard
from tests.support.link import Fault, Link
from tests.unit.test_bucket_shards import links, read
from tests.unit.test_shards import PHOTO, tar_of

__all__ = ["links", "read"]

LONG = f"{'d' * 90}/{'x' * 60}"
SAMPLES = [
    ("b.jpg", PHOTO),
    ("b.cls", b"3\n"),
    ("notes.txt", b"left out"),
    (f"{LONG}.JPEG", PHOTO[:7]),
    (f"{LONG}.CLS", b"1"),
]
JSON = [
    ("a.jpg", PHOTO),
    ("a.json", b'{"label": 4}'),
    ("a.cls", b"4"),
    ("b/c.png", PHOTO[:99]),
    ("b/c.json", b'{"label": 0}'),
]
FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def with_odd_members(path: Path) -> None:
    """Links, folders, a name that is no UTF-8, one that a long one of GNU's precedes, and an empty photo."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for kind, name in ((tarfile.DIRTYPE, "caf\xe9"), (tarfile.SYMTYPE, "x.jpg"), (tarfile.LNKTYPE, "y.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "b.jpg"
            tar.addfile(member)
        for name, data in (
            ("caf\xe9/1.jpg", PHOTO),
            ("caf\xe9/1.cls", b"2"),
            (f"{'g' * 200}.jpg", b""),
            (f"{'g' * 200}.cls", b"7"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


KINDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    **{name: ("", lambda path, form=form: tar_of(path, SAMPLES, form)) for name, form in FORMS.items()},
    "odd": ("", with_odd_members),
    "json": ("label", lambda path: tar_of(path, JSON)),
    "json and cls": ("", lambda path: tar_of(path, JSON[:3])),
}
"""Kinds of shards: the field of their labels, and what writes one."""

GOOD = "ustar"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAIS]:
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as server:
        yield server


@pytest.fixture(scope="module")
def etl(server: EmbeddedAIS) -> str:
    """A running ETL; its name."""
    client = make_client(Access(server.endpoint, server.token))
    return ensure(client, "imagenet-train", "train", EtlSettings(num_workers=1), print)[0]


@pytest.fixture
def store(
    server: EmbeddedAIS, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AisStore:
    """An empty bucket of this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = AisStore(f"ais://i{abs(hash(request.node.nodeid))}", Access(server.endpoint, server.token))
    store.create()
    return store


def put(store: AisStore, tmp_path: Path, *kinds: str) -> None:
    for number, kind in enumerate(kinds):
        KINDS[kind][1](tmp_path / "x.tar")
        store.put(f"train/{number}.tar", (tmp_path / "x.tar").read_bytes())


def by(
    store: AisStore, etl: str, label_field: str = "", said: list[str] | None = None, access: Access | None = None
) -> EtlIndex:
    said = [] if said is None else said
    return EtlIndex(access or store.access, store.uri, 1, label_field, lambda: etl, said.append)


def image(store: AisStore, label_field: str = "", by_etl: EtlIndex | None = None) -> bytes:
    """What is kept of the index; it is made anew."""
    for entry in list(store.list(".imagenet-ais/")):
        store.delete(entry.name)
    found, _ = read_shards(store, "train/", label_field, print, by_etl.rows if by_etl else None)
    return found.manifest.to_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_index_that_this_machine_reads(
    store: AisStore, etl: str, tmp_path: Path, read: list[str], kind: str
) -> None:
    label_field, said = KINDS[kind][0], list[str]()
    put(store, tmp_path, kind)
    here = image(store, label_field)
    read.clear()
    assert image(store, label_field, by(store, etl, label_field, said)) == here
    assert read == [] and said == [f"{store.uri}: ETL {etl} indexes 1 shards"]


def test_members_are_told_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    data = tar_of(path, SAMPLES)
    found = unpacked(index_of(str(path), parse(encode_index("cls", 1), "val")), len(data))
    assert [one.member.name.decode() for one in found] == [name for name, _ in SAMPLES]
    for one, (name, content) in zip(found, SAMPLES, strict=True):
        assert data[one.member.offset : one.member.offset + one.member.size] == content
        assert one.crc32 == zlib.crc32(content)
        assert one.content == (content if name.lower().endswith(".cls") else None)
    rows = read_shard(str(path))
    assert rows.header_sums.tolist() == [one.member.header_sum for one in found if one.member.name in rows.names]


def test_what_is_no_shard_is_told_in_the_words_of_this_machine(
    store: AisStore, etl: str, tmp_path: Path, read: list[str]
) -> None:
    data = tar_of(tmp_path / "x.tar", SAMPLES)
    sparse = tarfile.TarInfo("s.jpg")
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 0
    for content in (
        data[:1000],
        data[:5632],
        data + data,
        data[:2048].replace(b"b.cls", b"z.cls") + data[2048:],
        sparse.tobuf(tarfile.GNU_FORMAT) + bytes(10240),
        zlib.compress(data),
        b"\x1f\x8b" + data,
        b"PK\3\4" + data,
        tar_of(tmp_path / "y.tar", SAMPLES[:1]),
        tar_of(tmp_path / "y.tar", [*SAMPLES, ("b.png", PHOTO)]),
        tar_of(tmp_path / "y.tar", [("../a.jpg", PHOTO), ("../a.cls", b"1")]),
        tar_of(tmp_path / "y.tar", [("a.jpg", PHOTO), ("a.cls", b"1" * 65)]),
    ):
        store.put("train/0.tar", content)
        texts = []
        for asked in (None, by(store, etl)):
            with pytest.raises(DataError) as caught:
                image(store, "", asked)
            texts.append(str(caught.value))
        assert texts[0] == texts[1] and texts[0].startswith(f"{store.uri}/train/0.tar"), texts
    assert len(read) == 2 * 12


@pytest.mark.parametrize(
    "fault",
    [
        Fault("cut", "wire"),
        Fault("short", "wire"),
        Fault("alter", "wire"),
        Fault("empty", "wire"),
        Fault("reset", "wire"),
        Fault("status", "wire.*index", code=500),
        Fault("status", "wire.*index", code=400),
        Fault("status", "wire", code=200, body=bytes(1000)),
        Fault("status", r"0\.tar\?(?!.*etl_name)", code=404),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.code}",
)
def test_answers_that_break_cost_nothing_but_time(
    store: AisStore, etl: str, tmp_path: Path, links: list[Link], read: list[str], fault: Fault
) -> None:
    put(store, tmp_path, GOOD, "odd")
    here, access, said = image(store), replace(store.access, endpoint=f"http://{links[0].host}"), list[str]()
    read.clear()
    links[1].gate.fault = replace(fault, part="%3A%22index%22") if fault.part == "wire" else fault
    assert image(store, "", by(store, etl, "", said, access)) == here
    assert sorted(read) == (["train/0.tar"] if "0" in fault.part else ["train/0.tar", "train/1.tar"])
    assert f"ETL {etl} has not indexed {len(read)} of 2 shards, like {store.uri}/train/" in said[1], said


def test_who_answers_nothing_is_not_asked_for_long(
    store: AisStore, etl: str, tmp_path: Path, links: list[Link], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, tmp_path, *[GOOD] * 8)
    here, access, said = image(store), replace(store.access, endpoint=f"http://{links[0].host}"), list[str]()
    monkeypatch.setattr(shard_index, "_LEAST_S", 0.05)
    links[1].gate.quiet()
    links[1].gate.fault = Fault("hang", "%3A%22index%22", seconds=60)
    assert image(store, "", by(store, etl, "", said, access)) == here
    assert links[1].gate.requests < 7 and "has not indexed 8 of 8 shards" in said[1] and "no answer within" in said[1]


def test_a_shard_that_is_overwritten_meanwhile_is_not_believed(
    store: AisStore, etl: str, tmp_path: Path, links: list[Link], read: list[str]
) -> None:
    put(store, tmp_path, GOOD)
    access, said = replace(store.access, endpoint=f"http://{links[0].host}"), list[str]()
    content = bytearray(store.get("train/0.tar"))
    content[600] ^= 1
    links[1].gate.quiet()
    links[1].gate.at[2] = lambda: store.put("train/0.tar", bytes(content))  # behind the question what the ETL knows
    with pytest.raises(DataError, match="did not come as it was listed a moment ago"):
        image(store, "", by(store, etl, "", said, access))
    assert "the shard has another checksum than when it was listed" in said[1] and read == ["train/0.tar"]
    store.put("train/0.tar", bytes(content) + bytes(512))
    listed = {shard: entry._replace(size=entry.size - 512) for shard, entry in _listed(store).items()}
    shorter = {shard._replace(size=shard.size - 512): entry for shard, entry in listed.items()}
    assert list(by(store, etl, "", said).rows(shorter)) == []
    assert "the ETL sees a shard of " in said[3]


def _listed(store: AisStore) -> dict[shards.Shard, shards.Entry]:
    return shards._list(store, "train/").entries


def test_an_etl_of_a_former_version_is_not_asked(
    store: AisStore, etl: str, tmp_path: Path, links: list[Link], read: list[str]
) -> None:
    put(store, tmp_path, GOOD)
    access, said = replace(store.access, endpoint=f"http://{links[0].host}"), list[str]()
    assert knows_index(HttpReader(access), store.uri, "train/0.tar", etl)
    links[1].gate.fault = Fault("status", "labels", code=400)
    image(store, "", by(store, etl, "", said, access))
    assert read == ["train/0.tar"]
    assert said == [f"ETL {etl} runs the code of a former version, which indexes no shards: this machine reads them"]
    links[1].gate.fault = Fault("status", "labels", code=500)
    with pytest.raises(ClusterError, match="train/0.tar: injected"):
        image(store, "", by(store, etl, "", said, access))


def test_shards_that_an_etl_does_not_see_whole_are_read_here(
    store: AisStore, etl: str, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, tmp_path, GOOD, GOOD)
    store.put("train/a?b.tar", store.get("train/0.tar"))
    real = AisStore.list
    monkeypatch.setattr(
        AisStore,
        "list",
        lambda self, prefix: (entry._replace(in_parts=entry.name == "train/1.tar") for entry in real(self, prefix)),
    )
    image(store, "", by(store, etl))
    assert sorted(read) == ["train/1.tar", "train/a?b.tar"]
    read.clear()
    store.delete("train/0.tar")

    def start() -> str:
        raise AssertionError("an ETL was started for nothing")

    image(store, "", EtlIndex(store.access, store.uri, 1, "", start, print))
    assert len(read) == 2


def test_an_index_that_cannot_be_true_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    size = len(tar_of(path, SAMPLES))
    good = index_of(str(path), parse(encode_index("cls", 1), "val"))
    numbers = np.frombuffer(good, "<i8", 6 * 5, 48).reshape(6, 5)
    rest = good[48 + numbers.nbytes :]

    def changed(row: int, column: int, value: int) -> bytes:
        copy = numbers.copy()
        copy[row, column] = value
        return packed(size, 5, copy.tobytes() + rest)

    assert packed(size, 5, numbers.tobytes() + rest) == good and len(unpacked(good, size)) == 5
    for bad, said in (
        (b"", "is not the index"),
        (b"x" * 500, "is not the index"),
        (good[:-1], "is damaged"),
        (good + b"x", "is damaged"),
        (good[:300] + bytes([good[300] ^ 1]) + good[301:], "is damaged"),
        (packed(size + 512, 5, good[48:]), "sees a shard of"),
        (packed(size, -1, good[48:]), "is damaged"),
        (packed(size, 1 << 60, good[48:]), "is damaged"),
        (packed(size, 4, good[48:]), "numbers that no shard has|lie in each other|other names"),
        (changed(0, 0, 0), "numbers that no shard has"),
        (changed(0, 0, 1 << 62), "numbers that no shard has"),
        (changed(1, 0, 0), "numbers that no shard has"),
        (changed(1, 0, 513), "lie in each other"),
        (changed(1, 1, 512), "lie in each other"),
        (changed(1, 4, size + 512), "numbers that no shard has"),
        (changed(2, 4, size), "lie in each other, or outside"),
        (changed(2, 0, -1), "numbers that no shard has"),
        (changed(3, 0, 0), "numbers that no shard has"),
        (changed(4, 0, 1 << 32), "numbers that no shard has"),
        (changed(5, 1, 1), "other names or contents"),
        (changed(5, 1, -1), "other names or contents"),
        (packed(size, 5, numbers.tobytes() + b"\0" + rest[1:]), "names with zeros"),
        (packed(size, 5, numbers.tobytes() + rest + b"1"), "other names or contents"),
    ):
        with pytest.raises(ValueError, match=said):
            unpacked(bad, size)


def test_what_a_pod_is_not_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = parse('{"wire":"index"}', "val")
    tar_of(tmp_path / "0.tar", SAMPLES)
    with pytest.raises(BadRequest, match="not a regular file"):
        index_of(str(tmp_path), request)
    monkeypatch.setattr("etl.shard_index.MOST_BYTES", 100)
    with pytest.raises(BadRequest, match="has more than 100 bytes"):
        index_of(str(tmp_path / "0.tar"), request)
    assert MOST_BYTES > 100
