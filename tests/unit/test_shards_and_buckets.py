"""Shards made of the objects of a bucket, and shards brought to a bucket: the same bytes, whole, and nothing mixed."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.embedded import EmbeddedAIS
from aistore_data.upload.__main__ import main as upload
from scripts import shard_photos
from scripts.make_shards import main as make_shards
from tests.conftest import make_small_folder
from tests.unit.test_make_shards import contents

SIZE = ["--samples", "10", "--workers", "1"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_folder(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def shards(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    assert make_shards([str(small), str(out), *SIZE]) == 0
    return out


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAIS]:
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as server:
        yield server


@pytest.fixture
def uri(server: EmbeddedAIS, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a bucket that this test alone uses, and that is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AIS_AUTHN_TOKEN", server.token)
    monkeypatch.setenv("AIS_ENDPOINT", server.endpoint)
    return f"ais://b{abs(hash(request.node.nodeid))}"


@pytest.fixture
def store(server: EmbeddedAIS, uri: str) -> AisStore:
    return AisStore(uri, Access(server.endpoint, server.token))


@pytest.fixture
def photos(small: Path, uri: str) -> str:
    """A bucket with the photos of the folder as objects."""
    assert upload([str(small), uri, "--workers", "1"]) == 0
    return uri


def test_the_shards_of_a_bucket_are_those_of_the_folder(
    photos: str, server: EmbeddedAIS, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIS_ENDPOINT")
    out = tmp_path / "out"
    words = [photos, str(out), "--endpoint", server.endpoint, *SIZE]
    assert make_shards(words) == 0
    assert contents(out) == contents(shards)
    assert make_shards(words) == 0 and contents(out) == contents(shards)
    place, photo = shard_photos.splits_of(photos, server.endpoint)[0][1:3]
    assert pickle.loads(pickle.dumps(place)).read(photo[0]) == place.read(photo[0])  # as processes get it


def test_pairs_and_a_bucket_without_validation(
    small: Path, uri: str, store: AisStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upload([str(small), uri, "--workers", "1", "--layout", "pairs"]) == 0
    for entry in list(store.list("val/")):
        store.delete(entry.name)
    assert make_shards([uri, str(tmp_path / "out"), *SIZE]) == 0
    assert f"{uri}/val/ holds no photos: these are training shards alone" in capsys.readouterr().err
    assert sorted(contents(tmp_path / "out")) == [
        *("train/classes.json", "train/index.json", *(f"train/train-{n:06}.tar" for n in range(4)))
    ]
    first = (tmp_path / "out/train/train-000000.tar").read_bytes()
    assert first[:7].isdigit() and first[7:11] == b".jpg"


@pytest.mark.parametrize("change", ["longer", "shorter", "other", "gone"])
def test_a_photo_that_is_not_as_it_was_listed_ends_it(
    photos: str,
    store: AisStore,
    tmp_path: Path,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shard_photos, "_TRIES", 2)
    real, name = shard_photos.read_manifest, "train/dog/3.jpg"
    good = store.get(name)
    bad = {"longer": good + b"x", "shorter": good[:-1], "other": good[:-1] + b"x"}

    def read(store: AisStore, **words: Any) -> Any:
        listed = real(store, **words)
        if change == "gone":
            if words["prefix"] == "val/":
                store.delete(name)
        else:
            store.put(name, bad[change])
        return listed

    monkeypatch.setattr(shard_photos, "read_manifest", read)
    assert make_shards([photos, str(tmp_path / "out"), *SIZE]) == 1
    error = capsys.readouterr().err
    assert f"{photos}/{name}" in error and "Traceback" not in error
    assert ("cannot be read" if change == "gone" else "did not come as it was listed") in error
    assert len(list((tmp_path / "out/train").glob("*.tar"))) < 4


def test_what_is_no_bucket_of_photos(
    uri: str, store: AisStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "out")
    assert make_shards([uri, out]) == 1 and f"{uri} cannot be read" in capsys.readouterr().err
    store.create()
    store.put("train/a.tar", b"x")
    assert make_shards([uri, out]) == 1
    assert "holds no images" in (error := capsys.readouterr().err) and "It holds tar shards" in error
    assert make_shards([f"{uri}/train", out]) == 2 and "goes on after the bucket's name" in capsys.readouterr().err
    monkeypatch.delenv("AIS_ENDPOINT")
    assert make_shards([uri, out]) == 1 and "--endpoint is not set" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        make_shards([str(tmp_path), uri])
    assert "OUT is a folder: python -m aistore_data.upload OUT ais://BUCKET" in capsys.readouterr().err
