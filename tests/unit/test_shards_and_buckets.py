"""Shards made of the objects of a bucket, and shards brought to a bucket: the same bytes, whole, and nothing mixed."""

import hashlib
import json
import pickle
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aistore_data.bucket.shards import read_shards
from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.embedded import EmbeddedAIS
from aistore_data.upload import shards as upload_shards
from aistore_data.upload import transfer
from aistore_data.upload.__main__ import main as upload
from scripts import shard_photos
from scripts.make_shards import main as make_shards
from sources.disk import map_file
from sources.errors import DataError
from sources.shards.splits import ShardOptions, shard_splits
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


def put(root: Path, uri: str, *words: str) -> int:
    return upload([str(root), uri, "--workers", "1", *words])


def in_bucket(store: AisStore) -> dict[str, str]:
    names = [entry.name for prefix in ("train/", "val/") for entry in store.list(prefix)]
    return {name: hashlib.sha256(store.get(name)).hexdigest() for name in names}


def test_shards_are_uploaded_and_what_is_there_is_not_sent_again(
    shards: Path, uri: str, store: AisStore, server: EmbeddedAIS, capsys: pytest.CaptureFixture[str]
) -> None:
    assert put(shards, uri, "--endpoint", server.endpoint) == 0
    assert in_bucket(store) == contents(shards)
    assert capsys.readouterr().out.splitlines() == [
        f"{uri}: 10 objects uploaded, 0 were there already",
        f"train on it: python train.py data=aistore data.endpoint={server.endpoint} data.bucket={uri} "
        "data.layout=shards",
    ]
    train, val = (read_shards(store, prefix, "", print)[0].manifest for prefix in ("train/", "val/"))
    here = shard_splits(ShardOptions(str(shards)), print)
    assert (train.sha256(), val.sha256()) == (here[0].sha256(), here[1].sha256())
    store.delete("train/train-000002.tar")
    assert put(shards, uri) == 0 and in_bucket(store) == contents(shards)
    assert f"{uri}: 1 objects uploaded, 9 were there already" in capsys.readouterr().out


def test_an_upload_that_is_interrupted_goes_on_and_its_lists_come_first(
    shards: Path, uri: str, store: AisStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    items = transfer.plan

    def without_the_last(*words: Any) -> Any:
        return [one for one in items(*words) if not one.item.name.endswith("3.tar")]

    monkeypatch.setattr(upload_shards, "plan", without_the_last)
    assert put(shards, uri) == 0
    with pytest.raises(DataError, match=r"train-000003.tar is missing, and .*index.json lists it"):
        read_shards(store, "train/", "", print)
    monkeypatch.setattr(upload_shards, "plan", items)
    capsys.readouterr()
    assert put(shards, uri) == 0 and in_bucket(store) == contents(shards)
    assert "1 objects uploaded, 9 were there already" in capsys.readouterr().out


def test_a_shard_that_aistore_keeps_in_parts_is_put_again_whole(
    shards: Path, uri: str, store: AisStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert put(shards, uri) == 0
    real, name = AisStore.list, "train/train-000001.tar"

    def listed(self: AisStore, prefix: str) -> Iterator[Any]:
        yield from (entry._replace(in_parts=entry.name == name) for entry in real(self, prefix))

    monkeypatch.setattr(AisStore, "list", listed)
    capsys.readouterr()
    assert put(shards, uri) == 0
    out, err = capsys.readouterr()
    assert "1 objects uploaded, 9 were there already" in out
    assert f"{uri} keeps 1 of 6 shards in parts, like {name}, although each was put in one piece" in err


def changed(shards: Path, root: Path) -> Path:
    shutil.copytree(shards, root, ignore=shutil.ignore_patterns(".imagenet-ais"))
    return root


def test_other_data_are_not_mixed_with_shards_nor_replaced(
    shards: Path, uri: str, store: AisStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert put(shards, uri) == 0
    other = changed(shards, tmp_path / "other")
    tar = other / "train" / "train-000001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"\xff\xd9", b"\xff\xd8", 1))
    assert put(other, uri) == 2
    assert f"{uri} holds another train/train-000001.tar" in (error := capsys.readouterr().err) and "--replace" in error
    assert in_bucket(store) == contents(shards)
    assert put(other, uri, "--replace") == 0 and in_bucket(store) == contents(other)
    store.put("train/cat/1.jpg", b"x")
    assert put(other, uri) == 2 and "holds other data: 'train/cat/1.jpg'" in capsys.readouterr().err


def spoil(root: Path, how: str) -> None:
    train = root / "train"
    first = train / "train-000000.tar"
    if how == "cut":
        first.write_bytes(first.read_bytes()[:5000])
    elif how == "empty":
        first.write_bytes(b"")
    elif how == "no labels":
        with tarfile.open(first, "w", format=tarfile.USTAR_FORMAT) as tar:
            tar.add(train / "classes.json", "a.jpg")
    elif how == "missing":
        first.unlink()
    elif how == "unlisted":
        shutil.copy(first, train / "more.tar")
    elif how == "elsewhere":
        rows = [{"url": "../val/val-000000.tar", "nsamples": 10}]
        (train / "index.json").write_text(json.dumps({"shardlist": rows}))
    elif how == "compressed":
        for path in (root / "val").glob("*.tar"):
            path.rename(f"{path}.gz")
        (root / "val" / "index.json").unlink()
    elif how == "a class":
        for path in train.iterdir():
            path.unlink()
        shutil.copy(root / "val/val-000000.tar", train / "n01440764.tar")


@pytest.mark.parametrize(
    ("how", "code", "said"),
    [
        ("cut", 1, "train-000000.tar is cut off"),
        ("empty", 1, "train-000000.tar is empty"),
        ("no labels", 1, "train-000000.tar is not a shard of photos with labels"),
        ("missing", 1, "train-000000.tar, a shard of"),
        ("unlisted", 2, "more.tar is there, and"),
        ("elsewhere", 2, "val/val-000000.tar, which lies elsewhere"),
        ("compressed", 2, "val-000000.tar.gz is compressed"),
        ("a class", 2, "1 archive lies in it, n01440764.tar"),
        ("layout", 2, "--layout is for photos"),
    ],
)
def test_shards_that_no_run_could_read_are_refused(
    shards: Path, uri: str, tmp_path: Path, how: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = changed(shards, tmp_path / "bad")
    spoil(root, how)
    assert put(root, uri, *["--layout", "pairs"] * (how == "layout")) == code
    assert said in capsys.readouterr().err


def test_shards_without_validation_large_ones_and_photos_beside_them(
    shards: Path,
    small: Path,
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = changed(shards, tmp_path / "some")
    shutil.rmtree(root / "val")
    shutil.copy(small / "val/cat/0.jpg", root / "train")
    monkeypatch.setattr(upload_shards, "MOST_BYTES", 1 << 10)
    assert put(root, uri) == 0
    out, err = capsys.readouterr()
    assert "data.layout=shards data.val_split=0.1\n" in out
    assert "4 of 4 shards are larger than 0 MB" in err and "--samples makes smaller ones" in err
    assert "holds 1 photos beside its shards, which are left out" in err


def test_hugging_faces_list_names_the_shards_of_both_splits(
    shards: Path, uri: str, store: AisStore, tmp_path: Path
) -> None:
    splits, root = {}, tmp_path / "hf"
    root.mkdir()
    for split, counts in (("train", (10, 10, 10, 6)), ("validation", (10, 5))):
        folder = shards / split[: 5 if split == "train" else 3]
        names = [Path(shutil.copy(path, root)).name for path in sorted(folder.glob("*.tar"))]
        splits[split] = {"filenames": names, "shard_lengths": counts}
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
    shutil.copy(shards / "train/classes.json", root)
    assert put(root, uri) == 0
    assert in_bucket(store) == {name: digest for name, digest in contents(shards).items() if "index" not in name}


def test_a_try_that_fails_in_the_middle_is_followed_by_a_whole_one(store: AisStore, tmp_path: Path) -> None:
    path, sent = tmp_path / "file", []
    path.write_bytes(bytes(range(256)) * 40)

    class Writer:
        def put_content(self, content: Any) -> Any:
            sent.append(content.read(5000) if not sent else content.read())
            if len(sent) == 1:
                raise OSError("the connection broke")
            return type("Answer", (), {"headers": {}})

    class Flaky(AisStore):
        def _object(self, name: str) -> Any:
            return type("Object", (), {"get_writer": staticmethod(Writer)})

    Flaky(store.uri, store.access, tries=2).put("x", map_file(path))
    assert sent[1] == path.read_bytes()
