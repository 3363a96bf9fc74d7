"""The JPEG index of a folder in whole runs: the same weights with it and without it, and sentences for what goes wrong."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import etl.jpeg_index
from etl.jpeg_index import JpegIndex, can_use
from etl.sample import native
from sources.jpeg_index import NAME
from tests.conftest import TINY, Result

Train = Callable[..., Result]

pytestmark = pytest.mark.skipif(not can_use(native()), reason="imagenet_ais_native is not built, or older: make setup")


def test_runs_are_equal_with_it_and_without_it(train: Train, small_folder: Path) -> None:
    words = [*TINY, f"data.root={small_folder}", "data.fingerprint=full", "train.epochs=1"]
    off = train(*words, "data.index=off", "run_dir=off")
    assert off.code == 0 and not (small_folder / NAME).exists() and "JPEG index" not in off.output
    making = train(*words, "run_dir=making", "data.workers=1")
    assert (
        "JPEG index: 51 photos have an entry, 5" in making.output and f"each in {small_folder / NAME}" in making.output
    )
    using = train(*words, "run_dir=using")
    assert "JPEG index" not in using.output  # nothing is new
    one = small_folder / "train" / "cat" / "1.jpg"
    one.write_bytes((small_folder / "train" / "cat" / "2.jpg").read_bytes())
    other = train(*words, "run_dir=other", "data.index=auto")
    assert "JPEG index: 51 photos have an entry" in other.output
    assert "; 1 that were damaged, or of another content, were made anew" in other.output
    without = train(*words, "run_dir=without", "data.index=off")
    for first, *others in ((off, making, using), (other, without)):
        for run in others:
            assert run.summary()["state_sha256"] == first.summary()["state_sha256"]
            assert run.fingerprints() == first.fingerprints()


def test_it_is_no_class_of_a_folder_that_is_divided(train: Train, small_folder: Path) -> None:
    words = [*TINY, f"data.root={small_folder / 'train'}", "data.fold=0/3", "train.epochs=1"]
    first = train(*words, "run_dir=first")
    assert "26 photos have an entry" in first.output and (small_folder / "train" / NAME).is_file()
    again = train(*words, "run_dir=again")
    assert again.code == 0, again.output
    assert again.summary()["state_sha256"] == first.summary()["state_sha256"]


def test_a_file_of_another_kind_and_a_full_disk_end_no_run(
    train: Train, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, f"data.root={small_folder}", "train.epochs=1"]
    pwrite, written = os.pwrite, []

    def full(file: int, content: bytes, offset: int) -> int:
        written.append(len(content))
        if len(written) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(file, content, offset)

    with monkeypatch.context() as patch:
        patch.setattr(etl.jpeg_index.os, "pwrite", full)
        run = train(*words, "run_dir=full")
    where = small_folder / NAME
    assert run.code == 0, run.output
    sentence = f"no more entries are written to the JPEG index {where}: No space left on device. The run goes on"
    assert run.output.count(sentence) == 1 and "9 photos have an entry" in run.output
    assert JpegIndex(str(where), 51).tally().photos == 9
    where.write_text("a letter")
    again = train(*words, "run_dir=again")
    assert again.code == 0 and again.output.count(f"{where} is no JPEG index that this version knows: remove it") == 1
    assert where.read_text() == "a letter"
    assert again.summary()["state_sha256"] == run.summary()["state_sha256"]
