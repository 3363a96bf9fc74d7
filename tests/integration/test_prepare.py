"""ImageNet as it was downloaded becomes a folder or a bucket: whole, checked, and also after accidents."""

import io
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.store import AisStore, iter_objects
from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.upload.destination import CLAIMS, Claim
from scripts.prepare import checks
from scripts.prepare_imagenet import main
from sources.folder import scan_folder
from sources.lease import FolderLease
from tests.conftest import PROJECT, write_image
from tests.support import downloads

KINDS = ("archives", "kaggle", "kaggle_zip", "imagefolder", "parquet")
OTHER = "--allow-other"


@dataclass
class Called:
    """What a call of the command did."""

    code: int
    out: str
    err: str


Prepare = Callable[..., Called]


@pytest.fixture
def prepare(capsys: pytest.CaptureFixture[str]) -> Prepare:
    """The command in this process, whose helpers start faster the second time."""

    def call(*words: object, workers: int = 2) -> Called:
        code = main([*map(str, words), "--workers", str(workers)])
        captured = capsys.readouterr()
        return Called(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def sources(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Each kind of source, made when it is first asked for."""
    root = tmp_path_factory.mktemp("sources")
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind == "parquet":
            pytest.importorskip("pyarrow", reason="needs pyarrow: pip install pyarrow")
        if kind not in made:
            made[kind] = getattr(downloads, kind)(photos, root / kind)
        return made[kind]

    return get


@pytest.fixture(scope="module")
def server_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ais")


@pytest.fixture(scope="module")
def server(server_root: Path) -> Iterator[EmbeddedAIS]:
    with EmbeddedAIS(server_root) as running:
        yield running


@pytest.fixture
def access(server: EmbeddedAIS, monkeypatch: pytest.MonkeyPatch) -> Access:
    monkeypatch.setenv("AIS_ENDPOINT", server.endpoint)
    monkeypatch.setenv("AIS_AUTHN_TOKEN", server.token)
    return Access(server.endpoint, server.token)


def content(root: Path) -> dict[str, bytes]:
    """What training reads of a folder."""
    files = (path for split in ("train", "val") for path in (root / split).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def objects(access: Access, uri: str) -> dict[str, bytes]:
    """All objects of a bucket."""
    reader, name = HttpReader(access), uri.removeprefix("ais://")
    names = [entry.name for entry in iter_objects(make_client(access).bucket(name))]
    return {name: reader.get(object_path(uri, name)) for name in names}


def as_imagenet(monkeypatch: pytest.MonkeyPatch, archives: Path | None = None) -> None:
    """Let the small data set count as the whole ImageNet."""
    import hashlib

    monkeypatch.setattr(checks, "CLASSES", len(downloads.WNIDS))
    monkeypatch.setattr(checks, "CLASSES_SHA256", hashlib.sha256("\n".join(downloads.WNIDS).encode()).hexdigest())
    monkeypatch.setattr(checks, "COUNTS", {"train/": 24, "val/": 12})
    if archives:
        names = {"train": "img_train.tar", "val": "img_val.tar", "devkit": "devkit_t12.tar.gz"}
        for kind, name in names.items():
            data = (archives / f"ILSVRC2012_{name}").read_bytes()
            monkeypatch.setitem(checks.MD5, kind, hashlib.md5(data).hexdigest())


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_becomes_the_same_folder(
    prepare: Prepare, sources: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source, dest = sources(kind), tmp_path / "out"
    as_imagenet(monkeypatch, source if kind == "archives" else None)
    first = prepare(source, dest)
    assert first.code == 0, first.err
    assert "24 train, 12 val photos, 4 classes" in first.out
    assert content(dest) == content(sources("imagefolder"))
    report = json.loads((dest / ".imagenet-ais/prepare.json").read_text())
    manifests = scan_folder(dest)
    assert [report[split]["sha256"] for split in ("train", "val")] == [manifest.sha256() for manifest in manifests]
    assert (report["classes"], report["written"], report["kept"]) == (4, 38, 0)
    assert report["md5_checked"] == (kind == "archives")

    again = prepare(source, dest)
    assert again.code == 0 and "0 written (0.0 MB), 38 were there already" in again.out
    assert {path.name for path in dest.iterdir()} == {"train", "val", ".imagenet-ais"}  # no lock, nothing half written


@pytest.mark.parametrize("layout", ["folders", "pairs"])
def test_a_bucket_in_either_layout(
    prepare: Prepare, sources: Callable[[str], Path], access: Access, layout: str
) -> None:
    uri = f"ais://prepared-{layout}"
    result = prepare(sources("archives"), uri, "--layout", layout, OTHER)
    assert result.code == 0, result.err
    reader = HttpReader(access)
    for prefix, local in zip(("train/", "val/"), scan_folder(sources("imagefolder")), strict=True):
        remote = read_manifest(AisStore(uri, access), prefix)
        assert (remote.sha256(), remote.classes) == (local.sha256(), local.classes)
        for index in range(len(local)):
            expected = (sources("imagefolder") / prefix / local.name(index)).read_bytes()
            assert reader.get(object_path(uri, remote.name(index))) == expected
    again = prepare(sources("kaggle"), uri, "--layout", layout, OTHER)
    assert again.code == 0 and "0 written" in again.out
    assert not [name for name in objects(access, uri) if name.startswith(CLAIMS)]


def test_a_sample(prepare: Prepare, sources: Callable[[str], Path], tmp_path: Path) -> None:
    assert prepare(sources("archives"), tmp_path / "out", OTHER, "--sample", 2).code == 0
    whole = content(sources("imagefolder"))
    chosen = {name for folder in {Path(name).parent for name in whole}
              for name in sorted(name for name in whole if Path(name).parent == folder)[:2]}  # fmt: skip
    assert content(tmp_path / "out") == {name: whole[name] for name in chosen}
    refused = prepare(sources("archives"), tmp_path / "out", OTHER, "--sample", 1)
    assert refused.code == 2 and "holds other data: 'train/n01440764/n01440764_11.JPEG' (and 7 more)" in refused.err


def test_what_is_not_imagenet_is_refused(
    prepare: Prepare, sources: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = prepare(sources("archives"), tmp_path / "out")
    assert refused.code == 1 and "there are 4 classes, not ImageNet's 1,000" in refused.err
    assert "--allow-other" in refused.err
    as_imagenet(monkeypatch)
    monkeypatch.setattr(checks, "COUNTS", {"train/": 24, "val/": 13})
    assert "val has 12 photos, not ImageNet's 13" in prepare(sources("archives"), tmp_path / "out").err
    monkeypatch.setattr(checks, "CLASSES_SHA256", "")
    assert "the 4 classes are not ImageNet's: n01440764, n02120079" in prepare(sources("kaggle"), tmp_path / "out").err
    assert not (tmp_path / "out").exists()


def test_a_wrong_checksum(
    prepare: Prepare, sources: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(shutil.copytree(sources("archives"), tmp_path / "in"))
    as_imagenet(monkeypatch, source)
    tar = source / "ILSVRC2012_img_train.tar"
    data = bytearray(tar.read_bytes())
    data[300_000] ^= 1
    tar.write_bytes(data)
    result = prepare(source, tmp_path / "out")
    assert result.code == 1 and f"{tar} has the MD5 sum" in result.err and "Download it again" in result.err
    assert not (tmp_path / "out/.imagenet-ais/prepare.json").exists()


@pytest.mark.parametrize("name", ["img_train.tar", "img_val.tar", "devkit_t12.tar.gz"])
def test_an_archive_cut_short(
    prepare: Prepare, sources: Callable[[str], Path], tmp_path: Path, name: str, seed: int
) -> None:
    source = Path(shutil.copytree(sources("archives"), tmp_path / "in"))
    path = source / f"ILSVRC2012_{name}"
    data = path.read_bytes()
    end = len(data) if name.endswith("gz") else len(data.rstrip(b"\0"))
    for cut in [0, 100, end - 1, *random.Random(seed).sample(range(200, end), 3)]:
        path.write_bytes(data[:cut])
        result = prepare(source, tmp_path / "out", OTHER)
        assert result.code in (1, 2) and str(path) in result.err, (cut, result.err)
        assert "cut short" in result.err or "damaged" in result.err or "cannot be read" in result.err, (cut, result.err)
    assert not (tmp_path / "out").exists()


def test_a_tar_cut_between_two_photos(prepare: Prepare, sources: Callable[[str], Path], tmp_path: Path) -> None:
    import tarfile

    source = Path(shutil.copytree(sources("archives"), tmp_path / "in"))
    path = source / "ILSVRC2012_img_train.tar"
    with tarfile.open(path) as tar:
        end = list(tar)[2].offset
    path.write_bytes(path.read_bytes()[:end])
    assert f"{path} is cut short" in prepare(source, tmp_path / "out", OTHER).err


def test_a_damaged_zip(prepare: Prepare, sources: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    data = bytearray(sources("kaggle_zip").read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    result = prepare(path, tmp_path / "out", OTHER)
    assert result.code == 1 and f"{path} is damaged at byte" in result.err
    path.write_bytes(data[:-1000])
    assert f"{path} is cut short, or no zip" in prepare(path, tmp_path / "again", OTHER).err


def test_labels_that_do_not_fit(
    prepare: Prepare, sources: Callable[[str], Path], photos: list[Path], tmp_path: Path
) -> None:
    source = Path(shutil.copytree(sources("kaggle"), tmp_path / "kaggle"))
    solution = source / "LOC_val_solution.csv"
    lines = solution.read_text().splitlines()
    out = tmp_path / "out"
    for text, message in (
        ("\n".join(lines[:-1]), "has no label for val/ILSVRC2012_val_00000001.JPEG"),
        ("\n".join([*lines, "ILSVRC2012_val_99999999,n01440764 1 2 3 4"]), "names ILSVRC2012_val_99999999, which"),
        ("\n".join([*lines[:-1], "ILSVRC2012_val_00000001,n00000000 1 2 3 4"]), "is of the class 'n00000000', which"),
        ("\n".join([*lines[:-1], "ILSVRC2012_val_00000001,"]), "line 13 of LOC_val_solution.csv of"),
    ):
        solution.write_text(text)
        result = prepare(source, out, OTHER)
        assert result.code == 1 and message in result.err, result.err
    fewer = downloads.archives(photos, tmp_path / "tars")
    shutil.copy(sources("archives") / "ILSVRC2012_img_train.tar", fewer / "ILSVRC2012_img_val.tar")
    result = prepare(fewer, out, OTHER)
    assert result.code == 2 and "is, like" in result.err
    result = prepare(fewer / "ILSVRC2012_img_train.tar", fewer / "ILSVRC2012_devkit_t12.tar.gz", out, OTHER)
    assert "ILSVRC2012_img_val.tar must be given too" in result.err
    assert "SOURCE is" in prepare(tmp_path / "nowhere", out).err
    assert not out.exists()


def test_parquet_labels_that_do_not_fit(prepare: Prepare, sources: Callable[[str], Path], tmp_path: Path) -> None:
    source = Path(shutil.copytree(sources("parquet"), tmp_path / "in"))
    import pyarrow.parquet as pq

    path = source / "data" / "validation-00000-of-00001.parquet"
    table = pq.read_table(path)
    labels = table.column("label").to_pylist()
    wrong = table.set_column(1, "label", [[(label + 1) % 4 for label in labels]])
    pq.write_table(wrong, path)
    result = prepare(source, tmp_path / "out", OTHER)
    assert result.code == 1 and "which is not its class in the training photos" in result.err
    path.write_bytes(path.read_bytes()[:-10])
    assert f"{path} cannot be read as a Parquet file" in prepare(source, tmp_path / "out", OTHER).err


ODD_NAMES = ("with space.jpg", "ünï 日.jpg", "a+b.jpg", "50%.jpg", "%41.jpg", "what?.jpg", "no#1.jpg", "a&b=c;d'e.jpg")


@pytest.mark.parametrize("layout", ["folders", "pairs"])
def test_odd_names(prepare: Prepare, access: Access, tmp_path: Path, layout: str) -> None:
    root = tmp_path / "in"
    for number, name in enumerate(ODD_NAMES):
        for split in ("train", "val"):
            for wnid in ("tiger cat", "tiger", "50% & #?+é"):
                write_image(root / split / wnid / name, number)
    assert prepare(root, tmp_path / "out", OTHER).code == 0
    assert content(tmp_path / "out") == content(root)
    uri = f"ais://odd-{layout}"
    result = prepare(root, uri, OTHER, "--layout", layout)
    assert result.code == 0, result.err
    assert "0 written" in prepare(root, uri, OTHER, "--layout", layout).out
    there = objects(access, uri)
    if layout == "folders":
        assert {name: data for name, data in there.items() if name[0] != "."} == content(root)
    assert read_manifest(AisStore(uri, access), "train/").sha256() == scan_folder(root)[0].sha256()
    assert ("32 names hold ?, # or %" in result.err) == (layout == "folders")


def test_a_name_that_is_not_utf8(prepare: Prepare, small_folder: Path, tmp_path: Path) -> None:
    (small_folder / "train" / "cat" / "0.jpg").rename(small_folder / "train" / "cat" / "\udcff.jpg")
    result = prepare(small_folder, tmp_path / "out", OTHER)
    assert result.code == 2 and "is not UTF-8, as names in a bucket are: rename it" in result.err


def test_a_bucket_with_other_data(prepare: Prepare, small_folder: Path, access: Access) -> None:
    uri, bucket = "ais://others", make_client(access).bucket("others")
    assert prepare(small_folder, uri, OTHER).code == 0
    before = objects(access, uri)
    bucket.object("train/cow/1.jpg").get_writer().put_content(b"moo")
    refused = prepare(small_folder, uri, OTHER, "--replace")
    assert refused.code == 2 and f"{uri} holds other data: 'train/cow/1.jpg' does not belong" in refused.err
    bucket.object("train/cow/1.jpg").delete()

    photo = small_folder / "val" / "dog" / "1.jpg"
    for changed in (photo.read_bytes() + b"x", photo.read_bytes()[:-1] + b"x"):  # another size; only another checksum
        bucket.object("val/dog/1.jpg").get_writer().put_content(changed)
        refused = prepare(small_folder, uri, OTHER)
        assert refused.code == 2 and f"{uri} holds another val/dog/1.jpg" in refused.err
        assert objects(access, uri)["val/dog/1.jpg"] == changed
    assert "1 written" in prepare(small_folder, uri, OTHER, "--replace").out
    assert {name: data for name, data in objects(access, uri).items() if name[0] != "."} == {
        name: data for name, data in before.items() if name[0] != "."
    }
    refused = prepare(small_folder, uri, OTHER, "--layout", "pairs")
    assert refused.code == 2 and "in this layout" in refused.err


def test_labels_in_a_bucket_that_do_not_fit(prepare: Prepare, small_folder: Path, access: Access) -> None:
    uri = "ais://labels"
    assert prepare(small_folder, uri, OTHER, "--layout", "pairs").code == 0
    make_client(access).bucket("labels").object("train/0000012.cls").get_writer().put_content(b"2")
    refused = prepare(small_folder, uri, OTHER, "--layout", "pairs")
    assert refused.code == 2 and f"{uri} holds another train/0000012.cls" in refused.err
    mended = prepare(small_folder, uri, OTHER, "--layout", "pairs", "--replace")
    assert "1 written" in mended.out and objects(access, uri)["train/0000012.cls"] == b"1"


def test_an_archive_that_leads_out_of_the_folder(
    prepare: Prepare, sources: Callable[[str], Path], tmp_path: Path
) -> None:
    import tarfile

    source = Path(shutil.copytree(sources("archives"), tmp_path / "in"))
    with tarfile.open(source / "ILSVRC2012_img_train.tar", "a") as tar:
        inner = io.BytesIO()
        with tarfile.open(fileobj=inner, mode="w") as evil:
            evil.addfile(tarfile.TarInfo("x.JPEG"))
        member = tarfile.TarInfo("...tar")
        member.size = len(inner.getvalue())
        inner.seek(0)
        tar.addfile(member, inner)
    result = prepare(source, tmp_path / "out", OTHER)
    assert result.code == 2 and "'train/../x.JPEG' cannot be the name of a photo" in result.err


def test_two_at_once(prepare: Prepare, small_folder: Path, tmp_path: Path, access: Access) -> None:
    dest = tmp_path / "out"
    dest.mkdir()
    with FolderLease(dest, "run_dir", print):
        refused = prepare(small_folder, dest, OTHER)
    assert refused.code == 2 and f"DEST={dest} is in use by another run, process" in refused.err
    assert not (dest / "train").exists()
    make_client(access).bucket("twice").create()
    with Claim(AisStore("ais://twice", access), print):
        refused = prepare(small_folder, "ais://twice", OTHER)
    assert refused.code == 2 and "another upload to ais://twice is going on, process" in refused.err
    assert list(objects(access, "ais://twice")) == []


def test_oddities(prepare: Prepare, small_folder: Path, tmp_path: Path) -> None:
    cat = small_folder / "train" / "cat"
    picture = Image.open(cat / "0.jpg")
    picture.convert("CMYK").save(cat / "0.jpg")
    picture.convert("L").save(cat / "1.jpg")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    (cat / "2.jpg").write_bytes(buffer.getvalue())
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.convert("RGB").save(cat / "3.jpg", exif=exif)
    (cat / "4.jpg").write_bytes((cat / "5.jpg").read_bytes()[:-200])
    (cat / "6.jpg").write_bytes(b"no photo")
    result = prepare(small_folder, tmp_path / "out", OTHER)
    assert result.code == 0 and "1 PNG named .jpg: train/cat/2.jpg" in result.out, result.out
    expected = {
        "CMYK": ["train/cat/0.jpg"],
        "greyscale": ["train/cat/1.jpg"],
        "PNG named .jpg": ["train/cat/2.jpg"],
        "rotated by EXIF, which training ignores": ["train/cat/3.jpg"],
        "cut short": ["train/cat/4.jpg"],
        "cannot be decoded": ["train/cat/6.jpg"],
    }
    for _ in range(2):  # the second time all is there
        assert json.loads((tmp_path / "out/.imagenet-ais/prepare.json").read_text())["oddities"] == expected
        assert prepare(small_folder, tmp_path / "out", OTHER).code == 0
    assert content(tmp_path / "out") == content(small_folder)
    assert prepare(small_folder, tmp_path / "blind", OTHER, "--no-inspect").code == 0
    assert json.loads((tmp_path / "blind/.imagenet-ais/prepare.json").read_text())["oddities"] == {}


@pytest.fixture(scope="module")
def many(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 400 real photos."""
    root = tmp_path_factory.mktemp("many")
    for number, photo in enumerate(photos[:400]):
        path = root / ("val" if number % 10 == 9 else "train") / f"class {number % 3}" / photo.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(photo)
    return root


def kill_at(words: list[str], place: Path, number: int) -> int:
    """Start the command, kill it when ``place`` holds so many files; answers how many there were then."""
    process = subprocess.Popen([sys.executable, "-m", "scripts.prepare_imagenet", *words], cwd=PROJECT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    while process.poll() is None and count_files(place) < number:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -9, process.stderr and process.stderr.read()
    assert process.stderr is not None
    process.stderr.read()  # ends when the last of its processes has
    process.stderr.close()
    return count_files(place)


def count_files(place: Path) -> int:
    return sum(1 for path in place.rglob("*.JPEG") if path.is_file())


@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.long)])
def test_killed_and_gone_on_in_a_folder(prepare: Prepare, many: Path, tmp_path: Path, seed: int, kills: int) -> None:
    dest, rng = tmp_path / "out", random.Random(seed)
    for number in sorted(rng.sample(range(1, 380), kills)):
        kill_at([str(many), str(dest), OTHER, "--workers", "2"], dest, number)
        whole = content(many)
        assert all(whole[name] == data for name, data in content(dest).items())  # nothing half written
        assert not (dest / ".imagenet-ais/prepare.json").exists()
    there = count_files(dest)
    result = prepare(many, dest, OTHER)
    assert result.code == 0 and content(dest) == content(many), result.err
    assert json.loads((dest / ".imagenet-ais/prepare.json").read_text())["written"] <= 402 - there
    assert {path.name for path in (dest / ".imagenet-ais").iterdir()} == {"prepare.json", "train", "val"}
    assert {path.name for path in dest.iterdir()} == {"train", "val", ".imagenet-ais"}


@pytest.mark.parametrize("layout", ["folders", pytest.param("pairs", marks=pytest.mark.long)])
def test_killed_and_gone_on_in_a_bucket(
    prepare: Prepare, many: Path, server_root: Path, access: Access, seed: int, layout: str
) -> None:
    uri, rng = f"ais://killed-{layout}", random.Random(seed)
    place = server_root / "buckets" / uri[6:]
    words = [str(many), uri, OTHER, "--workers", "2", "--layout", layout]
    for number in sorted(rng.sample(range(1, 380), 2)):
        kill_at(words, place, number)
    there = count_files(place)
    result = prepare(*words[:3], "--layout", layout)
    assert result.code == 0, result.err
    reader = HttpReader(access)
    for prefix, local in zip(("train/", "val/"), scan_folder(many), strict=True):
        remote = read_manifest(AisStore(uri, access), prefix)
        assert (remote.sha256(), remote.classes) == (local.sha256(), local.classes)
    report = json.loads(reader.get(object_path(uri, ".imagenet-ais/prepare.json")))
    assert report["written"] + report["kept"] == (402 if layout == "folders" else 802)
    assert report["kept"] >= there
    names = list(objects(access, uri))
    assert not [name for name in names if name.startswith(CLAIMS)]  # those of the killed are gone


def test_a_disk_that_fills(prepare: Prepare, many: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"needs the right to mount a small disk: {mount.stderr.strip()}")
    try:
        full = prepare(many, disk / "out", OTHER)
        assert full.code == 1 and "could not be written: No space left on device. Make room." in full.err
        assert "warning: 0.0 GB are to be written" in full.err and "the same command goes on" in full.err
        whole = content(many)
        there = content(disk / "out")
        assert there and all(whole[name] == data for name, data in there.items())
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        result = prepare(many, disk / "out", OTHER)
        assert result.code == 0 and f"{len(there):,} were there already" in result.out
        assert content(disk / "out") == whole
    finally:
        subprocess.run(["umount", str(disk)], check=True)
