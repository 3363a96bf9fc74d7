"""What people have in their folders that is no plain ImageFolder: a sentence with the path, and nothing lost in silence."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from aistore_data.upload.items import index_folder
from sources import disk, walk
from sources.errors import ConfigError, DataError, UserError
from sources.folder import scan_folder
from tests.conftest import write_image

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An ImageFolder of two classes with one image each, in a folder named data."""
    for split in ("train", "val"):
        for number, name in enumerate(("ant", "bee")):
            write_image(tmp_path / "data" / split / name / "0.jpg", number)
    return tmp_path / "data"


def wrong(root: Path, kind: type[UserError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        scan_folder(root)
    text = str(caught.value)
    assert text.isprintable() and text.endswith((".", "?", "-delete"))
    with pytest.raises(kind):  # what uploads, shrinks and prepares says the same
        index_folder(root)
    return text


def warned(root: Path) -> list[str]:
    said: list[str] = []
    scan_folder(root, said.append)
    assert all(line.startswith("warning: ") and line.isprintable() for line in said)
    return said


def test_a_plain_folder_warns_of_nothing(root: Path) -> None:
    (root / "train" / "ant" / "notes.txt").write_text("left out")
    (root / "train" / "README").write_text("left out")
    assert warned(root) == []


@pytest.mark.parametrize("place", ["train/ant/x.jpg", "val/bee/deep", "train/cat", "val/cat"])
def test_a_link_that_leads_nowhere(root: Path, place: str) -> None:
    (root / place).symlink_to("/nowhere/at all")
    assert f"{root / place} is a link to /nowhere/at all, which does not exist" in wrong(root)


def test_a_class_that_dangles_in_both_splits_is_not_lost(root: Path) -> None:
    for split in ("train", "val"):
        (root / split / "cat").symlink_to(f"/nowhere/{split}/cat")
    assert f"{root / 'train' / 'cat'} is a link to /nowhere/train/cat" in wrong(root)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_that_dangles(root: Path, split: str) -> None:
    (root / split).rename(root / "elsewhere")
    (root / split).symlink_to(root / "gone")
    assert f"{root / split} is a link to {root / 'gone'}, which does not exist" in wrong(root)


@pytest.mark.parametrize("target", ["..", "../..", "../../train", "."])
def test_a_link_to_a_folder_above(root: Path, target: str) -> None:
    link = root / "train" / "ant" / "again"
    link.symlink_to(target)
    assert f"{root / 'train' / 'ant' / 'again'}" in wrong(root) and "leads back to a folder" in wrong(root)


def test_links_that_lead_somewhere_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "train" / "ant").rename(tmp_path / "ants")
    (root / "train" / "ant").symlink_to(tmp_path / "ants")
    (root / "train" / "bee" / "1.jpg").symlink_to(tmp_path / "ants" / "0.jpg")
    assert len(scan_folder(root)[0]) == 3


@pytest.mark.parametrize("place", ["train/ant/x.jpg", "train/cat"])
def test_a_link_in_a_circle(root: Path, place: str) -> None:
    (root / place).symlink_to(root / place)
    assert f"{root / place} is a link that leads in a circle" in wrong(root)


@pytest.mark.parametrize("place", ["train/ant", "val/bee", "train", "val", "train/lost+found"])
def test_a_folder_that_may_not_be_read(root: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / place).mkdir(exist_ok=True)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path) == root / place:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    message = wrong(root)
    assert f"{root / place} cannot be read: Permission denied" in message
    assert ("is the file system's own and no class" in message) == place.endswith("lost+found")


def test_an_empty_lost_and_found(root: Path) -> None:
    (root / "val" / "lost+found").mkdir()
    assert "a class that" in wrong(root)
    (root / "train" / "lost+found").mkdir()
    message = wrong(root)
    assert f"{root / 'train' / 'lost+found'} holds no images. It is the file system's own" in message


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_disk_that_fails_once_is_asked_again(root: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    scandir, calls = os.scandir, [0]

    def fail(path: str) -> object:
        calls[0] += 1
        if calls[0] % 2:
            raise OSError(number, os.strerror(number), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    monkeypatch.setattr(disk.time, "sleep", lambda s: None)
    assert len(scan_folder(root)[0]) == 2
    monkeypatch.setattr(os, "scandir", lambda path: (_ for _ in ()).throw(OSError(number, os.strerror(number), path)))
    monkeypatch.setattr(walk, "PATIENCE_S", 0.0)
    assert f"{root / 'train'} cannot be read: {os.strerror(number)}" in wrong(root, DataError)


def test_folders_of_programs_count_and_are_named(root: Path) -> None:
    write_image(root / "train" / ".ipynb_checkpoints" / "0-checkpoint.jpg", 1)
    write_image(root / "val" / "bee" / "@eaDir" / "0.jpg", 1)
    lines = warned(root)
    assert any(f"{root / 'train' / '.ipynb_checkpoints'} is a folder that a program has made" in line for line in lines)
    assert any(f"rm -r {root / 'val' / 'bee' / '@eaDir'}" in line for line in lines)
    assert scan_folder(root)[0].classes == (".ipynb_checkpoints", "ant", "bee")


@pytest.mark.parametrize("split", ["train", "val"])
def test_apple_double_files_are_refused_with_a_command_that_helps(root: Path, split: str) -> None:
    shutil.move(root, root := root.with_name("my data"))
    for name in ("._0.jpg", "._1.JPEG"):
        (root / split / "bee" / name).write_bytes(APPLE_DOUBLE)
    message = wrong(root)
    assert "2 files below" in message and "._" in message
    subprocess.run(message.rpartition("Delete them: ")[2], shell=True, check=True)
    assert warned(root) == []


def test_a_photo_whose_name_begins_like_them_stays(root: Path) -> None:
    write_image(root / "train" / "ant" / "._really.jpg", 3)
    assert warned(root) == [] and len(scan_folder(root)[0]) == 3


def test_empty_files_are_named(root: Path) -> None:
    (root / "train" / "ant" / "1.jpg").touch()
    assert any(f"1 images of {root / 'train'} are empty files, like" in line for line in warned(root))


def test_a_pipe_is_no_photo(root: Path) -> None:
    os.mkfifo(root / "train" / "ant" / "x.jpg")
    assert f"{root / 'train' / 'ant' / 'x.jpg'} is a pipe or a device and not a file" in wrong(root)


def test_a_file_where_a_class_is_in_the_other_split(root: Path) -> None:
    shutil.rmtree(root / "val" / "bee")
    assert any("has no folder for 1 of the 2 classes, like bee" in line for line in warned(root))
    (root / "val" / "bee").write_text("")
    assert f"{root / 'val' / 'bee'} is a file, and a class folder in {root / 'train'}" in wrong(root)


def test_a_name_that_is_not_utf8_is_shown(root: Path) -> None:
    os.rename(root / "train" / "ant" / "0.jpg", os.fsencode(root / "train" / "ant") + b"/\xff\n.jpg")
    assert len(scan_folder(root)[0]) == 2
    os.symlink("/nowhere", os.fsencode(root / "train" / "ant") + b"/\xfe.jpg")
    assert "\\xfe.jpg is a link to /nowhere" in wrong(root)


def flat_val(root: Path) -> str:
    shutil.rmtree(root / "val")
    for number in range(5):
        write_image(root / "val" / f"ILSVRC2012_val_0000000{number}.JPEG", number)
    return (
        f"{root / 'val'} has no class folders: 5 images lie flat in it, ILSVRC2012_val_00000000.JPEG, "
        "ILSVRC2012_val_00000001.JPEG, ILSVRC2012_val_00000002.JPEG, …, and their classes are in a file of labels. "
        f"python -m scripts.prepare_imagenet {root} LABELS {root} sorts them where they lie"
    )


def flat_train(root: Path) -> str:
    (root / "train" / "ant" / "0.jpg").rename(root / "train" / "0.jpg")
    shutil.rmtree(root / "train" / "ant")
    shutil.rmtree(root / "train" / "bee")
    return f"{root / 'train'} has no class folders: 1 image lies directly in it, 0.jpg, and belong in"


def too_deep(root: Path) -> str:
    (root / "train").rename(root / "t")
    (root / "train").mkdir()
    (root / "t").rename(root / "train" / "train")
    return f"{root / 'train'} holds train/ alone, which holds 2 folders: the classes lie too deep. Move them up, as mv "


def packed(root: Path) -> str:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    (root / "train" / "n01440764.tar").touch()
    return f"{root / 'train'} has no class folders: 1 archive lies in it, n01440764.tar. Unpack each"


def packed_in_part(root: Path) -> str:
    (root / "train" / "n01440764.tar").touch()
    return f"{root / 'train' / 'n01440764.tar'} is not unpacked, and its class would be missing"


def other_name(root: Path) -> str:
    (root / "val").rename(root / "validation")
    return f"{root / 'val'} is missing: {root} must hold train/ and val/, each with a folder for each class. Rename"


def one_too_high(root: Path) -> str:
    (root / "imagenet").mkdir()
    for split in ("train", "val"):
        (root / split).rename(root / "imagenet" / split)
    return f"Did you mean {root / 'imagenet'}?"


def archives(root: Path) -> str:
    shutil.rmtree(root / "train")
    (root / "ILSVRC2012_img_train.tar").touch()
    return f"python -m scripts.prepare_imagenet {root} DEST takes ImageNet's as they are."


def a_file(root: Path) -> str:
    shutil.rmtree(root)
    root.touch()
    return f"{root} is a file, not a folder: it must hold train/ and val/"


@pytest.mark.parametrize(
    "make", [flat_val, flat_train, too_deep, packed, packed_in_part, other_name, one_too_high, archives, a_file]
)
def test_data_as_they_were_downloaded(root: Path, make: Callable[[Path], str]) -> None:
    expected = make(root)
    assert expected in wrong(root)


def test_the_root_is_one_of_the_splits(root: Path) -> None:
    assert f"Did you mean {root}?" in wrong(root / "train")


def test_images_and_archives_beside_classes_are_named(root: Path) -> None:
    write_image(root / "val" / "montage.png", 1)
    (root / "train" / "more.tar").touch()
    lines = warned(root)
    assert any(f"1 images lie directly in {root / 'val'}, like montage.png" in line for line in lines)
    assert any(f"{root / 'train' / 'more.tar'} is an archive that is not unpacked" in line for line in lines)


def test_a_class_folder_without_images_says_what_it_holds(root: Path) -> None:
    (root / "train" / "cat").mkdir()
    for name in ("a.heic", "b.heic", "c.jpg.gz"):
        (root / "train" / "cat" / name).touch()
    assert "it holds 3 other files or folders (.gz, .heic)" in wrong(root)


def test_a_path_that_is_too_long(root: Path) -> None:
    assert "its path is too long" in wrong(root / ("x" * 300))


def test_validation_alone(root: Path) -> None:
    train, val = scan_folder(root, with_train=False)
    assert (len(train), len(val), val.classes) == (0, 2, ("ant", "bee"))
    shutil.rmtree(root / "train")
    train, val = scan_folder(root, with_train=False)
    assert (len(train), len(val), val.classes) == (0, 2, ("ant", "bee"))
