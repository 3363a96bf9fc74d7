"""Tar shards: where each photo lies, its label, the order of a manifest, and a sentence for what is wrong."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from sources.errors import DataError
from sources.manifest import Manifest
from sources.shards.columns import Columns
from sources.shards.manifest import Shard, in_memory
from sources.shards.shard import read_shard

PHOTO = bytes(range(256)) * 3


def tar_of(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path.read_bytes()


def refused(path: Path, label_field: str = "") -> str:
    with pytest.raises(DataError) as caught:
        read_shard(str(path), label_field)
    assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_photo_lies_where_it_is_said_to(tmp_path: Path, form: int) -> None:
    long = f"{'d' * 90}/{'x' * 60}.JPEG"  # with an extension of the header, but for ustar
    members = [("b.jpg", PHOTO), ("notes.txt", b"left out"), (long, PHOTO[:7]), ("b.cls", b"3\n")]
    data = tar_of(tmp_path / "0.tar", [*members, (f"{long[:-5]}.cls", b"1")], form)
    rows = read_shard(str(tmp_path / "0.tar"))
    assert rows.names == [b"b.jpg", long.encode()] and rows.labels.tolist() == [3, 1]
    for at, photo in enumerate((PHOTO, PHOTO[:7])):
        offset = int(rows.offsets[at])
        assert data[offset : offset + int(rows.sizes[at])] == photo and rows.crc32[at] == zlib.crc32(photo)
        assert int(data[offset - 364 : offset - 356].strip(b"\0 "), 8) == rows.header_sums[at]


def test_a_field_of_json_is_the_label_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    tar_of(path, [("a.jpg", PHOTO), ("a.json", b'{"label": 4}'), ("a.cls", b"4")])
    assert read_shard(str(path), "label").labels.tolist() == [4]
    assert "is not JSON with a field 'klass'" in refused(path, "klass")
    tar_of(path, [("a.jpg", PHOTO), ("a.json", b'{"label": 4}'), ("a.cls", b"5")])
    assert "a.cls says 5, and the field 'label' of a.json 4" in refused(path, "label")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.jpg", PHOTO)], "a.jpg has no label: a.cls is missing"),
        ([("a.jpg", PHOTO), ("a.cls", b"1"), ("b.cls", b"1")], "b.cls is a label without a photo"),
        ([("a.jpg", PHOTO), ("a.cls", b"cat")], "a.cls holds 'cat', and no class number"),
        ([("a.jpg", PHOTO), ("a.jpg", PHOTO), ("a.cls", b"1")], "a.jpg is there twice"),
        ([("a.jpg", PHOTO), ("a.png", PHOTO), ("a.cls", b"1")], "a.png and a.jpg are two photos of one key"),
        ([("../a.jpg", PHOTO), ("../a.cls", b"1")], "leads out of the folder"),
        ([("notes.txt", b"")], "holds no photos"),
        ([], "holds no photos"),
    ],
)
def test_members_that_are_no_samples_are_named(tmp_path: Path, members: list[tuple[str, bytes]], said: str) -> None:
    tar_of(tmp_path / "0.tar", members)
    assert said in refused(tmp_path / "0.tar")


def test_files_that_are_no_shards_are_named(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    data = tar_of(path, [("a.jpg", PHOTO), ("a.cls", b"1"), ("b.jpg", PHOTO), ("b.cls", b"1")])
    contents = {
        "is empty": b"",
        "is compressed by gzip": gzip.compress(data),
        "is compressed by bzip2": bz2.compress(data),
        "is compressed by xz": lzma.compress(data),
        "is compressed by zstd": b"\x28\xb5\x2f\xfd" + data,
        "is compressed by lz4": b"\x04\x22\x4d\x18" + data,
        "is a zip": b"PK\3\4" + data,
        "is cut off": data[:1000],
        "without the blocks that end a tar": data[: 2 * (512 + 1024 + 512 + 512)],
        "may be two tars in one file": data + data,
        "has another checksum than it says": bytes(data[:2560].replace(b"a.cls", b"z.cls")) + data[2560:],
        "is not a tar": PHOTO * 4,
    }
    for said, content in contents.items():
        path.write_bytes(content)
        assert said in refused(path), said


def test_the_manifest_is_that_of_the_same_photos_in_a_folder(tmp_path: Path) -> None:
    names = ["b/1.jpg", "a/2.jpg", "a-b/3.jpg", "c/4.jpg"]
    parts = []
    for shard in range(2):
        some = names[2 * shard : 2 * shard + 2]
        members = [(name, PHOTO[: 9 + names.index(name)]) for name in some]
        members += [(f"{name[:-4]}.cls", str(names.index(name)).encode()) for name in some]
        tar_of(tmp_path / f"{shard}.tar", members)
        parts.append(Columns.of_shard(read_shard(str(tmp_path / f"{shard}.tar")), shard))
    shards = [Shard(f"{shard}.tar", 1, 1) for shard in range(2)]
    manifest = in_memory(Columns.joined(parts).ordered(), shards, tmp_path, tuple(names))
    folder = Manifest.build([(name.encode(), at, 9 + at) for at, name in enumerate(names)], names)
    assert manifest.sha256() == folder.sha256() and manifest.problem() == ""
    assert [manifest.name(at) for at in range(4)] == [folder.name(at) for at in range(4)]
    for at in range(4):
        place = manifest.place(at)
        data = Path(place.path).read_bytes()[place.offset : place.offset + place.size]
        assert len(data) == 9 + names.index(manifest.name(at)) and zlib.crc32(data) == place.crc32
    half = manifest.part(np.array([True, False, True, False]))
    assert [half.name(at) for at in range(2)] == [folder.name(0), folder.name(2)] and half.place(1) == manifest.place(2)
    again = pickle.loads(pickle.dumps(manifest))  # by the descriptor of its memory
    assert [again.place(at) for at in range(4)] == [manifest.place(at) for at in range(4)]


def test_names_that_come_twice_are_sorted_by_shard_first(tmp_path: Path) -> None:
    parts = []
    for shard in range(2):
        tar_of(tmp_path / "0.tar", [("b.jpg", PHOTO), ("b.cls", b"1"), ("a.jpg", PHOTO), ("a.cls", b"0")])
        parts.append(Columns.of_shard(read_shard(str(tmp_path / "0.tar")), shard))
    ordered = Columns.joined(parts).ordered()
    assert ordered.shard.tolist() == [0, 0, 1, 1] and ordered.labels.tolist() == [0, 1, 0, 1]
