"""The index of tar shards: which shards there are, kept and made anew, read while somebody changes them, class names."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from etl.sample import CorruptSample
from sources.errors import ConfigError, DataError, UnreachableError, UserError
from sources.folds import HeldOut
from sources.manifest import Manifest
from sources.shards import index
from sources.shards.index import open_index
from sources.shards.listing import Listing, shards_of
from sources.shards.manifest import ShardManifest, write_image
from sources.shards.reader import ShardReader
from sources.shards.splits import ShardOptions, shard_splits
from tests.unit.test_shards import PHOTO, tar_of


def samples(*rows: tuple[str, int]) -> list[tuple[str, bytes]]:
    """The members of photos, whose contents are their names, with labels."""
    return [pair for key, label in rows for pair in ((f"{key}.jpg", key.encode()), (f"{key}.cls", b"%d" % label))]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two training shards and one of validation, with classes 0 and 1."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "data" / "val").mkdir()
    tar_of(tmp_path / "data" / "train" / "a-0.tar", samples(("x/1", 0), ("y/2", 1)))
    tar_of(tmp_path / "data" / "train" / "a-1.tar", samples(("x/3", 0), ("y/0", 1)))
    tar_of(tmp_path / "data" / "val" / "v.tar", samples(("v/1", 0), ("v/2", 1)))
    return tmp_path / "data"


def opened(root: Path, said: list[str] | None = None, **options: object) -> tuple[ShardManifest, ShardManifest]:
    return shard_splits(ShardOptions(str(root), **options), (said if said is not None else []).append)  # type: ignore[arg-type]


def refused(work: Callable[[], object], kind: type[UserError] = UserError) -> str:
    with pytest.raises(kind) as caught:
        work()
    text = str(caught.value)
    assert text.isprintable() and text.endswith(".")
    return text


def names(manifest: Manifest) -> list[str]:
    return [manifest.name(at) for at in range(len(manifest))]


def read_all(manifest: ShardManifest) -> list[bytes]:
    reader = ShardReader(manifest)
    return [reader.read(at) for at in range(len(manifest))]


def test_an_index_is_kept_and_of_what_changed_alone_made_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = index.read_shard
    monkeypatch.setattr(index, "read_shard", lambda path, field: read.append(Path(path).name) or real(path, field))
    first = opened(root)[0]
    assert sorted(read) == ["a-0.tar", "a-1.tar", "v.tar"] and names(first) == [
        "x/1.jpg",
        "x/3.jpg",
        "y/0.jpg",
        "y/2.jpg",
    ]
    assert read_all(first) == [b"x/1", b"x/3", b"y/0", b"y/2"] and first.labels.tolist() == [0, 0, 1, 1]
    assert opened(root)[0].sha256() == first.sha256() and len(read) == 3
    tar_of(root / "train" / "a-1.tar", samples(("x/3", 0), ("y/5", 1), ("x/0", 0)))
    assert names(opened(root)[0]) == ["x/0.jpg", "x/1.jpg", "x/3.jpg", "y/2.jpg", "y/5.jpg"] and read[3:] == ["a-1.tar"]
    os.utime(root / "train" / "a-0.tar", ns=(5, 5))
    tar_of(root / "train" / "a-2.tar", samples(("z", 1)))
    after = opened(root)[0]
    assert sorted(read[4:]) == ["a-0.tar", "a-2.tar"]
    assert read_all(after) == [b"x/0", b"x/1", b"x/3", b"y/2", b"y/5", b"z"]
    (root / "train" / "a-1.tar").unlink()
    assert names(opened(root)[0]) == ["x/1.jpg", "y/2.jpg", "z.jpg"] and len(read) == 6


def test_a_kept_index_that_is_damaged_is_made_anew(root: Path) -> None:
    expected = names(opened(root)[0])
    [kept] = (root / "train" / index.FOLDER).iterdir()
    good = kept.read_bytes()
    for bad in (b"", b"x" * 200, good[:-64], good[:60], good[:-65] + bytes([good[-65] ^ 1]) + good[-64:]):
        kept.write_bytes(bad)
        said: list[str] = []
        assert names(opened(root, said)[0]) == expected
        assert [line for line in said if f"{kept} cannot be used, as " in line], bad[:80]
    assert kept.read_bytes() == good


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("shard", [0, 1, 1, 9], "names shards that there are not"),
        ("starts", [0, 9, 3, 21, 28], "names are not one after the other"),
        ("starts", [0, 7, 14, 21, 30], "names are not one after the other"),
    ],
)
def test_an_index_that_contradicts_itself_is_made_anew(root: Path, column: str, values: list[int], said: str) -> None:
    first, problem = opened(root)[0], list[str]()
    wrong = first.columns._replace(**{column: np.array(values, np.int64)})
    [kept] = (root / "train" / index.FOLDER).iterdir()
    kept.unlink()  # of which the pages are mapped
    with open(kept, "wb") as file:
        write_image(file, wrong, first.shards)
    assert read_all(opened(root, problem)[0]) == [b"x/1", b"x/3", b"y/0", b"y/2"] and said in problem[0]


def test_what_was_read_is_kept_when_a_later_shard_is_bad(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = (root / "train" / "a-1.tar").read_bytes()
    (root / "train" / "a-1.tar").write_bytes(good[:700])
    assert "a-1.tar is cut off" in refused(lambda: opened(root), DataError)
    (root / "train" / "a-1.tar").write_bytes(good)
    read: list[str] = []
    real = index.read_shard
    monkeypatch.setattr(index, "read_shard", lambda path, field: read.append(Path(path).name) or real(path, field))
    assert len(opened(root)[0]) == 4 and sorted(read) == ["a-1.tar", "v.tar"]


def test_an_index_that_cannot_lie_beside_the_shards_lies_in_the_cache_or_in_memory(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "train" / index.FOLDER).write_text("a file is in the way")
    assert len(opened(root)[0]) == 4
    assert len(list((tmp_path / "cache" / "imagenet-ais").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "train" / index.FOLDER))
    with pytest.warns(UserWarning, match="the index of the shards cannot be kept"):
        assert read_all(opened(root)[0]) == [b"x/1", b"x/3", b"y/0", b"y/2"]


def test_several_processes_read_shards(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_SMALL", 0)
    listing = shards_of(str(root / "train"), "train", "data.root")
    assert read_all(open_index(listing, "", print, workers=2)) == [b"x/1", b"x/3", b"y/0", b"y/2"]
    (root / "train" / "a-0.tar").write_bytes(b"no tar" * 200)
    assert "a-0.tar is not a tar" in refused(lambda: open_index(listing, "", print, workers=2), DataError)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("train", ["a-0.tar", "a-1.tar"]),
        ("train/a-{0..1}.tar", ["a-0.tar", "a-1.tar"]),
        ("train/a-{1,0}.tar", ["a-0.tar", "a-1.tar"]),
        ("{train/a-1,val/v}.tar", ["train/a-1.tar", "val/v.tar"]),
        ("train/a-*.tar", ["a-0.tar", "a-1.tar"]),
        ("train/a-[1].tar", ["a-1.tar"]),
        ("wids.json", ["train/a-0.tar", "val/v.tar"]),
        ("_info.json", ["a-0.tar", "a-1.tar"]),
    ],
)
def test_shards_are_named_by_a_folder_a_pattern_or_a_list(root: Path, where: str, found: list[str]) -> None:
    shards = [{"url": "val/v.tar", "nsamples": 2}, {"url": f"file:{root}/train/a-0.tar", "nsamples": 2}]
    (root / "wids.json").write_text(json.dumps({"wids_version": 1, "shardlist": shards}))
    lengths = {"filenames": ["train/a-1.tar", "train/a-0.tar"], "shard_lengths": [2, 2], "num_samples": 4}
    (root / "_info.json").write_text(json.dumps({"splits": {"train": lengths}}))
    listing = shards_of(str(root / where), "train", "data.train_shards")
    assert list(listing.names) == found
    assert len(open_index(listing, "", print)) == 2 * len(found)


def test_numbers_of_a_brace_are_as_wide_as_they_are_written() -> None:
    assert shards_of("/x/{0000..0002}.tar", "train", "x").names == ("0000.tar", "0001.tar", "0002.tar")
    assert len(shards_of("/x/{8..11}-{a,b}.tar", "train", "x").names) == 8
    assert shards_of("/x/{8..11}.tar", "train", "x").names == ("10.tar", "11.tar", "8.tar", "9.tar")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("train/b-*.tar", "matches no file"),
        ("train/{0..2000000}.tar", "names more than 1,000,000 shards"),
        ("train/a-{0,0}.tar", "names the shard a-0.tar twice"),
        ("train/a-{0..2}.tar", "a-2.tar, a shard of"),
        ("empty", "empty holds no shards, which are files named *.tar: python -m scripts.make_shards"),
        ("packed", "x.tar.gz is compressed, and photos are read from the middle of a shard"),
        ("classes", "data=imagefolder takes them"),
        ("bad.json", "is not a list of shards"),
        ("deep.json", "is not a list of shards"),
        ("none.json", "lists no shards"),
        ("far.json", "lists 'https://host/x.tar', which is not a file"),
        ("wrong.json", "a-0.tar holds 2 photos, and"),
        ("gone.json", "cannot be read: No such file or directory"),
    ],
)
def test_what_names_no_shards_is_a_sentence(root: Path, where: str, said: str) -> None:
    for name, content in {
        "bad": '{"shardlist": [{"url": 3}]}',
        "deep": "[" * 100_000,
        "none": '{"shardlist": []}',
        "far": '{"shardlist": [{"url": "https://host/x.tar", "nsamples": 1}]}',
        "wrong": '{"shardlist": [{"url": "train/a-0.tar", "nsamples": 3}]}',
    }.items():
        (root / f"{name}.json").write_text(content)
    for name in ("empty", "packed", "classes/cat"):
        (root / name).mkdir(parents=True)
    (root / "packed" / "x.tar.gz").touch()

    def work() -> None:
        open_index(shards_of(str(root / where), "train", "data.train_shards"), "", print)

    assert said in refused(work)


def test_a_count_is_checked_at_a_kept_index_too(root: Path) -> None:
    listing = shards_of(str(root / "train"), "train", "data.root")
    open_index(listing, "", print)
    wrong = Listing(listing.folder, listing.names, (2, 5), listing.source)
    assert "a-1.tar holds 2 photos, and" in refused(lambda: open_index(wrong, "", print), DataError)


def test_an_empty_shard_and_one_that_is_a_folder(root: Path) -> None:
    (root / "val" / "w.tar").mkdir()
    assert "w.tar is not a file" in refused(lambda: opened(root), DataError)
    (root / "val" / "w.tar").rmdir()
    (root / "val" / "w.tar").touch()
    assert "w.tar is empty" in refused(lambda: opened(root), DataError)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a-0.tar was changed since the run started: it has": lambda path: path.write_bytes(path.read_bytes() + bytes(512)),
    "another member lies at byte 512": lambda path: tar_of(path, samples(("q/1", 0), ("y/2", 1))),
    "a-0.tar cannot be read: No such file or directory; it could when the run started": lambda path: path.unlink(),
    "a-0.tar was changed": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_shard_that_changes_while_it_is_read_from(root: Path, said: str) -> None:
    reader = ShardReader(opened(root)[0])
    assert reader.read(0) == b"x/1"
    CHANGES[said](root / "train" / "a-0.tar")
    assert said in refused(lambda: reader.read(0), DataError)
    assert reader.read(1) == b"x/3"


def test_a_photo_that_is_overwritten_in_place_is_a_corrupt_sample(root: Path) -> None:
    reader, path = ShardReader(opened(root)[0]), root / "train" / "a-0.tar"
    content = path.read_bytes()
    path.write_bytes(
        content.replace(b"x/1\0", b"x/2\0").replace(b"x/2.jpg", b"x/1.jpg").replace(b"x/2.cls", b"x/1.cls")
    )
    assert path.stat().st_size == len(content)
    with pytest.raises(CorruptSample, match="its CRC-32 is not the one that was indexed"):
        reader.read(0)
    assert reader.locate(0) == f"x/1.jpg in {path}"


def test_a_disk_that_comes_back_is_waited_for(root: Path) -> None:
    waited: list[str] = []
    manifest, elsewhere = opened(root)[0], root.with_name("elsewhere")

    def back(path: str, why: str) -> None:
        waited.append(why)
        elsewhere.rename(root)

    root.rename(elsewhere)
    said = refused(lambda: ShardReader(manifest).read(0), UnreachableError)
    assert "a-0.tar could not be read for 0 s (data.patience_s): No such file or directory" in said
    assert ShardReader(manifest, 60, back).read(0) == b"x/1" and waited == ["No such file or directory"]


def test_shards_are_read_ahead_once_until_others_were(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *rest: asked.append(os.fstat(fd).st_ino))
    reader = ShardReader(opened(root)[0], ahead=1)
    asked.clear()
    assert [reader.read(at) for at in (0, 3, 0, 1)] == [b"x/1", b"y/2", b"x/1", b"x/3"]
    assert asked == [(root / "train" / name).stat().st_ino for name in ("a-0.tar", "a-1.tar")]


def test_classes_are_numbers_until_somebody_names_them(root: Path, tmp_path: Path) -> None:
    assert opened(root)[0].classes == ("0", "1")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\n")
    assert opened(root, classes=str(tmp_path / "names.txt"))[1].classes == ("ant", "bee", "cat")
    (tmp_path / "names.txt").write_text("ant\n")
    assert "names 1 classes, and" in refused(lambda: opened(root, classes=str(tmp_path / "names.txt")), ConfigError)
    for split in ("train", "val"):
        (root / split / "classes.json").write_text('["ant", "bee"]')
    assert opened(root)[0].classes == ("ant", "bee")
    (tmp_path / "names.txt").write_text("cat\nbee\nant\n")
    said: list[str] = []
    train, val = opened(root, said, classes=str(tmp_path / "names.txt"))
    assert (
        train.classes == ("cat", "bee", "ant")
        and train.labels.tolist() == [2, 2, 1, 1]
        and val.labels.tolist() == [2, 1]
    )
    assert read_all(train) == [b"x/1", b"x/3", b"y/0", b"y/2"] and "like 'cat', are not in" in said[0]
    (tmp_path / "names.txt").write_text("cat\nbee\n")
    assert "does not name the class 'ant'" in refused(lambda: opened(root, classes=str(tmp_path / "names.txt")))
    for content, what in (('["ant"]', "labels to 1"), ('["ant", "ant"]', "a class twice"), ("{}", "cannot be used")):
        (root / "train" / "classes.json").write_text(content)
        (root / "val" / "classes.json").write_text(content)
        assert what in refused(lambda: opened(root), ConfigError)
    (root / "train" / "classes.json").write_text('["bee", "ant"]')
    (root / "val" / "classes.json").write_text('["ant", "bee"]')
    assert "differ: both splits need the same classes" in refused(lambda: opened(root), ConfigError)


def test_splits_need_the_same_classes(root: Path) -> None:
    said: list[str] = []
    tar_of(root / "val" / "v.tar", samples(("v/1", 0)))
    opened(root, said)
    assert "has no photo of 1 of the 2 classes, like 1: they are trained on and never validated" in said[0]
    tar_of(root / "val" / "v.tar", samples(("v/1", 2)))
    assert "has photos of class 2, and" in refused(lambda: opened(root), ConfigError)


def test_one_set_of_shards_is_divided_by_the_names(root: Path) -> None:
    both = HeldOut(val_split=0.5)
    assert "divides one set of shards in two" in refused(lambda: opened(root, held_out=both), ConfigError)
    options = {"train_shards": str(root / "train"), "held_out": HeldOut(fold="0/2")}
    tar_of(root / "train" / "a-1.tar", samples(*((f"{name}/{at}", name == "q") for name in "pq" for at in range(9))))
    train, val = shard_splits(ShardOptions(**options), print)  # type: ignore[arg-type]
    assert sorted(names(train) + names(val)) == names(opened(root)[0])
    assert read_all(val) == [name[:-4].encode() for name in names(val)]
    more = ShardOptions(**options, val_shards="v")  # type: ignore[arg-type]
    assert "leave one of them out" in refused(lambda: shard_splits(more, print), ConfigError)


def test_roots_that_lack_something(root: Path, tmp_path: Path) -> None:
    assert "data.val_shards is not set" in refused(
        lambda: shard_splits(ShardOptions(train_shards=str(root / "train")), print), ConfigError
    )
    (root / "val").rename(tmp_path / "val")
    assert "val is missing: data.root=" in refused(lambda: opened(root), ConfigError)
    assert len(opened(root, val_shards=str(tmp_path / "val"))[1]) == 2


def test_evaluation_needs_no_training_shards(root: Path) -> None:
    (root / "train" / "a-0.tar").write_bytes(b"no tar")
    train, val = shard_splits(ShardOptions(str(root)), print, with_train=False)
    assert len(train) == 0 and len(val) == 2 and train.classes == ("0", "1")


def test_names_that_are_no_text_are_kept_as_they_are(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as tar:
        import io

        for name, data in (("\xe9.jpg", PHOTO), ("\xe9.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    manifest = open_index(shards_of(str(tmp_path), "train", "x"), "", print)
    assert manifest.names.tobytes() == b"\xe9.jpg" and read_all(manifest) == [PHOTO]
    assert ShardReader(manifest).locate(0) == f"\\xe9.jpg in {tmp_path}/0.tar"


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("a.jpg")
    header.size, header.type = 512, tarfile.GNUTYPE_SPARSE
    content = header.tobuf(tarfile.GNU_FORMAT) + bytes(512 * 4)
    (tmp_path / "0.tar").write_bytes(content)
    said = refused(lambda: open_index(shards_of(str(tmp_path), "train", "x"), "", print), DataError)
    assert "a.jpg is stored as a sparse file" in said
    pax = tarfile.TarInfo("b.jpg")
    pax.size, pax.pax_headers = 512, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b.jpg",
                                      "GNU.sparse.realsize": "9000"}  # fmt: skip
    (tmp_path / "0.tar").write_bytes(pax.tobuf(tarfile.PAX_FORMAT) + b"0\n".ljust(512, b"\0") + bytes(1024))
    said = refused(lambda: open_index(shards_of(str(tmp_path), "train", "x"), "", print), DataError)
    assert "b.jpg is stored as a sparse file" in said


def test_links_and_folders_in_a_tar_are_no_samples(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for kind, name in ((tarfile.DIRTYPE, "x"), (tarfile.SYMTYPE, "x/link.jpg"), (tarfile.LNKTYPE, "x/hard.jpg")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "x/1.jpg"
            tar.addfile(member)
    data = (tmp_path / "0.tar").read_bytes()
    end = len(data.rstrip(b"\0")) + 511 & ~511
    rest = tar_of(tmp_path / "1.tar", samples(("x/1", 0)))
    (tmp_path / "0.tar").write_bytes(data[:end] + rest)
    (tmp_path / "1.tar").unlink()
    assert names(open_index(shards_of(str(tmp_path), "train", "x"), "", print)) == ["x/1.jpg"]


def test_labels_are_wide_enough(tmp_path: Path) -> None:
    tar_of(tmp_path / "0.tar", samples(("a", 70_000), ("b", 3)))
    manifest = open_index(shards_of(str(tmp_path), "train", "x"), "", print)
    assert manifest.labels.tolist() == [70_000, 3] and np.issubdtype(manifest.labels.dtype, np.signedinteger)
