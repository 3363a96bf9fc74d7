"""Archives and labels that are damaged, made to harm, or something else: a sentence, and never more memory than allowed."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from aistore_data.upload.destination import Folder
from scripts.prepare import archives, flat, kaggle
from scripts.prepare.kaggle import Zipped
from scripts.prepare_imagenet import main
from sources import labels as label_files
from sources.errors import UserError
from sources.folder import scan_folder
from tests.conftest import write_image
from tests.support import downloads

Prepare = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Prepare:
    """The sentence that the command ends with."""

    def call(*words: object) -> str:
        assert main([*map(str, words), str(tmp_path / "out"), "--allow-other", "--workers", "1"]) in (1, 2)
        captured = capsys.readouterr().err
        assert captured.startswith("error: ") and "Traceback" not in captured
        return captured

    return call


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """As many small pictures as ``tests.support.downloads`` asks for, in one file."""
    path = tmp_path_factory.mktemp("pictures") / "0.JPEG"
    write_image(path, 1)
    return [path] * 600


@pytest.fixture
def three(pictures: Sequence[Path], tmp_path: Path) -> Path:
    """ImageNet's archives."""
    return downloads.archives(pictures, tmp_path / "in")


@pytest.fixture
def zipped(pictures: Sequence[Path], tmp_path: Path) -> Path:
    """Kaggle's zip."""
    return downloads.kaggle_zip(pictures, tmp_path / "in")


def add(tar: tarfile.TarFile, name: str, data: bytes, size: int | None = None, kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type = len(data) if size is None else size, kind
    tar.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
    tar.fileobj.write(data + bytes(-len(data) % 512))  # type: ignore[union-attr]


def test_a_devkit_that_unpacks_without_end(refused: Prepare, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "DEVKIT_BYTES", 1 << 20)
    path = three / "ILSVRC2012_devkit_t12.tar.gz"
    path.write_bytes(gzip.compress(bytes(8 << 20)))
    assert f"{path} cannot be read as ImageNet's devkit: it unpacks to more than 1,048,576 bytes" in refused(three)


@pytest.mark.parametrize("name", ["train", "val", "devkit"])
@pytest.mark.parametrize("what", ["huge header", "negative", "many headers", "noise", "a folder"])
def test_a_tar_made_to_harm(refused: Prepare, three: Path, name: str, what: str) -> None:
    path = three / archives_name(name)
    if what == "a folder":
        path.unlink()
        path.mkdir()
    else:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            if what == "huge header":
                add(tar, "././@LongLink", b"x" * 512, 8 << 30, tarfile.GNUTYPE_LONGNAME)
            elif what == "negative":
                add(tar, "n01440764.tar", b"", -512)
            elif what == "many headers":
                for _ in range(3000):
                    add(tar, "h", b"20 path=0123456789a\n", kind=tarfile.XHDTYPE)
            else:
                tar.fileobj.write(bytes(range(256)) * 40)  # type: ignore[union-attr]
        data = buffer.getvalue()
        path.write_bytes(gzip.compress(data) if name == "devkit" else data)
    assert str(three) in refused(three)


def archives_name(kind: str) -> str:
    return "ILSVRC2012_devkit_t12.tar.gz" if kind == "devkit" else f"ILSVRC2012_img_{kind}.tar"


def test_a_photo_that_says_it_is_huge(refused: Prepare, zipped: Path) -> None:
    data = bytearray(zipped.read_bytes())
    at = data.index(b"PK\1\2", data.rindex(b"CLS-LOC/val/ILSVRC2012_val_00000003") - 46)
    struct.pack_into("<I", data, at + 24, 0xFFFFFFF0)  # unpacked size in the list at the zip's end
    zipped.write_bytes(data)
    message = refused(zipped)
    assert "has 4,294,967,280 bytes, or would have when it is unpacked: that is no photo" in message
    assert "--max-photo-mb=4295" in message


def test_a_photo_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    body = zlib.compressobj(9, wbits=-15)
    data = body.compress(bytes(64 << 20)) + body.flush()
    path = tmp_path / "x.zip"
    path.write_bytes(b"PK\3\4" + bytes(22) + struct.pack("<HH", 0, 0) + data)
    with pytest.raises(UserError, match="damaged at byte 0: a file's checksum is wrong"):
        Zipped(str(path), 0, len(data), 1000, zipfile.ZIP_DEFLATED, 0).read()
    for offset, size in ((-5, 10), (1 << 70, 10), (0, -1)):
        with pytest.raises(UserError):
            Zipped(str(path), offset, size, 1000, zipfile.ZIP_DEFLATED, 0).read()


@pytest.mark.parametrize("name", [label_files.SOLUTION, kaggle.MAPPING])
@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize("what", ["binary", "long", "NUL", "one long field", "empty"])
def test_labels_that_are_none(
    refused: Prepare, zipped: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, what: str
) -> None:
    monkeypatch.setattr(label_files, "LABELS_BYTES", 300_000)
    folder = zipped.parent / "unpacked"
    content = {
        "binary": bytes(range(256)),
        "long": b"ImageId,PredictionString\n" * 20_000,
        "NUL": b"ImageId,PredictionString\n\0\0\0",
        "one long field": b"ImageId,PredictionString\n" + b"x" * 200_000,
        "empty": b"",
    }[what]
    (folder / name).write_bytes(content)
    if kind == "zip":
        with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
    message = refused(zipped if kind == "zip" else folder)
    assert label_files.SOLUTION in message or kaggle.MAPPING in message
    assert what != "long" or "has more than 300,000 bytes: that is not a file of labels" in message


def test_a_zip_of_another_kind(refused: Prepare, zipped: Path) -> None:
    data = bytearray(zipped.read_bytes())
    for at in range(len(data)):
        if data[at : at + 4] == b"PK\1\2":
            data[at + 8] |= 1  # encrypted
    zipped.write_bytes(data)
    assert "encrypted" in refused(zipped)
    for content in (b"", b"PK", b"PK\5\6" + bytes(18), bytes(5000), data[:-30]):
        zipped.write_bytes(content)
        assert str(zipped) in refused(zipped)


# Validation photos that lie flat.


@pytest.fixture
def lying_flat(pictures: Sequence[Path], tmp_path: Path) -> Path:
    """train/ in class folders, val/ flat, and nothing that says its labels."""
    root = tmp_path / "imagenet"
    for wnid, name, data in downloads.training(pictures):
        (root / "train" / wnid).mkdir(parents=True, exist_ok=True)
        (root / "train" / wnid / name).write_bytes(data)
    (root / "val").mkdir()
    for _, name, data in downloads.validation(pictures):
        (root / "val" / name).write_bytes(data)
    return root


def write_labels(kind: str, root: Path, pictures: Sequence[Path], three: Path) -> Path:
    rows = [(name, wnid) for wnid, name, _ in downloads.validation(pictures)]
    text = {
        "in order": "".join(f"{wnid}\n" for _, wnid in rows),
        "named": "".join(f"val/{name} {wnid}\n" for name, wnid in reversed(rows)),
        "csv": "".join(f"{name},{wnid}\n" for name, wnid in rows),
        "kaggle": "ImageId,PredictionString\n" + "".join(f"{name[:-5]},{wnid} 1 2 3 4\n" for name, wnid in rows),
        "numbers": "".join(f"{index}\n" for index, _ in enumerate(rows)),
    }
    devkit = three / "ILSVRC2012_devkit_t12.tar.gz"
    if kind == "devkit":
        return devkit
    if kind == "unpacked devkit":
        with tarfile.open(devkit) as tar:
            tar.extractall(root.parent, filter="data")
        return root.parent / "ILSVRC2012_devkit_t12"
    path = root.parent / "labels.txt"
    path.write_text(text[kind])
    return path


KINDS = ("in order", "named", "csv", "kaggle", "devkit", "unpacked devkit")


@pytest.mark.parametrize("kind", KINDS)
def test_val_that_lies_flat_is_sorted_where_it_lies(
    lying_flat: Path,
    pictures: Sequence[Path],
    three: Path,
    tmp_path: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = write_labels(kind, lying_flat, pictures, three)
    expected = {f"val/{wnid}/{name}" for wnid, name, _ in downloads.validation(pictures)}
    (lying_flat / "val" / downloads.BY_ID[0]).mkdir()  # as if it had been killed
    first = next(iter(downloads.validation(pictures)))[1]
    (lying_flat / "val" / first).rename(lying_flat / "val" / downloads.BY_ID[0] / first)
    assert main([str(lying_flat), str(labels), str(lying_flat), "--allow-other"]) == 0, capsys.readouterr().err
    assert "11 written" in capsys.readouterr().out
    assert {str(path.relative_to(lying_flat)) for path in (lying_flat / "val").rglob("*.JPEG")} == expected
    train, val = scan_folder(lying_flat)
    assert (len(train), len(val)) == (24, 12)


def test_parts_in_different_places_become_a_folder(
    lying_flat: Path, pictures: Sequence[Path], three: Path, tmp_path: Path
) -> None:
    labels = write_labels("in order", lying_flat, pictures, three)
    words = [str(lying_flat / "val"), str(labels), str(lying_flat / "train"), str(tmp_path / "out")]
    assert main([*words, "--allow-other", "--workers", "1"]) == 0
    assert len(scan_folder(tmp_path / "out")[1]) == 12 and len(list((lying_flat / "val").iterdir())) == 12


def test_labels_of_flat_photos_that_do_not_fit(
    refused: Prepare, lying_flat: Path, pictures: Sequence[Path], three: Path
) -> None:
    assert "LABELS" in refused(lying_flat)
    labels = write_labels("numbers", lying_flat, pictures, three)
    assert f"{labels} gives numbers, which mean different classes in different files" in refused(lying_flat, labels)
    write_labels("in order", lying_flat, pictures, three)
    good = labels.read_bytes()
    for content, why in (
        (b"\n".join(good.splitlines()[1:]), "has 11 labels for 12 photos"),
        (good.replace(b"n01440764", b"n99999999"), "is of the class 'n99999999' by"),
        (b"", "is empty"),
        (b"\xff\xfe\x00", "is not a text in UTF-8"),
        (gzip.compress(b"x"), "cannot be read as ImageNet's devkit"),
    ):
        labels.write_bytes(content)
        assert why in refused(lying_flat, labels)
    assert flat.labels_in(lying_flat) is None


def test_a_full_disk_in_the_middle_goes_on(
    pictures: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = downloads.imagefolder(pictures, tmp_path / "in")
    words = [str(source), str(tmp_path / "out"), "--allow-other", "--workers", "1"]
    put = Folder.put

    def full(self: Folder, name: str, data: bytes) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sources.disk.tempfile.NamedTemporaryFile", no_room)
            put(self, name, data)

    def no_room(*_: object, **options: object) -> object:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Folder, "put", full)  # in this process: the report, after all photos
    assert main(words) == 1
    assert "No space left on device. Make room. What was written stays, and the same command goes on" in (
        capsys.readouterr().err
    )
    monkeypatch.undo()
    assert main(words) == 0
    assert "0 written (0.0 MB), 38 were there already" in capsys.readouterr().out
