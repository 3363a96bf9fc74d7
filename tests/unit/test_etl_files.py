"""Which files an ETL reads: the one in which AIStore keeps the object that is asked for, and no other."""

import os
import zlib
from hashlib import sha256
from pathlib import Path

import pytest

from etl.files import FileBytes, in_shard, is_own_file, normal_path, query_of, read, read_cached
from etl.request import At, BadRequest
from etl.sample import CorruptSample

LONG = "a/" + "x" * 256


def digest(text: str) -> str:
    return f".x{sha256(text.encode()).hexdigest()}"


@pytest.mark.parametrize(
    ("method", "path", "file"),
    [
        ("PUT", "b/o", "/mp/@ais/b/%ob/o"),
        ("PUT", "b/o", "/@ais/b/%ob/o"),
        ("PUT", "b/train/cat/o.jpg", "/a/b/c/@gcp/b/%ob/train/cat/o.jpg"),
        ("PUT", "b/o", "/mp/@ais/#team/b/%ob/o"),
        ("PUT", "b/o", "/mp/@ais/@Bghort1l#team/b/%ob/o"),
        ("PUT", "b/o", "/mp/@aws/@Bghort1l#/b/%ob/o"),
        ("PUT", "b/A", "/mp/@ais/b/%ob/%41"),  # hpush does not encode names
        ("PUT", "b/ä/%ob/ö", "/mp/@ais/b/%ob/ä/%ob/ö"),
        ("PUT", "b/a//o", "/mp/@ais/b/%ob/a/o"),
        ("PUT", "b//o", "/mp/@ais/b/%ob/o"),
        ("PUT", "b/@ais/o", "/mp/@ais/b/%ob/@ais/o"),
        ("PUT", "b/x/y", "/mp/@ais/b/%ob/x%2Fy"),
        ("PUT", f"b/{LONG}", f"/mp/@ais/b/%ob/{digest(f'/mp/@ais/b/%ob/{LONG}')}"),
        ("PUT", f"b/{LONG}", f"/mp/@ais/b/%ob/{digest(LONG)}"),
        ("PUT", "b/" + "y/" * 1600, f"/mp/@ais/b/%ob/{digest('y/' * 1600)}"),
        ("PUT", f"b/{digest(LONG)}", f"/mp/@ais/b/%ob/{digest(LONG)}"),
        ("GET", "ais/@#/b/o", "/mp/@ais/b/%ob/o"),
        ("GET", "ais/@#team/b/o", "/mp/@ais/#team/b/%ob/o"),
        ("GET", "aws/@Bghort1l#team/b/%41", "/mp/@aws/@Bghort1l#team/b/%ob/%41"),
        ("GET", f"ais/@#/b/{LONG}", f"/mp/@ais/b/%ob/{digest(LONG)}"),
    ],
)
def test_an_objects_own_file(method: str, path: str, file: str) -> None:
    assert is_own_file(method, path, file)


@pytest.mark.parametrize(
    ("method", "path", "file"),
    [
        ("PUT", "b/x", "/etc/passwd"),
        ("PUT", "b/x", "/dev/zero"),
        ("PUT", "b/x", ""),
        ("PUT", "b/passwd", "/etc/passwd"),
        ("PUT", "etc/passwd", "/etc/passwd"),
        ("PUT", "b/o", "/mp/@ais/c/%ob/o"),  # another bucket's
        ("PUT", "b/o", "/mp/@ais/b/%ob/p"),  # another object's
        ("PUT", "b/o", "/mp/@ais/b/%ob/a/o"),
        ("PUT", "b/o", "/mp/@ais/b/%wk/o"),
        ("PUT", "b/o", "/mp/@ais/x/b/%ob/o"),
        ("PUT", "b/o", "/mp/ais/b/%ob/o"),
        ("PUT", "b/o", "b/%ob/o"),
        ("PUT", "b/o", "/b/%ob/o"),
        ("PUT", "/b/o", "/mp/@ais/b/%ob/o"),
        ("PUT", "b//%ob/o", "/mp/@ais/b/%ob/o"),
        ("PUT", "o", "/mp/@ais/b/%ob/o"),
        ("PUT", "/o", "/mp/@ais//%ob/o"),
        ("PUT", "b/", "/mp/@ais/b/%ob/"),
        ("PUT", "b/%ob/o", "/mp/@ais/b/%ob/o"),
        ("PUT", "ais/@#/secret/o", "/mp/@ais/secret/%ob/o"),  # a name in a bucket "ais", not hpull
        ("PUT", "b/../secret/o", "/mp/@ais/secret/%ob/o"),
        ("PUT", "b/o", "/mp/@ais/secret/%ob/b/%ob/o"),
        ("PUT", "b/o", "/mp/@ais/secret/%ob/@ais/b/%ob/o"),  # a name that looks like another bucket's file
        ("PUT", "b/o", f"/mp/@ais/b/%ob/{digest('o')}"),
        ("PUT", f"b/{LONG}", f"/mp/@ais/b/%ob/{digest(LONG + 'x')}"),
        ("PUT", f"b/{LONG}", f"/mp/@ais/c/%ob/{digest(LONG)}"),
        ("GET", "b/o", "/mp/@ais/b/%ob/o"),
        ("GET", "ais/@#/b/o", "/mp/@aws/b/%ob/o"),
        ("GET", "ais/@#/b/o", "/mp/@ais/#team/b/%ob/o"),
        ("GET", "ais/@#team/b/o", "/mp/@ais/b/%ob/o"),
        ("GET", "ais/@#/b/A", "/mp/@ais/b/%ob/B"),
    ],
)
def test_other_files(method: str, path: str, file: str) -> None:
    assert not is_own_file(method, path, file)


@pytest.mark.parametrize(
    "query",
    [
        "etl_fqn=/etc/passwd",
        "etl_fqn=%2Fmp%2F%40ais%2Fb%2F%25ob%2Fo&etl_fqn=/etc/passwd",
        "etl_args={}&etl_args={}",
        "etl_fqn=%00",
        "etl_fqn=/mp/@ais/b/%2525ob/o%00",
        "etl_fqn=/mp/@ais/b/%2525ob/o/../../%2525wk/o",
    ],
)
def test_queries_that_are_refused(query: str) -> None:
    scope = {"method": "PUT", "path": "/b/o", "query_string": query.encode()}
    with pytest.raises(BadRequest):
        query_of(scope)
    with pytest.raises(BadRequest, match="no object"):
        query_of({**scope, "path": "/b/../o", "query_string": b""})


def test_a_path_is_normal() -> None:
    assert normal_path("a/%2E%2E//b/") == "/b" and normal_path("//x") == "/x" and normal_path("../../x") == "/x"


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    photo = tmp_path / "photo"
    photo.write_bytes(bytes(100))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    assert read(str(photo), 100) == bytes(100)
    assert read_cached(str(photo), 100) in (bytes(100), None)
    for path, limit in ((photo, 99), (tmp_path / "pipe", 100), (tmp_path, 100), (tmp_path / "link", 100)):
        with pytest.raises(BadRequest):
            read(str(path), limit)
        assert read_cached(str(path), limit) is None
    with pytest.raises(BadRequest, match="not a path"):
        read("a\0b", 100)
    assert read_cached("a\0b", 100) is None


PHOTO = b"\xff\xd8 a photo"
SHARD = bytes(148) + b"012345\0 " + bytes(356) + PHOTO + bytes(-len(PHOTO) % 512) + bytes(1024)
AT: At = (512, len(PHOTO), 0o12345, zlib.crc32(PHOTO))


def test_a_photo_in_a_shard(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(SHARD)
    for at in (AT, (*AT[:3], 0)):
        whole, cached = read(str(path), 100, at=at), read_cached(str(path), 100, at)
        assert whole == in_shard(SHARD, at) == PHOTO and cached in (None, PHOTO)
        assert isinstance(whole, FileBytes) and whole.file == f"{path}:512" and not in_shard(SHARD, at).file
    with pytest.raises(BadRequest, match=r"the object has 10 bytes, and this ETL reads 9 at most"):
        read(str(path), 9, at=AT)


@pytest.mark.parametrize(
    ("at", "end", "said"),
    [
        ((512, len(PHOTO), 0o12344, 0), len(SHARD), "another member lies at its place"),
        ((1024, len(PHOTO), 0o12345, 0), len(SHARD), "another member lies at its place"),
        (AT, 512 + len(PHOTO) - 1, "another member lies at its place"),  # the first part of a shard in parts
        (AT, 300, "another member lies at its place"),
        ((1 << 61, len(PHOTO), 0o12345, 0), len(SHARD), "another member lies at its place"),
        ((*AT[:3], AT[3] ^ 1), len(SHARD), "damaged: its CRC-32 is another one"),
    ],
)
def test_another_member_than_was_asked_for(tmp_path: Path, at: At, end: int, said: str) -> None:
    path = tmp_path / "shard.tar"
    path.write_bytes(SHARD[:end])
    for work in (lambda: read(str(path), 1000, at=at), lambda: in_shard(SHARD[:end], at)):
        with pytest.raises(CorruptSample, match=said):
            work()
