"""A photo that is overwritten by one of equal size, and copies of a data set that are the same."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY, Result
from training.config.schema import Config
from training.loader.open_data import open_data
from training.processes.world import World
from training.state.content import changes_of_content, describe_content

Train = Callable[..., Result]


def other_bytes(path: Path, times: tuple[int, int] | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    if times:
        os.utime(path, ns=times)


def test_an_overwritten_photo_is_named_and_a_copy_goes_on(train: Train, small_folder: Path, tmp_path: Path) -> None:
    words = [*TINY, "train.epochs=1", f"data.root={small_folder}"]
    assert train(*words).code == 0
    copied = shutil.copytree(small_folder, tmp_path / "copy", copy_function=shutil.copyfile)
    again = train(*TINY, "train.epochs=2", f"data.root={copied}")
    assert again.code == 0, again.output
    photo = Path(copied) / "train" / "dog" / "7.jpg"
    other_bytes(photo)
    result = train(*TINY, "train.epochs=3", f"data.root={copied}")
    assert result.code == 2 and f"data set train, files in {copied}/train: as the run began → changed" in result.output
    assert str(photo) in result.output
    assert train(*TINY, "train.epochs=3", f"data.root={copied}", "allow_changes=true").code == 0


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_is_found_and_what_cannot_be(small_folder: Path, tmp_path: Path, split: str) -> None:
    before = facts(small_folder)
    assert changes_of_content(before, facts(small_folder)) == []
    photo = small_folder / split / "cat" / "1.jpg"
    status = photo.stat()
    copy = Path(shutil.copytree(small_folder, tmp_path / "copy", copy_function=shutil.copyfile))
    assert changes_of_content(before, facts(copy)) == []
    os.utime(photo, ns=(5, 5))  # touched, to an older time: it cannot be named
    [(name, _, now)] = changes_of_content(before, facts(small_folder))
    assert name == f"data set {split}, files in {small_folder}/{split}" and now == "changed since"
    other_bytes(photo, (status.st_atime_ns, status.st_mtime_ns))
    [(name, _, _)] = changes_of_content(before, facts(small_folder))
    assert name == f"data set {split}, content of samples"  # few samples: the probe has them all
    assert changes_of_content({}, before) == changes_of_content(before, {}) == []


def facts(root: Path) -> dict[str, object]:
    config = Config()
    config.data.root = str(root)
    with open_data(config, 4, World(), print) as data:
        return describe_content(config, data.train, data.val)


def test_a_bucket_has_the_contents_of_its_folder(train: Train, small_folder: Path) -> None:
    assert train(*TINY, "train.epochs=1", f"data.root={small_folder}").code == 0
    bucket = ["data=aistore", "data.endpoint=embedded", f"data.embedded_root={small_folder}", "data.transform=client"]
    result = train(*TINY, *bucket, "train.epochs=2")
    assert result.code == 0, result.output
    other_bytes(small_folder / "val" / "eel" / "2.jpg")
    changed = train(*TINY, *bucket, "train.epochs=3")
    assert changed.code == 2 and "data set val, content of samples" in changed.output
