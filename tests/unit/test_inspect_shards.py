"""The health of tar shards, on a disk and in a bucket: what is found of the same photos in a folder, and bad shards."""

import json
import shutil
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.embedded import EmbeddedAIS
from aistore_data.upload.__main__ import main as upload
from scripts.inspect import readers
from scripts.inspect.__main__ import main
from scripts.inspect.data_set import open_data_set
from scripts.inspect.survey import Survey, survey
from scripts.make_shards import main as make_shards
from sources.errors import DataError
from sources.folds import HeldOut
from sources.splits import SplitOptions
from tests.conftest import make_small_folder, write_image

AS_IT_IS = SplitOptions()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with something odd in it, and the shards of it in ``shards``."""
    root = tmp_path_factory.mktemp("data")
    train, val = (make_small_folder(root / "small") / split for split in ("train", "val"))
    Image.new("L", (60, 50)).save(train / "cat" / "grey.jpg")
    (train / "cat" / "none.jpg").write_bytes(b"none")
    shutil.copy(train / "dog" / "0.jpg", val / "dog" / "seen.jpg")
    shutil.copy(train / "dog" / "1.jpg", train / "eel" / "again.jpg")
    cut = (train / "eel" / "2.jpg").read_bytes()
    (train / "eel" / "2.jpg").write_bytes(cut[:-40])
    write_image(val / "eel" / "large.png", 5, size=(400, 300))
    assert make_shards([str(root / "small"), str(root / "shards"), "--samples", "10", "--workers", "1"]) == 0
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def shards(folder: Path, tmp_path: Path) -> Path:
    """The shards, to be changed."""
    shutil.copytree(folder / "shards", tmp_path / "shards")
    return tmp_path / "shards"


def examined(where: object, deep: bool = False, options: SplitOptions = AS_IT_IS, **words: str) -> Survey:
    return survey(open_data_set(str(where), words.pop("endpoint", ""), options, **words), deep, workers=1)


def told(found: Survey) -> list[tuple[str, str, str, str]]:
    """Kind, split, member and class of each finding."""
    return sorted((f.kind, f.split, f.photo.partition(".tar/")[2] or f.photo, f.label) for f in found.findings)


def facts(found: Survey) -> list[tuple[object, ...]]:
    return sorted(
        (found.place(index).name.rpartition("train/")[2], *found.sides[index].tolist(), found.label(index))
        for index in range(len(found))
    )


@pytest.mark.parametrize("deep", [False, True])
def test_the_findings_are_those_of_the_folder(folder: Path, deep: bool) -> None:
    expected, found = examined(folder / "small", deep), examined(folder / "shards", deep)
    assert told(found) == told(expected) and len(found) == 56
    assert {kind for kind, *_ in told(found)} >= {"broken", "cut short", "in both splits", "labels differ", "mode"}
    assert facts(found) == facts(expected)
    assert found.data.classes == expected.data.classes
    assert all(".tar/" in f.photo and not f.photo.startswith("/") for f in found.findings)


def test_nothing_is_written_where_the_shards_lie(folder: Path) -> None:
    before = sorted(map(str, (folder / "shards").rglob("*")))
    examined(folder / "shards")
    assert sorted(map(str, (folder / "shards").rglob("*"))) == before


def test_the_command_and_its_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder / "shards"), "--out", str(tmp_path / "health"), "--workers", "1"]) == 1
    assert "56 photos in 3 classes" in capsys.readouterr().out
    page, table = ((tmp_path / "health" / name).read_text() for name in ("report.html", "files.csv"))
    assert ".tar/cat/none.jpg" in page and table.count(".tar/") >= 5
    assert page.count("data:image/jpeg;base64") > 10


@pytest.mark.parametrize("form", ["folder", "train", "pattern", "list"])
def test_one_set_of_shards_is_one_split_or_is_divided(folder: Path, shards: Path, form: str) -> None:
    shutil.rmtree(shards / "val")
    where = {
        "folder": shards,
        "train": shards / "train",
        "pattern": f"{shards}/train/train-{{000000..000003}}.tar",
        "list": shards / "train" / "index.json",
    }[form]
    one = examined(where)
    assert [split.name for split in one.data.splits] == [""] and len(one) == 39
    assert ("one folder", "", "", "") in told(one)
    parts = examined(where, options=SplitOptions(HeldOut(0.25)))
    assert [split.name for split in parts.data.splits] == ["train", "val"] and len(parts) == 39
    assert "one folder" not in {kind for kind, *_ in told(parts)}


def change(shard: Path, how: str) -> None:
    if how == "cut off":
        shard.write_bytes(shard.read_bytes()[:3000])
    elif how == "empty":
        shard.write_bytes(b"")
    elif how == "missing":
        shard.unlink()
    else:
        with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
            tar.addfile(tarfile.TarInfo("a.jpg"), BytesIO())


def test_every_bad_shard_is_told_and_the_others_are_looked_at(shards: Path) -> None:
    for number, how in enumerate(("cut off", "missing", "has no label")):
        change(shards / "train" / f"train-{number:06}.tar", how)
    change(shards / "val" / "val-000000.tar", "empty")
    found = examined(shards)
    stops = sorted(finding.what for finding in found.findings if finding.kind == "layout")
    assert [any(part in what for what in stops) for part in ("cut off", "cannot be read", "no label", "is empty")] == [
        True
    ] * 4
    assert [name in " ".join(stops) for name in ("train-000000", "train-000001", "train-000002", "val-000000")] == [
        True
    ] * 4
    assert [(split.name, len(split.manifest)) for split in found.data.splits] == [("train", 9), ("val", 7)]
    assert found.data.classes == ("cat", "dog", "eel")


def test_a_split_that_is_no_shards_is_told_and_the_other_one_looked_at(shards: Path) -> None:
    for path in (shards / "val").iterdir():
        path.unlink()
    found = examined(shards)
    assert [split.name for split in found.data.splits] == ["train"] and len(found) == 39
    assert any("val holds no shards" in finding.what for finding in found.findings if finding.kind == "layout")
    for number in range(4):
        change(shards / "train" / f"train-{number:06}.tar", "cut off")
    with pytest.raises(DataError, match="val holds no shards"):
        examined(shards)
    assert main([str(shards)]) == 1


def test_a_list_of_classes_that_is_too_short_and_files_beside_shards(shards: Path) -> None:
    for split in ("train", "val"):
        (shards / split / "classes.json").write_text('["cat", "dog"]')
    (shards / "train" / "notes.txt").touch()
    (shards / "train" / "more.tar.gz").touch()
    (shards / "train" / ".what-runs-keep").touch()
    found = examined(shards)
    assert any("2 names" in finding.what for finding in found.findings if finding.kind == "layout")
    assert found.data.classes == ("cat", "dog", "2") and len(found) == 56
    assert {finding.photo for finding in found.findings if finding.kind == "left out"} == {"notes.txt", "more.tar.gz"}


def test_labels_in_json_and_another_order_of_the_classes(folder: Path, shards: Path, tmp_path: Path) -> None:
    for path in shards.rglob("*.tar"):
        with tarfile.open(path) as old:
            members = [(member, old.extractfile(member).read()) for member in old.getmembers()]  # type: ignore[union-attr]
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for member, data in members:
                if member.name.endswith(".cls"):
                    data = json.dumps({"label": int(data)}).encode()
                    member.name, member.size = member.name[:-4] + ".json", len(data)
                tar.addfile(member, BytesIO(data))
    order = tmp_path / "order.txt"
    order.write_text("eel\ndog\ncat\n")
    found = examined(shards, options=SplitOptions(classes=str(order)), label_field="label")
    assert found.data.classes == ("eel", "dog", "cat") and facts(found) == facts(examined(folder / "small"))


def test_options_that_make_no_sense(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder / "shards"), "--labels", "x.csv"]) == 2
    assert "tar shards have theirs in KEY.cls" in capsys.readouterr().err
    assert main([str(folder / "small"), "--label-field", "label"]) == 2
    assert "--label-field=label is for tar shards" in capsys.readouterr().err
    assert main([f"{folder}/shards/nowhere-*.tar"]) == 2
    assert "matches no file" in capsys.readouterr().err


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAIS]:
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as server:
        yield server


def test_shards_in_a_bucket(
    folder: Path, server: EmbeddedAIS, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", server.token)
    monkeypatch.setattr(readers, "_SMALL_OBJECT", 2000)  # some are read by their ends, some whole
    where = ["ais://health", "--endpoint", server.endpoint, "--workers", "1"]
    assert upload([str(folder / "shards"), *where]) == 0
    store = AisStore("ais://health", Access(server.endpoint, server.token))
    before = [entry.name for entry in store.list("")]
    found = examined("ais://health", endpoint=server.endpoint)
    assert told(found) == told(examined(folder / "shards")) and facts(found) == facts(examined(folder / "shards"))
    assert [entry.name for entry in store.list("")] == before
    assert main(where) == 1 and "56 photos in 3 classes" in capsys.readouterr().out
    store.put("train/train-000001.tar", store.get("train/train-000001.tar")[:3000])
    found = examined("ais://health", endpoint=server.endpoint)
    assert [split.name for split in found.data.splits] == ["val"] and len(found) == 17
    assert any("train-000001.tar is cut off" in finding.what for finding in found.findings)
