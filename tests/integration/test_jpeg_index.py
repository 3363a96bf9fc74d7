"""The JPEG index of a folder in whole runs: the same weights with it and without it, and sentences for what goes wrong."""

import errno
import json
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
    words = [*TINY, f"data.root={small_folder}", "data.fingerprint=full", "train.epochs=3"]
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
    words = [*TINY, f"data.root={small_folder / 'train'}", "data.fold=0/3", "train.epochs=3"]
    first = train(*words, "run_dir=first")
    assert "photos have an entry" in first.output and (small_folder / "train" / NAME).is_file()
    again = train(*words, "run_dir=again")
    assert again.code == 0, again.output
    assert again.summary()["state_sha256"] == first.summary()["state_sha256"]


def test_a_run_that_is_too_short_to_gain_and_an_evaluation_make_none_and_use_what_is_there(
    train: Train, small_folder: Path
) -> None:
    words = [*TINY, f"data.root={small_folder}"]
    short = train(*words, "train.epochs=2", "run_dir=short")
    assert short.code == 0 and not (small_folder / NAME).exists() and "JPEG index" not in short.output
    made = train(*words, "train.epochs=3", "run_dir=made")
    assert "JPEG index: 51 photos have an entry" in made.output
    weights = f"model.weights={made.run_dir / 'checkpoints' / 'last.pt'}"
    before = (small_folder / NAME).read_bytes()
    for photo in (small_folder / "val").rglob("*.jpg"):  # the entries of these fit no more
        photo.write_bytes((small_folder / "train" / "cat" / "2.jpg").read_bytes())
    for number, index in enumerate(("auto", "off")):
        run = train(*words, "mode=evaluate", weights, f"data.index={index}", f"run_dir=evaluated{number}")
        assert run.code == 0 and "JPEG index" not in run.output, run.output
    first, second = (json.loads((made.run_dir.parent / f"evaluated{n}/summary.json").read_text()) for n in (0, 1))
    assert first["loss"] == second["loss"]
    assert (small_folder / NAME).read_bytes() == before


def test_a_file_of_another_kind_and_a_full_disk_end_no_run(
    train: Train, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, f"data.root={small_folder}", "train.epochs=3"]
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
    assert (
        again.code == 0 and again.output.count(f"{where} is not a JPEG index that this version knows: remove it") == 1
    )
    assert where.read_text() == "a letter"
    assert again.summary()["state_sha256"] == run.summary()["state_sha256"]
