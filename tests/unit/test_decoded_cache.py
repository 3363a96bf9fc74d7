"""Decoded photos on a disk: the contract's bytes or a miss, whatever happens to the files; never more than the limit."""

import errno
import fcntl
import inspect
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from etl import CorruptSample, Key, Spec, transform
from etl.decoded_cache import FOLDER, LONGEST, CacheError, DecodedCache
from etl.decoded_rows import row_bytes
from etl.decoded_sample import decoded, file_key, is_settled, keep, sample_from_cache
from etl.sample import NATIVE_VARIABLE, native
from tests.conftest import PROJECT

SPECS = [
    Spec.train(),
    Spec.val(),
    Spec.train(96, interpolation="bicubic", augment="ra", jitter=0.3),
    Spec.val(40, 64, "bicubic"),
]
LIMIT = 40_000_000


def key_of(number: int) -> bytes:
    return np.random.default_rng(number).bytes(16)


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    blocks = np.random.default_rng([seed, width, height]).integers(
        0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8
    )
    return blocks.repeat(4, 0).repeat(4, 1)[:height, :width]


def encoded(pixels: np.ndarray, form: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


PHOTOS = {
    "4:2:0": encoded(picture(301, 203), "JPEG", subsampling=2),
    "4:4:4": encoded(picture(97, 411), "JPEG", subsampling=0),
    "grey": encoded(picture(120, 80), "JPEG", "L"),
    "progressive": encoded(picture(131, 77), "JPEG", progressive=True),
    "CMYK": encoded(picture(64, 48), "JPEG", "CMYK"),
    "PNG": encoded(picture(55, 70), "PNG", "P"),
    "one pixel": encoded(picture(1, 1), "PNG"),
    "a row": encoded(picture(5, 1), "JPEG"),
    "WebP": encoded(picture(40, 41), "WEBP"),
}


@pytest.fixture(params=["native", "pillow"])
def ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """With the native module where it can read rows, and without it."""
    if request.param == "native" and not hasattr(native(), "resample_rows"):
        pytest.skip("imagenet_ais_native is not built, or older than its source: make setup")
    with patch.dict(os.environ, {NATIVE_VARIABLE: "0"} if request.param == "pillow" else {}):
        yield


@pytest.fixture
def cache(tmp_path: Path) -> DecodedCache:
    return DecodedCache(str(tmp_path), LIMIT)


def sample(cache: DecodedCache, key: bytes, spec: Spec, index: int = 0) -> np.ndarray | None:
    out = np.full((spec.size, spec.size, 3), 7, np.uint8)
    return out if sample_from_cache(cache, key, spec, Key(3, 1, index), out) else None


def test_samples_have_the_contracts_bytes(cache: DecodedCache, ways: None) -> None:
    for number, (name, photo) in enumerate(PHOTOS.items()):
        assert sample(cache, key_of(number), SPECS[0]) is None
        assert keep(cache, key_of(number), photo)
        for spec in SPECS:
            for index in range(3):
                made = sample(cache, key_of(number), spec, index)
                assert made is not None, name
                assert np.array_equal(made, transform(photo, spec, Key(3, 1, index))), (name, spec)
    assert cache.photos == len(PHOTOS)


def test_what_is_no_photo_is_not_kept(cache: DecodedCache) -> None:
    with pytest.raises(CorruptSample):
        keep(cache, key_of(0), PHOTOS["4:2:0"][:2000])
    assert cache.photos == 0


def test_a_photo_is_decoded_as_pillow_does_it() -> None:
    for name, photo in PHOTOS.items():
        assert np.array_equal(decoded(photo), np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))), name


def test_very_long_photos_are_not_kept(cache: DecodedCache) -> None:
    assert not cache.keep(key_of(0), np.zeros((LONGEST + 1, 1, 3), np.uint8))
    assert cache.photos == 0 and not cache.full


def test_damage_is_a_miss_and_mended(cache: DecodedCache, tmp_path: Path, ways: None) -> None:
    photo, key, spec = PHOTOS["4:2:0"], key_of(1), Spec.val(64, 64)
    keep(cache, key, photo)
    path, whole = tmp_path / FOLDER / "pixels", transform(PHOTOS["4:2:0"], Spec.val(64, 64))
    content, drawn = path.read_bytes(), random.Random(5)
    for _ in range(60):
        damaged, place = bytearray(content), drawn.randrange(len(content))
        damaged[place : place + drawn.choice((1, 8, 512, 4096))] = drawn.choice((b"", bytes(8), drawn.randbytes(8)))
        path.write_bytes(bytes(damaged[: len(content)]))
        made = sample(cache, key, spec)
        assert made is None or np.array_equal(made, whole)
    path.write_bytes(content[: len(content) // 2])
    assert sample(cache, key, spec) is None
    assert keep(cache, key, photo) and cache.photos == 1
    assert path.read_bytes() == content


def test_every_bit_of_a_row_is_checked(cache: DecodedCache, tmp_path: Path, ways: None) -> None:
    keep(cache, key_of(1), PHOTOS["a row"])
    path = tmp_path / FOLDER / "pixels"
    content = path.read_bytes()
    assert len(content) == row_bytes(5) == 24
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert sample(cache, key_of(1), Spec.val(8, 8)) is None, bit


def test_a_damaged_index_gives_no_other_pixels(cache: DecodedCache, tmp_path: Path, ways: None) -> None:
    for number, name in enumerate(("4:2:0", "4:4:4", "grey")):
        keep(cache, key_of(number), PHOTOS[name])
    spec, wanted, drawn = Spec.val(64, 64), transform(PHOTOS["4:2:0"], Spec.val(64, 64)), random.Random(6)
    place = cache._search(key_of(0))[0]
    entry = cache._map[place : place + 32]
    for _ in range(300):
        bit = drawn.randrange(16 * 8, 32 * 8)
        damaged = bytearray(entry)
        damaged[bit // 8] ^= 1 << bit % 8
        cache._map[place : place + 32] = bytes(damaged)
        made = sample(cache, key_of(0), spec)
        assert made is None or np.array_equal(made, wanted), bit
    cache._map[place : place + 32] = entry
    assert sample(cache, key_of(0), spec) is not None


def test_the_limit_holds(tmp_path: Path) -> None:
    limit = 2_000_000
    cache = DecodedCache(str(tmp_path), limit)
    kept = [cache.keep(key_of(number), picture(200, 150, number)) for number in range(40)]
    files = list((tmp_path / FOLDER).iterdir())
    assert kept == sorted(kept, reverse=True) and 15 < sum(kept) < 40 and cache.full
    assert cache.size <= limit and sum(file.stat().st_size for file in files) <= limit
    assert sum(512 * file.stat().st_blocks for file in files) <= limit + 8192  # blocks of the file system
    again = DecodedCache(str(tmp_path), limit)
    assert again.photos == sum(kept) and not again.keep(key_of(99), picture(200, 150))
    with pytest.raises(CacheError, match="already, more than"):
        DecodedCache(str(tmp_path), 1_000_000)
    more = DecodedCache(str(tmp_path), 2 * limit)
    assert more.keep(key_of(99), picture(200, 150)) and not more.full


def test_a_full_disk_ends_keeping_and_nothing_else(cache: DecodedCache) -> None:
    keep(cache, key_of(0), PHOTOS["PNG"])
    with patch("os.pwrite", side_effect=OSError(28, "No space left on device")):
        assert not keep(cache, key_of(1), PHOTOS["4:2:0"])
    assert cache.full and cache.problem == "No space left on device"
    assert sample(cache, key_of(1), SPECS[1]) is None  # its slot was reserved
    assert sample(cache, key_of(0), SPECS[1]) is not None


def test_a_process_that_is_suspended_with_the_lock_is_not_waited_for(
    cache: DecodedCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_BEGIN_S", "_KEEP_S"):
        monkeypatch.setattr(f"etl.decoded_cache.{name}", 0.01)
    keep(cache, key_of(0), PHOTOS["PNG"])
    with open(tmp_path / FOLDER / "index", "rb") as index:
        fcntl.flock(index, fcntl.LOCK_EX)
        cache.count_hit()
        with pytest.raises(
            CacheError, match="is locked by a process that does not go on: end it, or name another folder"
        ):
            DecodedCache(str(tmp_path), LIMIT)
        assert not keep(cache, key_of(1), PHOTOS["4:2:0"])
        assert sample(cache, key_of(0), SPECS[1]) is not None
    assert cache.full and cache.problem == "another process holds its lock and does not go on" and cache.hits == 0
    cache.count_hit()
    assert cache.hits == 2 and cache.photos == 1


def test_a_photo_that_is_not_in_memory_is_not_waited_for(cache: DecodedCache) -> None:
    keep(cache, key_of(0), PHOTOS["4:2:0"])
    with patch("os.preadv", side_effect=BlockingIOError), pytest.raises(BlockingIOError):
        sample_from_cache(cache, key_of(0), SPECS[1], None, np.empty((224, 224, 3), np.uint8), wait=False)
    assert sample(cache, key_of(0), SPECS[1]) is not None


def _no_folder(path: Path) -> None:
    path.write_text("x")


def _no_file(path: Path) -> None:
    (path / FOLDER / "pixels").mkdir(parents=True)


def _is_fifo(path: Path) -> None:
    (path / FOLDER).mkdir(parents=True)
    os.mkfifo(path / FOLDER / "index")


def _is_link(path: Path) -> None:
    (path / "elsewhere").mkdir(parents=True)
    (path / FOLDER).symlink_to(path / "elsewhere")


def _is_open(path: Path) -> None:
    (path / FOLDER).mkdir(parents=True)
    (path / FOLDER).chmod(0o777)


def _is_foreign(path: Path) -> None:
    (path / FOLDER).mkdir(parents=True)
    (path / FOLDER).chmod(0o755)
    (path / FOLDER / "index").write_bytes(b"something else")


def _is_cut(path: Path) -> None:
    DecodedCache(str(path), LIMIT)
    os.truncate(path / FOLDER / "index", 5000)


BAD: dict[Callable[[Path], None], str] = {
    _no_folder: "cannot be kept in .*File exists",
    _no_file: "cannot be kept in .*Is a directory",
    _is_fifo: "index is not a file: remove it",
    _is_link: "is not a folder: remove it",
    _is_open: "others may write to it: name a folder of your own",
    _is_foreign: "that this version knows: remove it",
    _is_cut: "index is damaged: remove",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_folders_that_cannot_be_used(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(tmp_path / "cache")
    with pytest.raises(CacheError, match=BAD[spoil]):
        DecodedCache(str(tmp_path / "cache"), LIMIT)


def test_a_disk_that_is_read_only_or_full(tmp_path: Path) -> None:
    for name, error in (("open", errno.EROFS), ("posix_fallocate", errno.ENOSPC), ("open", errno.EACCES)):
        with (
            patch(f"os.{name}", side_effect=OSError(error, os.strerror(error))),
            pytest.raises(CacheError, match=f"{os.strerror(error)}; name a folder that can be written to"),
        ):
            DecodedCache(str(tmp_path), LIMIT)
    assert DecodedCache(str(tmp_path), LIMIT).photos == 0


def test_a_limit_without_room_for_an_index(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="too few for decoded photos: allow more"):
        DecodedCache(str(tmp_path), 1000)


def test_a_disk_with_less_room_than_allowed(tmp_path: Path) -> None:
    cache = DecodedCache(str(tmp_path), LIMIT)
    cache.limit = 1 << 60
    with pytest.raises(CacheError, match="has room for .* GB, and decoded photos may take .* GB more: allow fewer"):
        cache.require_room()


def test_an_index_that_was_not_finished_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(mode=0o700)
    (tmp_path / FOLDER / "index").write_bytes(bytes(5000))
    cache = DecodedCache(str(tmp_path), LIMIT)
    assert keep(cache, key_of(0), PHOTOS["PNG"]) and sample(cache, key_of(0), SPECS[1]) is not None


def test_a_file_has_another_key_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(b"one")
    now = path.stat()
    first = file_key(str(path), now)
    assert first == file_key(str(path), path.stat()) and len(first) == 16
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, ns=(now.st_atime_ns, now.st_mtime_ns))
    assert file_key(str(other), other.stat()) != first
    os.replace(other, path)  # the same name, size and time
    assert file_key(str(path), path.stat()) != first
    assert file_key(str(path), path.stat(), changes=False) != first
    assert not is_settled(path.stat()) and is_settled(os.stat(sys.executable))


WRITER = f"""
import sys
import numpy as np
from etl.decoded_cache import DecodedCache
{inspect.getsource(key_of)}
{inspect.getsource(picture)}
cache = DecodedCache(sys.argv[1], 400_000_000)
print("ready", flush=True)
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    cache.keep(key_of(number), picture(256, 256, number))
"""


def writer(folder: Path, begin: int, end: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", WRITER, str(folder), str(begin), str(end)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


def counts(cache: DecodedCache, end: int) -> tuple[int, int]:
    """How many photos are whole, and how many are there; whatever is whole has the right pixels."""
    whole = 0
    for number in range(end):
        made = sample(cache, key_of(number), Spec.val(256, 256))
        whole += made is not None
        assert made is None or np.array_equal(made, picture(256, 256, number)), number
    return whole, cache.photos


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    writers = [writer(tmp_path, begin, begin + 40) for begin in (0, 0, 20)]
    assert [process.wait() for process in writers] == [0, 0, 0]
    cache = DecodedCache(str(tmp_path), 400_000_000)
    assert counts(cache, 60) == (60, 60)
    assert cache.size == len(cache._map) + 60 * 256 * row_bytes(256)


@pytest.mark.parametrize("times", [2, pytest.param(12, marks=pytest.mark.long)])
def test_a_kill_costs_one_photo_at_most(tmp_path: Path, times: int) -> None:
    drawn = random.Random(times)
    for _ in range(times):
        process = writer(tmp_path, 0, 400)
        time.sleep(drawn.uniform(0.005, 0.15))  # it writes about 1,000 photos a second
        process.send_signal(signal.SIGKILL)
        process.wait()
        cache = DecodedCache(str(tmp_path), 400_000_000)
        whole, there = counts(cache, 400)
        assert there - whole <= 1
    for number in range(there):
        assert cache.keep(key_of(number), picture(256, 256, number))
    assert counts(cache, there)[0] == there
    assert cache.photos - there <= times  # killed after its slot was taken, and before the index had its place
