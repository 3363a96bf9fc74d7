"""What runs keep of photos in tar shards, where JPEGs can be entered and decoded ones: the weights are the folder's."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from etl import Spec
from etl.decoded_cache import DecodedCache
from etl.jpeg_index import can_use
from etl.sample import native
from scripts.make_shards import main as make_shards
from sources.jpeg_index import NAME, SplitIndex, open_index
from sources.samples import SampleDataset
from sources.shards.reader import ShardReader
from sources.shards.splits import ShardOptions, shard_splits
from tests.conftest import TINY, Result, make_small_folder

Train = Callable[..., Result]

SPEC = Spec.train(32)
RUN = [*TINY, "train.epochs=3", "data.fingerprint=full"]
needs_index = pytest.mark.skipif(not can_use(native()), reason="imagenet_ais_native is not built, or older: make setup")


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test has just made count as old."""
    monkeypatch.setattr("etl.decoded_sample.SETTLED_S", -60.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder, and shards of it in ``shards``."""
    root = tmp_path_factory.mktemp("data")
    make_small_folder(root / "small")
    make(root / "small", root / "shards")
    return root


@pytest.fixture
def shards(data: Path, tmp_path: Path) -> Path:
    """The shards, to be changed."""
    return Path(shutil.copytree(data / "shards", tmp_path / "shards"))


def make(folder: Path, out: Path) -> None:
    assert make_shards([str(folder), str(out), "--samples", "7", "--workers", "1", "--replace"]) == 0


def same(run: Result, other: Result) -> None:
    assert run.code == other.code == 0, run.output
    assert run.summary()["state_sha256"] == other.summary()["state_sha256"]
    assert run.fingerprints() == other.fingerprints()


@needs_index
def test_runs_with_a_jpeg_index_are_those_of_the_folder_without(
    train: Train, data: Path, shards: Path, tmp_path: Path
) -> None:
    folder = train(*RUN, f"data.root={data / 'small'}", "data.index=off", "run_dir=folder")
    words = [*RUN, "data=shards", f"data.root={shards}", "data.index=auto"]
    making = train(*words, "run_dir=making", "data.workers=1")
    where = shards / "train" / NAME
    assert "JPEG index: 51 photos have an entry" in making.output and f"each in {where}" in making.output
    before = where.read_bytes()
    using = train(*words, "run_dir=using")
    assert "JPEG index" not in using.output and where.read_bytes() == before
    same(making, folder)
    same(using, folder)
    changed = Path(shutil.copytree(data / "small", tmp_path / "changed"))
    (changed / "train/cat/1.jpg").write_bytes((changed / "train/cat/2.jpg").read_bytes())
    make(changed, shards)
    other = train(*words, "run_dir=other")
    assert "; 1 that were damaged, or of another content, were made anew" in other.output
    same(other, train(*RUN, f"data.root={changed}", "data.index=off", "run_dir=changed"))
    assert other.summary()["state_sha256"] != folder.summary()["state_sha256"]


def test_runs_with_decoded_photos_are_those_of_the_folder_without(
    train: Train, data: Path, shards: Path, tmp_path: Path
) -> None:
    folder = train(*TINY, f"data.root={data / 'small'}", "run_dir=folder")
    cache = ["data.cache=decoded", f"data.cache_dir={tmp_path / 'cache'}", "data.cache_gb=0.01"]
    words = [*TINY, "data=shards", f"data.root={shards}", *cache]
    first, again = train(*words, "run_dir=first"), train(*words, "run_dir=again", "data.workers=1")
    same(first, folder)
    same(again, folder)
    assert [run.summary()["samples_by_source"]["cache"] for run in (first, again)] == [51, 102]
    assert "has 0 in 0.0 GB and room for all: 100 % of the 51 photos" in first.output
    inside = train(*words, f"data.cache_dir={shards / 'train' / 'cache'}", "run_dir=inside")
    assert inside.code == 2 and "lies in the data" in inside.output


def opened(shards: Path, cache: DecodedCache | None = None, index: SplitIndex | None = None) -> SampleDataset:
    manifest = shard_splits(ShardOptions(str(shards)), print)[0]
    return SampleDataset(ShardReader(manifest), manifest, SPEC, 3, cache=cache, index=index)


def filled(dataset: SampleDataset) -> tuple[np.ndarray, int]:
    """All samples, and how many were made of decoded photos that were kept."""
    rows = np.zeros((len(dataset), 32, 32, 3), np.uint8)
    return rows, dataset.fill([(0, index) for index in range(len(dataset))], rows).counts.cache


@pytest.mark.parametrize("how", ["another content", "touched", "the same bytes put again"])
def test_the_decoded_photos_of_a_shard_that_was_replaced_are_misses(shards: Path, tmp_path: Path, how: str) -> None:
    cache = DecodedCache(str(tmp_path / "cache"), 10**7)
    before, _ = filled(opened(shards, cache))
    assert filled(opened(shards, cache))[1] == 36
    shard = shards / "train" / "train-000002.tar"
    status, content = shard.stat(), bytearray(shard.read_bytes())
    if how == "another content":
        content[content.index(b"\xff\xd9") - 40] ^= 1
    if how != "touched":
        shard.unlink()
        shard.write_bytes(content)
    os.utime(shard, ns=(5, status.st_mtime_ns + 1))
    rows, cached = filled(opened(shards, cache))
    expected = filled(opened(shards))[0]
    assert cached == 36 - 7 and np.array_equal(rows, expected)
    assert (how == "another content") != np.array_equal(rows, before)
    assert filled(opened(shards, cache))[1] == 36


def test_shards_at_another_place_share_no_decoded_photos(shards: Path, tmp_path: Path) -> None:
    cache = DecodedCache(str(tmp_path / "cache"), 10**7)
    before, _ = filled(opened(shards, cache))
    rows, cached = filled(opened(shards.rename(tmp_path / "moved"), cache))
    assert cached == 0 and np.array_equal(rows, before)


def test_a_shard_that_changes_in_the_middle_of_a_run_gives_no_kept_photo(shards: Path, tmp_path: Path) -> None:
    dataset = opened(shards, DecodedCache(str(tmp_path / "cache"), 10**7))
    filled(dataset)
    reader, place = dataset.reader, dataset.reader.manifest.place(0)  # type: ignore[attr-defined]
    assert reader.content_key(0) is not None
    with open(place.path, "ab") as file:
        file.write(bytes(10240))
    assert reader.content_key(0) is None


@needs_index
def test_entries_of_a_photo_that_was_replaced_are_made_anew(data: Path, shards: Path, tmp_path: Path) -> None:
    index = open_index(shards / "train", 36, print)
    assert index is not None
    before, _ = filled(opened(shards, index=index.of(shards / "train")))
    assert index.file.tally().photos == 36
    changed = Path(shutil.copytree(data / "small", tmp_path / "changed"))
    (changed / "train/cat/1.jpg").write_bytes((changed / "train/cat/2.jpg").read_bytes())
    make(changed, shards)
    rows, _ = filled(opened(shards, index=index.of(shards / "train")))
    assert np.array_equal(rows, filled(opened(shards))[0]) and not np.array_equal(rows[1], before[1])
    assert index.file.tally().renewed == 1
