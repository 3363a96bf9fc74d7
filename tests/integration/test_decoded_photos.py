"""data.cache=decoded: the same weights with fewer decodes, and a sentence for what cannot be."""

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from aistore_data.client.access import Access
from aistore_data.client.sdk import make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.etls.kept import PodFacts
from aistore_data.etls.lifecycle import RECIPES, EtlSettings, ensure
from etl import Key, Spec, transform
from etl.decoded_cache import FOLDER, DecodedCache
from sources.errors import ConfigError
from sources.folder import FolderReader, scan_folder
from sources.samples import SampleDataset
from tests.conftest import TINY, Result, write_image

Train = Callable[..., Result]

FILES = ["old files"]
GB = "data.cache_gb=0.01"


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test has just made count as old."""
    monkeypatch.setattr("etl.decoded_sample.SETTLED_S", -60.0)


def on(cache: Path, *more: str) -> list[str]:
    return ["data.cache=decoded", f"data.cache_dir={cache}", GB, *more]


def test_weights_are_the_same_and_later_epochs_decode_nothing(train: Train, small_folder: Path, tmp_path: Path) -> None:
    plain = train(f"data.root={small_folder}", *TINY, "run_dir=a")
    first = train(f"data.root={small_folder}", *TINY, *on(tmp_path / "cache"), "run_dir=b")
    policy = ("data.augment=ta_wide", "data.interpolation=bicubic")
    other = train(f"data.root={small_folder}", *TINY, *policy, "run_dir=c")
    again = train(f"data.root={small_folder}", *TINY, *policy, *on(tmp_path / "cache"), "run_dir=d")
    assert [run.code for run in (plain, first, other, again)] == [0] * 4, first.output
    assert first.summary()["state_sha256"] == plain.summary()["state_sha256"]
    assert again.summary()["state_sha256"] == other.summary()["state_sha256"]
    assert first.summary()["samples_by_source"] == {"local": 102, "etl": 0, "cache": 51}
    assert again.summary()["samples_by_source"] == {"local": 102, "etl": 0, "cache": 102}
    assert "cache" not in plain.summary()["samples_by_source"]
    where = f"{tmp_path}/cache/{FOLDER}"
    assert f"decoded photos are kept in {where}, which has 0 in 0.0 GB and room for all: 100 % of the" in first.output
    assert f"51 of 102 samples (50 %) were made from them; {where} holds 51 in 0.0 GB" in first.output
    assert [line.get("data_cache", 0) for line in first.metrics("train_epoch")] == [0, 36]


def test_a_share_fits(train: Train, small_folder: Path, tmp_path: Path) -> None:
    gb = 4096 + 32 * 1024 + 20 * 40 * 8 * (48 * 3 // 8 + 1)  # the index, and 20 photos of 48 x 40
    run = train(f"data.root={small_folder}", *TINY, *on(tmp_path / "cache"), f"data.cache_gb={gb / 1e9}")
    assert run.code == 0 and run.summary()["samples_by_source"]["cache"] == 20, run.output
    assert "room for about 20 more: 39 % of the 51 photos" in run.output
    assert DecodedCache(str(tmp_path / "cache"), gb).size == gb


def test_workers_share_a_cache_on_another_file_system(
    train: Train, fork_train: Train, small_folder: Path, tmp_path: Path
) -> None:
    cache = Path("/dev/shm") / f"imagenet-ais-test-{os.getpid()}"  # another file system than tmp_path's
    try:
        train(f"data.root={small_folder}", *TINY, *on(cache), "run_dir=a")
        run = fork_train(f"data.root={small_folder}", *TINY, *on(cache), "data.workers=2", "run_dir=b")
        assert run.code == 0 and run.summary()["samples_by_source"]["cache"] == 102, run.output
    finally:
        for name in ("index", "pixels"):
            (cache / FOLDER / name).unlink()
        (cache / FOLDER).rmdir()
        cache.rmdir()


def test_a_run_that_is_killed_while_it_keeps_a_photo(fork_train: Train, small_folder: Path, tmp_path: Path) -> None:
    words = [f"data.root={small_folder}", *TINY]
    plain = fork_train(*words, "run_dir=a")
    killed = fork_train(
        *words, *on(tmp_path / "cache"), "run_dir=b", accident="a decoded photo half written", number=20, patches=FILES
    )
    assert killed.code == -signal.SIGKILL, killed.output
    again = fork_train(*words, *on(tmp_path / "cache"), "run_dir=b", patches=FILES)
    assert again.summary()["state_sha256"] == plain.summary()["state_sha256"], again.output
    # Two writes made the index, so 17 photos were whole; the 18th is written again, in its place.
    assert again.summary()["samples_by_source"]["cache"] == 51 + 17
    assert DecodedCache(str(tmp_path / "cache"), 10**7).photos == 51


def dataset(root: Path, cache: DecodedCache) -> SampleDataset:
    manifest = scan_folder(root)[0]
    return SampleDataset(FolderReader(root / "train", manifest), manifest, Spec.train(32), 3, cache=cache)


def filled(data: SampleDataset) -> tuple[np.ndarray, int]:
    rows = np.zeros((len(data), 32, 32, 3), np.uint8)
    counts = data.fill([(0, index) for index in range(len(data))], rows).counts
    return rows, counts.cache


def test_a_photo_that_is_replaced_is_not_taken_for_the_former_one(small_folder: Path, tmp_path: Path) -> None:
    data = dataset(small_folder, DecodedCache(str(tmp_path), 10**7))
    before, _ = filled(data)
    assert filled(data)[1] == 36
    path = small_folder / "train" / data.manifest.name(5)
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-40] ^= 1  # another photo of the same size
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    rows, cached = filled(data)
    expected = transform(bytes(content), Spec.train(32), Key(3, 0, 5))
    assert cached == 35 and np.array_equal(rows[5], expected)
    assert np.array_equal(np.delete(rows, 5, 0), np.delete(before, 5, 0))
    assert filled(data)[1] == 36


def test_a_photo_that_changed_a_moment_ago_is_not_kept(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl.decoded_sample.SETTLED_S", 1e6)
    data = dataset(small_folder, DecodedCache(str(tmp_path), 10**7))
    assert filled(data)[1] == filled(data)[1] == 0 and data.cache is not None and data.cache.photos == 0


def test_photos_of_another_data_set_are_misses(small_folder: Path, tmp_path: Path) -> None:
    cache = DecodedCache(str(tmp_path), 10**7)
    filled(dataset(small_folder, cache))
    write_image(small_folder / "train" / "cat" / "0a.jpg", 77)
    small_folder.rename(small_folder.with_name("moved"))
    moved = dataset(small_folder.with_name("moved"), cache)
    rows, cached = filled(moved)
    assert cached == 0 and np.array_equal(rows, filled(moved)[0])


def test_a_disk_that_is_full_during_the_run(train: Train, small_folder: Path, tmp_path: Path) -> None:
    plain = train(f"data.root={small_folder}", *TINY, "run_dir=a")
    with patch.object(DecodedCache, "_reserve", _full):
        run = train(f"data.root={small_folder}", *TINY, *on(tmp_path / "cache"), "run_dir=b")
    assert run.code == 0 and run.summary()["state_sha256"] == plain.summary()["state_sha256"]
    assert "cache: No space left on device. The run goes on, and decodes the others each time" in run.output
    assert run.summary()["samples_by_source"]["cache"] == 0


def _full(self: DecodedCache, *arguments: object) -> None:
    self.full, self.problem = True, "No space left on device"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data.cache=decoded", "data.cache_dir=X"], "data.cache=decoded needs data.cache_gb"),
        (["data.cache=decoded", "data.cache_gb=-1"], "data.cache_gb must be 0 or more, not -1"),
        (["data=aistore", "data.transform=client", *on(Path("X"))], "use data.transform=etl, or leave it out"),
        (["data=synthetic", *on(Path("X"))], "data=synthetic has none: leave it out"),
        (["data=aistore", "data.etl.comm_type=hpull", *on(Path("/X"))], "it reads none: use hpush"),
        (["data=aistore", *on(Path("X"))], "data.cache_dir=X is a folder in the ETL's pods: its path begins with /"),
    ],
)
def test_options_that_do_not_go_together(train: Train, words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        train("data.root=/data", *words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*on(Path("X")), "data.cache_gb=1e-6"], "1e-06 GB are too few for decoded photos: allow more."),
        ([*on(Path("X")), "data.cache_gb=1e9"], "and decoded photos may take 1,000,000,000.0 GB more: allow fewer"),
        ([*on(Path("file"))], "/file/decoded-photos: File exists; name a folder that can be written to."),
        ([*on(Path("ROOT/cache"))], "small, where folders are classes: name another."),
    ],
)
def test_folders_that_cannot_be_used(train: Train, small_folder: Path, words: list[str], sentence: str) -> None:
    Path("file").write_text("x")
    words = [word.replace("=ROOT", f"={small_folder}") for word in words]
    run = train(f"data.root={small_folder}", *TINY, *words)
    assert run.code == 2 and f"error: data.cache_dir={words[1][15:]}" in run.output and sentence in run.output


def test_a_bucket_whose_pods_keep_photos(train: Train, small_folder: Path, tmp_path: Path) -> None:
    bucket = ["data=aistore", "data.endpoint=embedded", f"data.embedded_root={small_folder}", "data.etl.num_workers=1"]
    folder = train(f"data.root={small_folder}", *TINY, "run_dir=a")
    first = train(*bucket, *TINY, *on(tmp_path / "cache"), "run_dir=b")
    again = train(*bucket, *TINY, *on(tmp_path / "cache"), "run_dir=c")
    weights = folder.summary()["state_sha256"]
    assert [run.summary()["state_sha256"] for run in (first, again)] == [weights] * 2, first.output
    # Two photos were asked for already, when the ETL's pixels were compared.
    assert first.summary()["samples_by_source"] == {"local": 0, "etl": 102, "cache": 38}
    assert again.summary()["samples_by_source"] == {"local": 0, "etl": 102, "cache": 72}
    start = "ETL imagenet-train keeps decoded photos: its pod may take 0.01 GB together, which is room for 100 % of"
    assert f"{start} the 36 training photos, and have " in first.output
    assert "have 36 in 0.0 GB" in again.output
    assert "72 of the 102 samples of ETLs (71 %) were made from them since this run began" in again.output


def test_a_folder_that_pods_of_this_machine_cannot_use(train: Train, small_folder: Path) -> None:
    Path("file").write_text("x")
    run = train("data=aistore", "data.endpoint=embedded", f"data.embedded_root={small_folder}", *on(Path("file")))
    assert run.code == 2 and "file/decoded-photos: File exists; name a folder that can be written to." in run.output


def test_an_etl_that_keeps_none_is_left_alone(
    train: Train, small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedAIS(tmp_path / "ais", imagefolder=small_folder) as server:
        monkeypatch.setenv("AIS_ENDPOINT", server.endpoint)
        monkeypatch.setenv("AIS_AUTHN_TOKEN", server.token)
        client, said = make_client(Access(server.endpoint, server.token)), list[str]()
        plain = EtlSettings(num_workers=1)
        for recipe in RECIPES:
            ensure(client, f"imagenet-{recipe}", recipe, plain, said.append)
        reuse = ["data=aistore", *TINY, "train.epochs=1", "data.etl.manage=reuse", *on(tmp_path / "cache")]
        run = train(*reuse)
        assert run.code == 0 and run.summary()["samples_by_source"] == {"local": 0, "etl": 51, "cache": 0}, run.output
        assert "keeps no decoded photos: it was started without IMAGENET_AIS_CACHE_GB" in run.output
        keeping = dataclasses.replace(plain, cache_gb=0.01, cache_dir=str(tmp_path / "cache"))
        name, is_new = ensure(client, "imagenet-train", "train", keeping, said.append)
        assert name.startswith("imagenet-train-") and is_new
        assert (
            f"keeps no decoded photos, or otherwise than this run wants it and is left alone; this run uses {name}"
            in said[-1]
        )
        assert ensure(client, "imagenet-train", "train", keeping, said.append) == (name, False)
        assert ensure(client, name, "train", plain, said.append) == (name, False)  # it makes the same samples
        assert ensure(client, "imagenet-val", "val", keeping, said.append) == ("imagenet-val", False)


def test_what_a_pod_tells() -> None:
    assert PodFacts.of(b'{"cache":{"photos":3,"bytes":9,"limit":10,"hits":4,"problem":""}}') == PodFacts(3, 9, 10, 4)
    assert PodFacts.of(b'{"cache":{"problem":"\\u001b[2J"}}').problem == " [2J"
    for answer in (
        b"",
        b"[]",
        b'{"cache":7}',
        b'{"cache":{"problem":"","hits":"x"}}',
        b'{"cache":{"problem":"","hits":[]}}',
    ):
        assert PodFacts.of(answer).problem == "it was started without IMAGENET_AIS_CACHE_GB"
