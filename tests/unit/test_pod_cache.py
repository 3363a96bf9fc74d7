"""The decoded photos that a pod keeps: the contract's bytes, never those of a former object, and told of by wire=info."""

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from etl.decoded_cache import FOLDER, DecodedCache
from etl.pod_cache import FOLDER_VARIABLE, GB_VARIABLE, PodCache
from etl.request import BadRequest, Request, answer, encode
from etl.sample import CorruptSample
from etl.server import TrainETL
from etl.spec import Key, Spec

VECTORS = Path(__file__).parent / "vectors"
PHOTO, OTHER = ((VECTORS / name).read_bytes() for name in ("rgb420.jpg", "grey.jpg"))
NAME = "photos/a.jpg"
LONG_AGO = 10**18


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file in which a target keeps an object."""
    path = tmp_path / "mountpath/@ais/photos/%ob/a.jpg"
    path.parent.mkdir(parents=True)
    return stored(path, PHOTO, LONG_AGO)


def stored(path: Path, data: bytes, changed_ns: int) -> Path:
    """As AIStore writes an object: a new file is renamed to the old one's name."""
    path.with_suffix(".work").write_bytes(data)
    os.utime(path.with_suffix(".work"), ns=(LONG_AGO, changed_ns))
    return path.with_suffix(".work").replace(path)


@pytest.fixture
def etl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainETL:
    return pod(monkeypatch, tmp_path / "cache", "0.01")


def pod(monkeypatch: pytest.MonkeyPatch, folder: Path, gb: str) -> TrainETL:
    monkeypatch.setenv("AIS_TARGET_URL", "http://127.0.0.1:9/v1/etl/_object/etl/secret")
    monkeypatch.setenv(GB_VARIABLE, gb)
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return TrainETL()


def request(index: int, **more: Any) -> Request:
    return Request(Spec.train(32), Key(0, 1, index), **more)


def asked(etl: TrainETL, source: str | bytes, index: int, **more: Any) -> bytes:
    return etl.transform(source, NAME, encode(request(index, **more)))


def facts(etl: TrainETL, source: str | bytes = PHOTO) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(etl.transform(source, NAME, '{"wire":"info"}'))["cache"]
    return told


def test_samples_of_kept_photos_have_the_same_bytes(etl: TrainETL, file: Path) -> None:
    for index in range(4):
        assert asked(etl, str(file), index) == answer(PHOTO, request(index))
        assert asked(etl, str(file), index, wire="jpeg") == answer(PHOTO, request(index, wire="jpeg"))
    told = facts(etl, str(file))
    assert (told["photos"], told["hits"], told["problem"]) == (1, 7, "")
    assert told["bytes"] <= told["limit"] == 10_000_000


def test_a_kept_photo_is_made_at_once_and_another_in_a_thread(etl: TrainETL, file: Path) -> None:
    args = encode(request(3))
    assert etl._at_once(str(file), NAME, args) is None  # it is decoded whole, and kept
    asked(etl, str(file), 3)
    with patch("etl.server.read_cached", side_effect=AssertionError("the file is not read")):
        made = etl._at_once(str(file), NAME, args)
    assert made is not None and made[2] == answer(PHOTO, request(3))
    with patch("os.preadv", side_effect=BlockingIOError):
        assert etl._at_once(str(file), NAME, args) is None  # it is on the disk alone


def test_without_room_for_more_samples_are_made_at_once(etl: TrainETL, file: Path) -> None:
    assert etl.kept is not None and etl.kept._cache is not None
    etl.kept._cache.full = True
    made = etl._at_once(str(file), NAME, encode(request(3)))
    assert made is not None and made[2] == answer(PHOTO, request(3))
    assert facts(etl)["photos"] == 0


def test_an_object_that_is_overwritten_is_another_photo(etl: TrainETL, file: Path) -> None:
    asked(etl, str(file), 0)
    stored(file, OTHER + bytes(len(PHOTO) - len(OTHER)), LONG_AGO)  # of the same size and time
    assert asked(etl, str(file), 1) == answer(OTHER, request(1))
    stored(file, PHOTO, LONG_AGO + 1)
    assert asked(etl, str(file), 1) == answer(PHOTO, request(1))
    assert facts(etl)["hits"] == 0


def test_an_object_that_is_overwritten_meanwhile_is_not_kept(etl: TrainETL, file: Path) -> None:
    def read(*arguments: object, **at: object) -> bytes:
        stored(file, OTHER, LONG_AGO + 1)
        return PHOTO

    with patch("etl.server.read", read):
        assert asked(etl, str(file), 0) == answer(PHOTO, request(0))
    assert facts(etl)["photos"] == 0
    assert asked(etl, str(file), 0) == answer(OTHER, request(0))


def test_aistore_may_note_that_an_object_was_read(etl: TrainETL, file: Path) -> None:
    asked(etl, str(file), 0)
    os.utime(file, ns=(LONG_AGO + 5, LONG_AGO))
    asked(etl, str(file), 1)
    assert facts(etl)["hits"] == 1


def test_a_users_own_file_is_known_by_its_last_change_too(etl: TrainETL, tmp_path: Path) -> None:
    own = stored(tmp_path / "a.jpg", PHOTO, LONG_AGO)
    asked(etl, str(own), 0)  # its inode changed a moment ago
    with patch("etl.decoded_sample.SETTLED_S", -60.0):
        asked(etl, str(own), 0)
        own.write_bytes(OTHER + bytes(len(PHOTO) - len(OTHER)))
        os.utime(own, ns=(LONG_AGO, LONG_AGO))
        assert asked(etl, str(own), 0) == answer(OTHER, request(0))
    assert (facts(etl)["photos"], facts(etl)["hits"]) == (2, 0)


def test_bodies_and_what_is_no_photo_are_not_kept(etl: TrainETL, file: Path) -> None:
    assert asked(etl, PHOTO, 0) == answer(PHOTO, request(0))
    stored(file, b"no photo", LONG_AGO)
    for source in (str(file), str(file.with_name("none")), "/\0"):
        with pytest.raises((CorruptSample, FileNotFoundError, BadRequest)):
            asked(etl, source, 0)
    assert facts(etl)["photos"] == 0


def test_an_etl_of_validation_or_without_the_variable_keeps_none(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    etl = pod(monkeypatch, file.parent, "")
    assert asked(etl, str(file), 0) == answer(PHOTO, request(0))
    assert "cache" not in json.loads(etl.transform(PHOTO, NAME, '{"wire":"info"}'))


@pytest.mark.parametrize("gb", ["much", "-1", "0", "nan", "1e99"])
def test_a_variable_that_is_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gb: str) -> None:
    with pytest.raises(ValueError, match=f"{GB_VARIABLE}='{gb}' is not a number of GB above 0"):
        pod(monkeypatch, tmp_path, gb)


def test_a_folder_that_cannot_be_used_is_told_and_samples_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path
) -> None:
    for folder, gb, problem in (
        (file, "1", "File exists; name a folder that can be written to"),
        (tmp_path / "cache", "1e8", "GB, and decoded photos may take 100,000,000.0 GB more: allow fewer"),
    ):
        etl = pod(monkeypatch, folder, gb)
        assert asked(etl, str(file), 0) == answer(PHOTO, request(0))
        assert problem in facts(etl)["problem"] and set(facts(etl)) == {"problem"}
    with patch("tempfile.gettempdir", side_effect=FileNotFoundError(2, "No usable temporary directory")):
        assert "No usable temporary directory" in PodCache("", 1).facts()["problem"]


def test_pods_of_one_node_share_a_folder(etl: TrainETL, monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    asked(etl, str(file), 0)
    other = pod(monkeypatch, Path(os.environ[FOLDER_VARIABLE]), "0.02")
    asked(other, str(file), 1)
    assert (facts(other)["photos"], facts(other)["hits"], facts(etl)["hits"]) == (1, 1, 1)
    cache = DecodedCache(os.environ[FOLDER_VARIABLE], 10_000_000)
    assert (Path(os.environ[FOLDER_VARIABLE]) / FOLDER / "pixels").stat().st_size + len(cache._map) == cache.size


def test_photos_of_one_shard_are_kept_apart(etl: TrainETL, file: Path) -> None:
    shard = b"".join([HEADER % b"001234", PHOTO, bytes(-len(PHOTO) % 512), HEADER % b"004321", OTHER])
    second = 1024 + len(PHOTO) + -len(PHOTO) % 512
    stored(file, shard, LONG_AGO)
    places = {PHOTO: (512, len(PHOTO), 0o1234, 0), OTHER: (second, len(OTHER), 0o4321, 0)}
    for _ in range(2):
        for photo, at in places.items():
            assert asked(etl, str(file), 0, at=at) == answer(photo, request(0))
            assert asked(etl, shard, 0, at=at) == answer(photo, request(0))  # a body, of which nothing is kept
    assert (facts(etl)["photos"], facts(etl)["hits"]) == (2, 2)


HEADER = bytes(148) + b"%s\0 " + bytes(356)
