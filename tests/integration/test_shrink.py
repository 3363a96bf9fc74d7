"""Data sets of smaller photos: a folder by processes, a bucket by an ETL, with the same bytes."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.store import AisStore
from aistore_data.client.http_reader import Access, HttpReader, object_path
from aistore_data.client.sdk import make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.upload.command import main as upload
from etl.shrink import shrink
from scripts.shrink import main
from sources.folder import scan_folder
from tests.conftest import PROJECT

SIDE = 200
WORDS = ["--side", str(SIDE), "--quality", "80", "--measure", "20", "--workers", "2"]


@pytest.fixture(scope="module")
def folder(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photos of two classes, one of them damaged."""
    root = tmp_path_factory.mktemp("original")
    for number, photo in enumerate(photos[:120]):
        path = root / ("val" if number % 10 == 9 else "train") / f"class {number // 10 % 2}" / photo.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo.read_bytes())
    (root / "train" / "class 0" / "no photo.jpg").write_bytes(b"none")
    return root


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as server:
        yield Access(server.endpoint, server.token)


@pytest.fixture
def environment(access: Access, monkeypatch: pytest.MonkeyPatch) -> Access:
    monkeypatch.setenv("AIS_ENDPOINT", access.endpoint)
    monkeypatch.setenv("AIS_AUTHN_TOKEN", access.token)
    return access


def expected(folder: Path) -> dict[str, bytes]:
    files = (path for split in ("train", "val") for path in (folder / split).rglob("*.*"))
    return {str(path.relative_to(folder)): shrink(path.read_bytes(), SIDE, 80) for path in files}


def content(folder: Path) -> dict[str, bytes]:
    files = (path for split in ("train", "val") for path in (folder / split).rglob("*.*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dest = tmp_path / "small"
    assert main([str(folder), str(dest), *WORDS]) == 0
    assert content(dest) == expected(folder)
    printed = capsys.readouterr().out
    assert "121 photos stored, 0 were there already" in printed and "measured on 20 photos" in printed
    assert "The pixels differ from the original photos'" in printed
    for before, after in zip(scan_folder(folder), scan_folder(dest), strict=True):
        assert (before.labels.tolist(), before.classes) == (after.labels.tolist(), after.classes)
        assert before.names.tobytes() == after.names.tobytes() and before.sha256() != after.sha256()
    assert main([str(folder), str(dest), *WORDS]) == 0
    assert "0 photos stored, 121 were there already" in capsys.readouterr().out

    assert main([str(folder), str(dest), "--side", "100"]) == 2
    assert "holds other photos" in capsys.readouterr().err
    assert main([str(folder / "train"), str(tmp_path / "no"), *WORDS]) == 2
    with pytest.raises(SystemExit):
        main([str(folder), "ais://small", *WORDS])
    assert "two folders or two buckets" in capsys.readouterr().err


def test_killed_and_gone_on(folder: Path, tmp_path: Path, seed: int) -> None:
    dest, number = tmp_path / "small", random.Random(seed).randrange(1, 110)
    command = [sys.executable, "-m", "scripts.shrink", str(folder), str(dest), *WORDS]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and len(list(dest.glob("*/*/*"))) < number:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -9 and process.stderr is not None
    process.stderr.read()
    process.stderr.close()
    whole = expected(folder)
    assert all(whole[name] == data for name, data in content(dest).items())
    assert main([str(folder), str(dest), *WORDS]) == 0
    assert content(dest) == whole


@pytest.mark.parametrize("layout", ["pairs", pytest.param("folders", marks=pytest.mark.long)])
def test_a_bucket(folder: Path, environment: Access, capsys: pytest.CaptureFixture[str], layout: str) -> None:
    uri, small = f"ais://whole-{layout}", f"ais://small-{layout}"
    assert upload([str(folder), uri, "--layout", layout]) == 0
    client, reader = make_client(environment), HttpReader(environment)
    for prefix in ("train/", "val/"):  # with the manifests that a run leaves
        read_manifest(AisStore(uri, environment), prefix)
    for _ in range(2):
        code = main([uri, small, *WORDS])
        captured = capsys.readouterr()
        assert code == 0, captured.err
    assert f"{small}: {121 if layout == 'folders' else 242} objects" in captured.out
    before = {entry.name for entry in client.bucket(uri[6:]).list_all_objects()}
    after = {entry.name for entry in client.bucket(small[6:]).list_all_objects()}
    manifests = {f".imagenet-ais/{split}/manifest.npz" for split in ("train", "val")}
    assert before - after == manifests and after - before == {".imagenet-ais/shrink.json"}
    for name in before - manifests:
        data = reader.get(object_path(uri, name))
        assert reader.get(object_path(small, name)) == shrink(data, SIDE, 80), name
    for prefix, local in zip(("train/", "val/"), scan_folder(folder), strict=True):
        remote = read_manifest(AisStore(small, environment), prefix)
        assert (remote.labels.tolist(), remote.classes) == (local.labels.tolist(), local.classes)
    assert client.cluster().list_etls(["Running", "Initializing", "Aborted"]) == []
    assert json.loads(reader.get(object_path(small, ".imagenet-ais/shrink.json")))["side"] == SIDE


def test_buckets_that_cannot_be_shrunk(environment: Access, capsys: pytest.CaptureFixture[str]) -> None:
    client = make_client(environment)
    assert main(["ais://nowhere", "ais://small", *WORDS]) == 1
    assert 'bucket "ais://nowhere" does not exist' in capsys.readouterr().err
    empty, odd = client.bucket("empty").create(), client.bucket("odd-names").create()
    assert main(["ais://empty", "ais://small", *WORDS]) == 2
    assert "ais://empty has no objects below train/ and val/" in capsys.readouterr().err
    odd.object("train/a/what?.jpg").get_writer().put_content(b"x")
    assert main(["ais://odd-names", "ais://small", *WORDS]) == 2
    assert "ais://odd-names/train/a/what?.jpg and 0 more names hold ?, # or %" in capsys.readouterr().err
    odd.object("train/a/what?.jpg").delete()
    odd.object("train/a/1.jpg").get_writer().put_content(b"x")
    empty.object("train/b/1.jpg").get_writer().put_content(b"x")
    assert main(["ais://odd-names", "ais://empty", *WORDS]) == 2
    assert "ais://empty holds other data, like 'train/b/1.jpg'" in capsys.readouterr().err
    odd.object("train/a/2.jpg").get_writer().put_content(b"")
    assert main(["ais://odd-names", "ais://small", *WORDS]) == 1
    assert "train/a/2.jpg has come without its bytes" in capsys.readouterr().err
