"""Shards that are made of a folder: the same bytes at every run, whole or not there, and read by others' programs."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from aistore_data.upload.items import index_folder
from scripts import make_shards
from scripts.make_shards import main
from sources.shards.manifest import ShardManifest
from sources.shards.reader import ShardReader
from sources.shards.splits import ShardOptions, shard_splits
from tests.conftest import make_small_folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_folder(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def shards(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    assert make(small, out) == 0
    return out


def make(folder: Path, out: Path, *words: str) -> int:
    return main([str(folder), str(out), "--samples", "10", "--workers", "1", *words])


def opened(out: Path) -> tuple[ShardManifest, ShardManifest]:
    return shard_splits(ShardOptions(str(out)), print)


def contents(out: Path) -> dict[str, str]:
    found = sorted(path for path in out.rglob("*") if path.is_file() and ".imagenet-ais" not in path.parts)
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_the_shards_are_the_data_set_of_the_folder(small: Path, shards: Path) -> None:
    for split, manifest in zip(index_folder(small), opened(shards), strict=True):
        expected = split.manifest()
        assert manifest.sha256() == expected.sha256() and manifest.classes == expected.classes == ("cat", "dog", "eel")
        reader = ShardReader(manifest)
        for at in range(len(expected)):
            assert manifest.name(at) == expected.name(at)
            assert reader.read(at) == (small / split.prefix / expected.name(at)).read_bytes()


def test_the_same_bytes_at_every_run_and_with_any_number_of_processes(
    small: Path, shards: Path, tmp_path: Path
) -> None:
    expected = contents(shards)
    assert sorted(expected) == [
        *("train/classes.json", "train/index.json", *(f"train/train-{n:06}.tar" for n in range(4))),
        *("val/classes.json", "val/index.json", "val/val-000000.tar", "val/val-000001.tar"),
    ]
    assert main([str(small), str(tmp_path / "two"), "--samples", "10", "--workers", "2"]) == 0
    assert contents(tmp_path / "two") == expected
    first = json.loads((shards / "train/index.json").read_text())["shardlist"]
    assert first == [{"url": f"train-{n:06}.tar", "nsamples": count} for n, count in enumerate((10, 10, 10, 6))]


def test_photos_are_shuffled_by_a_seed_or_sorted(small: Path, shards: Path, tmp_path: Path) -> None:
    first = opened(shards)[0]
    assert all(len(set(first.labels[first.columns.shard == shard].tolist())) > 1 for shard in range(3))
    assert make(small, tmp_path / "other", "--seed", "-3") == 0
    assert make(small, tmp_path / "sorted", "--order", "sorted") == 0
    other, by_name = opened(tmp_path / "other")[0], opened(tmp_path / "sorted")[0]
    assert by_name.columns.shard.tolist() == [n // 10 for n in range(36)]
    assert other.columns.shard.tolist() != first.columns.shard.tolist()
    assert other.sha256() == first.sha256() == by_name.sha256()


def test_it_goes_on_where_it_was_interrupted_and_checks_what_is_there(
    small: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, real, done = contents(shards), make_shards.make_shard, []

    def interrupted(folder: Path, planned: Any) -> bool:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(planned.path)
        return real(folder, planned)

    monkeypatch.setattr(make_shards, "make_shard", interrupted)
    assert make(small, tmp_path) == 85
    assert sorted(path.name for path in tmp_path.rglob("*.tar")) == ["train-000000.tar", "train-000001.tar"]
    monkeypatch.setattr(make_shards, "make_shard", real)
    capsys.readouterr()
    assert make(small, tmp_path) == 0 and contents(tmp_path) == expected
    assert "36 photos in 4 shards, of which 2 are new" in capsys.readouterr().out
    assert not (tmp_path / ".imagenet-ais" / "partial").exists()
    shard = tmp_path / "train" / "train-000001.tar"
    good = shard.read_bytes()
    for bad, said in (
        (good[:900], "cut off"),
        (good.replace(b"\xff\xd9", b"\xff\xd8", 1), "something else in the place"),
    ):
        shard.write_bytes(bad)
        assert make(small, tmp_path) == 1
        error = capsys.readouterr().err
        assert str(shard) in error and said in error and "--replace" in error
    assert make(small, tmp_path, "--replace") == 0 and contents(tmp_path) == expected


def test_a_photo_that_does_not_arrive_as_it_was_is_noticed(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = make_shards._add
    monkeypatch.setattr(make_shards, "_add", lambda tar, photo, name, data: real(tar, photo, name, data[:-1] + b"?"))
    assert make(small, tmp_path) == 1
    assert "as it is read back" in capsys.readouterr().err and not list(tmp_path.glob("*/*.tar"))


def test_other_shards_are_not_mixed_with_these(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "theirs.tar").touch()
    assert make(small, tmp_path) == 2 and "theirs.tar does not belong to these shards" in capsys.readouterr().err
    assert (tmp_path / "train" / "theirs.tar").exists()


@pytest.mark.parametrize("folder", ["small", "nowhere"])
def test_folders_that_make_no_sense(small: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    if folder == "nowhere":
        assert make(small.parent / "nowhere", small.parent / "out") == 2
        assert "nowhere is not a folder: it must hold train/ and val/" in capsys.readouterr().err
    else:
        with pytest.raises(SystemExit):
            make(small, small)


def test_a_folder_of_classes_alone_becomes_training_shards(small: Path, tmp_path: Path) -> None:
    for folder in (small / "val", small.parent):
        if folder == small.parent:
            (tmp_path / "one").mkdir()
            (tmp_path / "one" / "train").symlink_to(small / "val")
            folder = tmp_path / "one"
        assert make(folder, tmp_path / folder.name / "out") == 0
        assert sorted(path.name for path in (tmp_path / folder.name / "out").iterdir()) == [".imagenet-ais", "train"]


def test_names_with_dots_and_two_photos_of_one_key_are_renamed(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, photo = tmp_path / "odd", (small / "val" / "cat" / "0.jpg").read_bytes()
    (root / "train" / "cat.s").mkdir(parents=True)
    for name in (b"a.b.jpg", b"c.jpg", b"c.png", b".d.jpeg", b"e.JPG", b"\xe9.jpg"):
        Path(str(root / "train" / "cat.s"), name.decode("utf-8", "surrogateescape")).write_bytes(photo)
    assert make(root / "train", tmp_path / "out") == 0
    assert "note: 4 photos are called otherwise in the shards, as cat.s/.d.jpeg is cat.s/_d_jpeg.jpeg" in (
        capsys.readouterr().err
    )
    manifest = shard_splits(
        ShardOptions(train_shards=str(tmp_path / "out" / "train"), val_shards=str(tmp_path / "out" / "train")), print
    )[0]
    assert [manifest.name(at).encode("utf-8", "surrogateescape") for at in range(6)] == [
        *(b"cat.s/_d_jpeg.jpeg", b"cat.s/a_b_jpg.jpg", b"cat.s/c_jpg.jpg", b"cat.s/c_png.png", b"cat.s/e.JPG"),
        b"cat.s/\xe9.jpg",
    ]
    (root / "train" / "cat.s" / "a_b_jpg.jpg").write_bytes(photo)
    assert make(root / "train", tmp_path / "more") == 2
    assert "differ by dots and underscores alone" in capsys.readouterr().err
    (root / "train" / "cat.s" / "a_b_jpg.jpg").unlink()
    (root / "train" / "cat.s" / f"{'x' * 120}.jpg").write_bytes(photo)
    assert make(root / "train", tmp_path / "long") == 1
    assert f"{'x' * 120}.jpg cannot be in a tar as" in capsys.readouterr().err


def rows_of(small: Path, split: str) -> dict[str, tuple[int, bytes]]:
    """(label, bytes) of each key."""
    names = ("cat", "dog", "eel")
    return {
        f"{path.parent.name}/{path.stem}": (names.index(path.parent.name), path.read_bytes())
        for path in (small / split).rglob("*.jpg")
    }


def test_webdataset_reads_them(small: Path, shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    for split, last in (("train", 3), ("val", 1)):
        url = f"{shards}/{split}/{split}-{{000000..{last:06}}}.tar"
        found = list(webdataset.WebDataset(url, shardshuffle=False, empty_check=False))
        read = {sample["__key__"]: (int(sample["cls"]), sample["jpg"]) for sample in found}
        assert read == rows_of(small, split) and len(found) == len(read)


def test_wids_reads_them(small: Path, shards: Path, tmp_path: Path) -> None:
    wids = pytest.importorskip("wids", reason="wids is not installed: it comes with webdataset before 1.0")
    for split in ("train", "val"):
        found = wids.ShardListDataset(
            str(shards / split / "index.json"), transformations=[], keep=True, cache_dir=str(tmp_path)
        )
        samples = [found[at] for at in range(len(found))]
        read = {s["__key__"]: (int(s[".cls"].read()), s[".jpg"].read()) for s in samples}
        assert read == rows_of(small, split) and len(found) == len(read)
