"""A disk's faults that may pass are waited for; what lasts is said at once; and what waits hears that the run ends."""

import errno
import io
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from etl import CorruptSample, Key, Spec, transform
from sources import disk
from sources.errors import DataError, UnreachableError
from sources.folder import FolderReader, scan_folder
from sources.notices import Listener, Notices, collect
from sources.samples import SampleDataset
from tests.conftest import TINY, Result, make_small_folder
from training.loader.loader import BatchIterator, open_loader
from training.loader.order import ValBatches

PASSING = [
    "ESTALE",
    "EIO",
    "ETIMEDOUT",
    "EAGAIN",
    "ENOTCONN",
    "EHOSTDOWN",
    "ECONNRESET",
    "ENOMEM",
    "ENFILE",
    "EMFILE",
    "ENOENT",
    "EREMOTEIO",
]
LASTING = ["EACCES", "ENOTDIR", "ELOOP", "EISDIR", "EPERM", "ENAMETOOLONG", "EINVAL"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_folder(tmp_path_factory.mktemp("small"))


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses, which take no time but by the clock."""
    pauses: list[float] = []
    clock = time.monotonic
    monkeypatch.setattr(disk, "time", FakeTime(pauses, clock))
    return pauses


class FakeTime:
    def __init__(self, pauses: list[float], clock: Callable[[], float]) -> None:
        self.sleep = pauses.append
        self.monotonic = lambda: clock() + sum(pauses)


class Flaky(io.BytesIO):
    def read(self, *_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def fail(monkeypatch: pytest.MonkeyPatch, name: str, number: int, times: int, when: str = "open") -> None:
    """Let the first ``times`` attempts to open or to read files with ``name`` in their paths fail."""
    left = times

    def flaky(path: Any, *arguments: Any) -> Any:
        nonlocal left
        if name in str(path) and left:
            left -= 1
            if when == "read":
                return Flaky()
            raise OSError(number, os.strerror(number), path)
        return open(path, *arguments)

    monkeypatch.setattr(disk, "open", flaky, raising=False)


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_waited_for_and_counted(
    root: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float], name: str
) -> None:
    manifest, _ = scan_folder(root)
    told: list[tuple[str, str]] = []
    reader = FolderReader(root / "train", manifest, 60.0, lambda path, why: told.append((path, why)))
    expected = reader.read(5)
    number = getattr(errno, name)
    fail(monkeypatch, manifest.name(5), number, 3)
    dataset = SampleDataset(reader, manifest, Spec.train(32), seed=9)
    batch = dataset.__getitems__([(0, 5), (0, 6)])
    assert (batch.images[0].numpy() == transform(expected, Spec.train(32), Key(9, 0, 5))).all()
    assert batch.counts.retries == 3 and slept == [0.05, 0.1, 0.2]
    assert told == [(f"{root}/train/{manifest.name(5)}", os.strerror(number))] * 3
    assert dataset.__getitems__([(0, 5)]).counts.retries == 0


def test_a_read_that_fails_is_like_an_open_that_does(
    root: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    manifest, _ = scan_folder(root)
    reader = FolderReader(root / "train", manifest, 60.0)
    fail(monkeypatch, manifest.name(0), 0, 2, "read")
    assert len(reader.read(0)) == manifest.sizes[0] and reader.retries == 2


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_said_at_once(root: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float], name: str) -> None:
    manifest, _ = scan_folder(root)
    number = getattr(errno, name)
    fail(monkeypatch, manifest.name(0), number, -1)
    with pytest.raises(DataError, match=f"{manifest.name(0)} cannot be read: {os.strerror(number)}") as caught:
        FolderReader(root / "train", manifest, 60.0).read(0)
    assert not isinstance(caught.value, UnreachableError) and slept == []


def test_patience_ends(root: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    manifest, _ = scan_folder(root)
    fail(monkeypatch, "train", errno.ESTALE, -1)
    with pytest.raises(UnreachableError, match=r"could not be read for 60 s \(data.patience_s\): Stale file handle"):
        FolderReader(root / "train", manifest, 60.0).read(0)
    assert 59 < sum(slept) <= 60 and max(slept) == 1.0


def test_a_file_that_is_gone_is_waited_for_shortly(root: Path, monkeypatch: pytest.MonkeyPatch, slept: Any) -> None:
    manifest, _ = scan_folder(root)
    fail(monkeypatch, manifest.name(0), errno.ENOENT, -1)
    with pytest.raises(CorruptSample, match="gone, and was there when the run started"):
        FolderReader(root / "train", manifest, 60.0).read(0)
    assert sum(slept) == pytest.approx(disk.MISSING_S, abs=0.5)


def test_a_disk_that_is_not_mounted_any_more_is_waited_for(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: Any
) -> None:
    manifest, _ = scan_folder(root)
    (tmp_path / "train").mkdir()  # where it was mounted
    with pytest.raises(UnreachableError, match="No such file or directory"):
        FolderReader(tmp_path / "train", manifest, 60.0).read(0)
    assert sum(slept) > 59


def test_a_file_that_is_another_one_by_now(tmp_path: Path) -> None:
    small = make_small_folder(tmp_path / "small")
    manifest, _ = scan_folder(small)
    path = small / "train" / manifest.name(0)
    path.write_bytes(path.read_bytes() + b"x")
    reader = FolderReader(small / "train", manifest)
    with pytest.raises(DataError, match=f"{path} is another file than when the run started: it has"):
        SampleDataset(reader, manifest, Spec.val(32, 36), 0).__getitems__([(0, 0)])
    path.unlink()
    with pytest.raises(DataError, match=f"{path} is gone, and was there when the run started"):
        SampleDataset(reader, manifest, Spec.val(32, 36), 0).__getitems__([(0, 0)])


def test_a_file_that_is_gone_is_replaced_where_that_is_wanted(tmp_path: Path) -> None:
    small = make_small_folder(tmp_path / "small")
    manifest, _ = scan_folder(small)
    (small / "train" / manifest.name(0)).unlink()
    reader = FolderReader(small / "train", manifest)
    batch = SampleDataset(reader, manifest, Spec.train(32), 0, replace=True).__getitems__([(0, 0)])
    (case,) = batch.replaced
    assert manifest.labels[case.by] == 0 != case.by and "0.jpg is gone, and was there" in case.reason


class FailingReader(FolderReader):
    """Whose disk is gone, for loader workers of processes of their own."""

    def read(self, index: int) -> bytes:
        disk.open = refuse  # type: ignore[attr-defined]
        return super().read(index)


def refuse(path: str, mode: str) -> Any:
    raise OSError(errno.EIO, os.strerror(errno.EIO), path)


@pytest.mark.parametrize("workers", [0, 2])
def test_who_waits_says_so_and_ends_with_the_loader(root: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "open", open, raising=False)  # undone where the worker is a thread
    manifest, _ = scan_folder(root)
    said: list[str] = []
    with Listener(600.0, said.append) as listener:
        reader = FailingReader(root / "train", manifest, 600.0, listener.notices.waits)
        dataset = SampleDataset(reader, manifest, Spec.val(32, 36), 0, notices=listener.notices)
        with open_loader(dataset, ValBatches(36, 4), workers, 1, torch.device("cpu")) as loader:
            feed = BatchIterator(loader)
            while not said:  # fill() returns every second, so that the run can stop
                assert not feed.fill()
            children = multiprocessing.active_children()
        assert [child.exitcode for child in children] == [0] * workers  # none was killed
        assert not any(thread.name.endswith("(_work)") for thread in threading.enumerate())
    assert len(said) == 1 and "(Input/output error): it is tried again, up to 600 s (data.patience_s)" in said[0]


def test_a_notice_is_never_longer_than_a_pipe_takes_at_once() -> None:
    said: list[str] = []
    with Listener(1.0, said.append) as listener:
        listener.notices.odd("ü" * 9000, "é" * 9000)
        listener.notices.odd("a.jpg", "Tag 7 is odd")
        listener.notices.odd("b.jpg", "Tag 8 is odd")
    assert (
        len(said) == 2 and said[0].startswith("note: üü") and "a.jpg is odd, and used as it is read: Tag 7" in said[1]
    )
    listener.notices.odd("c.jpg", "nobody listens any more")


def test_a_pipe_that_nobody_reads_holds_nobody_up() -> None:
    read, write = multiprocessing.Pipe(duplex=False)
    with read, write:
        for _ in range(2000):
            Notices(write).odd("x" * 100, "y" * 100)


def test_pillows_warnings_are_collected_and_those_of_others_are_not() -> None:
    collect()
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        collect()
        for text in ("Corrupt EXIF data.", "Corrupt  EXIF data"):
            warnings.warn_explicit(text, UserWarning, "/site-packages/PIL/TiffImagePlugin.py", 1, module="PIL.Tiff")
        warnings.warn_explicit("mine", UserWarning, "/home/me/PILOT/mine.py", 1)
        assert collect() == ["Corrupt EXIF data"] and collect() == []
        elsewhere: list[list[str]] = []
        thread = threading.Thread(target=lambda: elsewhere.append(collect()))
        thread.start()
        thread.join()
        assert elsewhere == [[]]
    assert [str(warning.message) for warning in others] in ([], ["mine"])


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[Path]:
    """A folder with a photo whose EXIF data are broken, in both splits."""
    small = make_small_folder(tmp_path / "small")
    for split in ("train", "val"):
        photo = small / split / "cat" / "0.jpg"
        tag = b"Exif\0\0II*\0\x08\0\0\0\1\0\x0f\1\2\0\xa0\xbb\x0d\0\0\xff\xff\x7f\0\0\0\0"
        data = photo.read_bytes()
        photo.write_bytes(data[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + data[2:])
    yield small


def test_a_run_names_an_odd_file_once_and_counts_it(train: Callable[..., Result], odd: Path) -> None:
    result = train(f"data.root={odd}", *TINY)
    assert result.code == 0, result.output
    assert result.output.count("is odd, and used as it is read: ") == 1, result.output
    assert "cat/0.jpg is odd" in result.output and "UserWarning" not in result.output
    assert [line["data_odd"] for line in result.metrics("train_epoch")] == [1, 1]


@pytest.mark.parametrize("place", ["train/eel/7.jpg", "val/eel/2.jpg"])
def test_a_run_whose_patience_is_over_is_saved(
    train: Callable[..., Result], root: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    fail(monkeypatch, place, errno.ESTALE, -1)
    result = train(f"data.root={root}", *TINY, "data.patience_s=0.1", "train.epochs=1")
    assert result.code == 1 and "Traceback" not in result.output
    assert f"error: {root}/{place} could not be read for 0.1 s (data.patience_s): Stale file handle." in result.output
    assert "What was done is saved in run/checkpoints/last.pt" in result.output
    assert (result.run_dir / "checkpoints" / "last.pt").exists()
    monkeypatch.undo()


def test_a_bad_file_of_val_has_advice_that_helps(train: Callable[..., Result], tmp_path: Path) -> None:
    small = make_small_folder(tmp_path / "small")
    (small / "val" / "cat" / "0.jpg").write_text("no photo")
    result = train(f"data.root={small}", *TINY, "data.on_corrupt=replace", "train.epochs=1")
    assert result.code == 1 and f"{small}/val/cat/0.jpg is not an image" in result.output
    assert "Replace the file or remove it: every validation sample counts, so data.on_corrupt=replace is for" in (
        result.output
    )
    (small / "val" / "cat" / "0.jpg").write_bytes(b"")
    result = train(f"data.root={small}", *TINY, "resume=never")
    assert result.code == 2 and "val/cat/0.jpg is empty, and 0 more files of val/ are" in result.output


def test_an_odd_object_of_a_bucket_is_named_too(train: Callable[..., Result], odd: Path) -> None:
    words = ("data=aistore", "data.endpoint=embedded", f"data.embedded_root={odd}", "data.transform=client")
    result = train(*words, *TINY, "train.epochs=1")
    assert result.code == 0, result.output
    assert result.output.count("ais://imagenet/train/cat/0.jpg is odd, and used as it is read: ") == 1, result.output
    assert "UserWarning" not in result.output
    assert [line["data_odd"] for line in result.metrics("train_epoch")] == [1]


@pytest.mark.parametrize("how", [pytest.param("etl", marks=pytest.mark.long), "client"])
def test_a_bucket_with_val_alone_is_evaluated(train: Callable[..., Result], tmp_path: Path, how: str) -> None:
    small = make_small_folder(tmp_path / "small")
    trained = train(f"data.root={small}", *TINY, "train.epochs=1", "run_dir=trained")
    (small / "train").rename(tmp_path / "train")
    words = ("data=aistore", "data.endpoint=embedded", f"data.embedded_root={small}", f"data.transform={how}", *TINY)
    weights = f"model.weights={trained.run_dir}/checkpoints/last.pt"
    result = train(*words, "mode=evaluate", weights)
    assert result.code == 0, result.output
    assert result.summary()["acc1"] == trained.summary()["acc1"]
    refused = train(*words, "run_dir=refused")
    assert refused.code == 2 and f"error: {small / 'train'} is missing" in refused.output


def test_the_embedded_server_says_what_is_wrong_with_a_folder(train: Callable[..., Result], tmp_path: Path) -> None:
    small = make_small_folder(tmp_path / "small")
    (small / "train" / "cow").symlink_to("/nowhere")
    words = ("data=aistore", "data.endpoint=embedded", f"data.embedded_root={small}", "data.transform=client", *TINY)
    result = train(*words)
    assert result.code == 2 and f"error: {small / 'train' / 'cow'} is a link to /nowhere" in result.output
