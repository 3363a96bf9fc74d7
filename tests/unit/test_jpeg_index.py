"""The file of a JPEG index: the same bytes with it, whatever happens to it, to its photos and to who writes it."""

import errno
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import etl.jpeg_index
from etl import Key, Spec, transform
from etl.jpeg_index import REASONS, IndexFileError, JpegIndex, Refusal, can_use
from etl.sample import native
from scripts import make_index
from sources.jpeg_index import NAME, open_index, places
from tests.conftest import PROJECT, make_small_folder

SPECS = [Spec.train(32), Spec.val(32, 36)]

pytestmark = pytest.mark.skipif(not can_use(native()), reason="imagenet_ais_native is not built, or older: make setup")


def jpeg(seed: int, size: tuple[int, int] = (300, 220), **options: object) -> bytes:
    blobs = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8))
    buffer = io.BytesIO()
    blobs.resize(size).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def check(index: JpegIndex, photos: dict[str, bytes]) -> None:
    """Samples of all photos have the same bytes with the index."""
    for number, (name, data) in enumerate(photos.items()):
        for spec in SPECS:
            key = Key(7, 1, number)
            assert np.array_equal(transform(data, spec, key), transform(data, spec, key, entry=index.entry(name)))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "index")


@pytest.fixture
def photos() -> dict[str, bytes]:
    return {f"train/{number}.jpg": jpeg(number) for number in range(4)}


def test_the_first_sample_makes_an_entry_and_the_next_ones_use_it(path: str, photos: dict[str, bytes]) -> None:
    index = JpegIndex(path, 4)
    check(index, photos)
    tally, size = index.tally(), Path(path).stat().st_size
    assert tally == (4, sum(len(index.find(index.entry(name).key)) for name in photos), {}, 0)
    assert tally.size < 0.02 * sum(map(len, photos.values()))
    module = native()
    assert module is not None
    for name, data in photos.items():
        entry = index.entry(name)
        assert index.find(entry.key) == module.make_index(data)
        assert entry.is_of_size(len(data)) and not entry.is_of_size(len(data) + 1)
    again = pickle.loads(pickle.dumps(JpegIndex(path, 4)))
    check(again, photos)
    assert again.tally() == tally and Path(path).stat().st_size == size


def test_what_the_decoder_does_not_take_is_noted_once_with_its_reason(path: str) -> None:
    data = {"progressive": jpeg(1, progressive=True), "padded": jpeg(2)[:-2] + bytes(9) + b"\xff\xd9", "sound": jpeg(3)}
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    data["a PNG"] = buffer.getvalue()
    index = JpegIndex(path, 4)
    check(index, data)
    assert index.tally().refused == {REASONS[0]: 2, REASONS[1]: 1} and index.tally().photos == 1
    before = os.stat(path).st_mtime_ns
    check(index, data)
    assert os.stat(path).st_mtime_ns == before
    assert index.find(index.entry("progressive").key) == Refusal(len(data["progressive"]), REASONS[0])
    check(index, data | {"progressive": jpeg(4)})  # mended
    assert index.tally().photos == 2


@pytest.mark.parametrize("size", [(300, 220), (120, 90)])
def test_a_photo_that_is_replaced_gets_a_new_entry(path: str, photos: dict[str, bytes], size: tuple[int, int]) -> None:
    index = JpegIndex(path, 4)
    check(index, photos)
    photos["train/0.jpg"] = jpeg(9, size)
    check(index, photos)
    assert index.tally().renewed == 1 and index.tally().photos == 4
    data = bytearray(photos["train/1.jpg"])  # another one of the same size
    data[-400] ^= 8
    check(index, {"train/1.jpg": bytes(data)})
    assert index.tally().renewed == 2


def test_damage_anywhere_in_the_file_changes_no_byte(path: str, photos: dict[str, bytes]) -> None:
    check(JpegIndex(path, 4), photos)
    sound = Path(path).read_bytes()
    first = len(sound) - JpegIndex(path, 4).tally().size
    used = [at for at in range(64, first) if sound[at]]
    draw = np.random.default_rng(0)
    for at in [*draw.choice(used, 20).tolist(), *draw.integers(first, len(sound), 20).tolist()]:
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([sound[at] ^ 1 << int(draw.integers(8))]))
        check(JpegIndex(path, 4), photos)
    for length in (len(sound) - 5, first + 3, 64 + 40, 64):
        os.truncate(path, length)
        check(JpegIndex(path, 4), photos)
    index = JpegIndex(path, 4)
    os.truncate(path, 20)
    check(index, photos)
    check(index, {"train/0.jpg": jpeg(9)})
    assert "is not a JPEG index that this version knows" in index.problem
    with pytest.raises(IndexFileError, match="remove it"):
        JpegIndex(path, 4)


def test_a_file_of_another_kind_is_left_alone(path: str) -> None:
    other = b"imagenet-ais JPEG index 2\n" + bytes(100)
    for content in (other, b"a letter"):
        Path(path).write_bytes(content)
        with pytest.raises(IndexFileError, match=f"{path} is not a JPEG index that this version knows: remove it"):
            JpegIndex(path, 4)
        assert Path(path).read_bytes() == content
    Path(path).unlink()
    for make in (Path.mkdir, os.mkfifo, lambda path: Path(path).symlink_to("elsewhere")):
        make(Path(path))
        with pytest.raises(IndexFileError, match="is not a file, as a JPEG index is: remove it"):
            JpegIndex(path, 4)
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def test_one_that_is_too_small_for_the_data_begins_anew(path: str, photos: dict[str, bytes]) -> None:
    check(JpegIndex(path, 4), photos)
    former = JpegIndex(path, 80_000)
    assert former.tally().photos == 4
    assert JpegIndex(path, 90_000).tally().photos == 0
    check(former, {"another": jpeg(5)})
    assert former.tally().photos == 5 and JpegIndex(path, 90_000).tally().photos == 0
    check(JpegIndex(path, 90_000), photos)
    assert JpegIndex(path, 4).tally().photos == 4


def test_a_full_disk_ends_the_writing_alone(
    path: str, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, pwrite = JpegIndex(path, 4), os.pwrite

    def full(file: int, content: bytes, offset: int) -> int:
        if len(content) > 200:
            return pwrite(file, content[:200], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    check(index, {"train/0.jpg": photos["train/0.jpg"]})
    size = os.stat(path).st_size
    with monkeypatch.context() as patch:
        patch.setattr(etl.jpeg_index.os, "pwrite", full)
        check(index, photos)
    assert index.problem == "No space left on device" and os.stat(path).st_size == size
    check(index, photos)
    assert index.tally().photos == 1
    small = JpegIndex(path, 4, limit=size)
    check(small, photos)
    assert "GB that it may have" in small.problem and os.stat(path).st_size == size


def test_in_a_folder_that_cannot_be_written_to_it_is_read_or_lies_in_the_cache(
    tmp_path: Path, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root, said = tmp_path / "data", list[str]()
    root.mkdir()
    opened, read_only = os.open, str(root)

    def open_(path: str, flags: int, *mode: int, **more: int) -> int:
        if str(path).startswith(read_only) and flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, *mode, **more)

    def index() -> JpegIndex:
        found = open_index(root, 4, said.append)
        assert found is not None
        return found.file

    with monkeypatch.context() as patch:
        patch.setattr(etl.jpeg_index.os, "open", open_)
        check(index(), photos)
        assert index().path == str(places(root)[1]) and index().tally().photos == 4
        read_only = str(tmp_path)
        shutil.rmtree(tmp_path / "cache")
        assert open_index(root, 4, said.append) is None
        assert said == [
            f"warning: no JPEG index is used, and crops take longer to decode: {places(root)[1]} cannot be written: "
            "No such file or directory"
        ]
    check(index(), {"train/0.jpg": photos["train/0.jpg"]})
    with monkeypatch.context() as patch:
        patch.setattr(etl.jpeg_index.os, "open", open_)
        there = index()
        assert there.path == str(root / NAME) and not there.is_written
        check(there, photos)
        assert there.tally().photos == 1 and there.problem == ""
    (root / NAME).write_bytes(b"a letter")
    assert open_index(root, 4, said.append) is None and f"{root / NAME} is not a JPEG index" in said[-1]


WRITER = """
import sys
from pathlib import Path
import imagenet_ais_native
from etl.jpeg_index import JpegIndex
index, photos = JpegIndex(sys.argv[1], 40), {p.name: p.read_bytes() for p in Path(sys.argv[2]).iterdir()}
print("ready", flush=True)
while True:
    for name, data in photos.items():  # others are replaced all the time
        for content in [data, photos["0"], data][2 * (index.entry(name).key % 2) :]:
            index.entry(name).make(imagenet_ais_native, content)
"""


def test_processes_write_at_once_and_are_killed_at_any_moment(path: str, tmp_path: Path) -> None:
    photos = {str(number): jpeg(number, (64, 48)) for number in range(40)}
    (tmp_path / "photos").mkdir()
    for name, data in photos.items():
        (tmp_path / "photos" / name).write_bytes(data)
    command = [sys.executable, "-c", WRITER, path, str(tmp_path / "photos")]
    draw = np.random.default_rng()
    for _ in range(2):
        writers = [subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE) for _ in range(2)]
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(draw.uniform(0, 0.05))
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        check(JpegIndex(path, 40), photos)
    index, module = JpegIndex(path, 40), native()
    assert module is not None and index.tally().photos == 40
    for name, data in photos.items():
        assert index.find(index.entry(name).key) == module.make_index(data)


def test_it_is_made_ahead_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_small_folder(tmp_path / "small")
    assert make_index.main([str(root), "--workers", "1"]) == 0
    assert "51 photos read, 0 were there already" in capsys.readouterr().out
    (root / "train" / "cat" / "new.jpg").write_bytes(jpeg(1, progressive=True))
    (root / "val" / "eel" / "1.jpg").write_bytes(jpeg(2))
    assert make_index.main([str(root), "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 photos read, 50 were there already\n51 photos have an entry" in said
    assert f"1 have none ({REASONS[0]}); 1 that were damaged, or of another content, were made anew" in said
    index = open_index(root, 52, pytest.fail)
    assert index is not None and index.before == index.file.tally()
    photos = {name: (root / name).read_bytes() for name, _ in make_index.photos_below(root)}
    check(index.file, photos)
    split = index.of(root / "train").entry("dog/3.jpg")
    assert split == index.file.entry("train/dog/3.jpg") and index.of(root).entry("x") == index.file.entry("x")
    assert index.file.tally() == index.before
    (tmp_path / "empty").mkdir()
    for folder, words in ((tmp_path / "none", "none"), (tmp_path / "empty", "holds no images")):
        assert make_index.main([str(folder)]) == 2
        assert words in capsys.readouterr().err
    (root / NAME).write_bytes(b"a letter")
    assert make_index.main([str(root)]) == 2
    assert f"{root / NAME} is not a JPEG index that this version knows: remove it." in capsys.readouterr().err
    monkeypatch.setenv("IMAGENET_AIS_NATIVE", "0")
    assert make_index.main([str(root)]) == 2 and "make setup" in capsys.readouterr().err
