"""Training from tar shards: the same samples, order and weights as from the folder that they were made of."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.make_shards import main
from sources.errors import ConfigError
from tests.conftest import TINY, ForkedTrain, Result, Zygote, make_small_folder

Train = Callable[..., Result]
RUN = [*TINY, "train.checkpoint_every=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder, and shards of it in ``shards``."""
    root = tmp_path_factory.mktemp("data")
    make_small_folder(root / "small")
    assert main([str(root / "small"), str(root / "shards"), "--samples", "7", "--workers", "1"]) == 0
    return root


def hashes(result: Result) -> dict[str, str]:
    environment = json.loads((result.run_dir / "environment.json").read_text())
    return {split: environment["data"][split]["sha256"] for split in ("train", "val")}


@pytest.fixture(scope="module")
def whole(zygote: Zygote, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run of the folder."""
    result = ForkedTrain(zygote, tmp_path_factory.mktemp("whole") / "cwd")(*RUN, f"data.root={data / 'small'}")
    assert result.code == 0, result.output
    return result


def test_a_run_is_that_of_the_folder_also_when_it_was_killed_inside_an_epoch(
    fork_train: ForkedTrain, data: Path, whole: Result
) -> None:
    words = [*RUN, "data=shards", f"data.root={data / 'shards'}"]
    killed = fork_train(*words, "data.workers=1", accident="between steps", number=5)
    assert killed.code == -signal.SIGKILL, killed.output
    pattern = f"{data}/shards/train/train-{{000000..000005}}.tar"
    shards = fork_train(*RUN, "data=shards", f"data.train_shards={pattern}", f"data.val_shards={data}/shards/val")
    assert shards.code == 0 and "going on from" in shards.output, shards.output
    assert hashes(shards) == hashes(whole) and shards.fingerprints() == whole.fingerprints()
    assert shards.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_two_processes_see_the_samples_of_one_and_a_folder_goes_on(
    fork_train: ForkedTrain, data: Path, whole: Result
) -> None:
    words = [*RUN, "data=shards", f"data.root={data / 'shards'}"]
    killed = fork_train(*words, accident="between steps", number=2)
    assert killed.code == -signal.SIGKILL, killed.output
    several = fork_train(*words, "train.epochs=1", world=2)
    assert several.code == 0, several.output
    rest = fork_train(*RUN, f"data.root={data / 'small'}")
    assert rest.code == 0 and rest.fingerprints() == whole.fingerprints(), rest.output


def test_blocks_go_on_inside_an_epoch_and_are_no_global_order(
    fork_train: ForkedTrain, data: Path, whole: Result
) -> None:
    words = [*RUN, "data=shards", f"data.root={data / 'shards'}", "data.order=blocks", "data.block_shards=2"]
    blocks = fork_train(*words, "run_dir=blocks")
    assert blocks.code == 0, blocks.output
    assert fork_train(*words, accident="between steps", number=5).code == -signal.SIGKILL
    rest = fork_train(*words)
    assert rest.code == 0 and rest.fingerprints() == blocks.fingerprints() != whole.fingerprints(), rest.output
    assert rest.summary()["state_sha256"] == blocks.summary()["state_sha256"]
    other = fork_train(*words[:-2], "train.epochs=3")
    assert other.code == 2 and "data.order: blocks → global" in other.output


@pytest.mark.parametrize("words", [["data.val_split=0.3"], ["data.fold=1/3"], ["data.balance=classes"]])
def test_other_options_of_data_do_the_same_for_shards(
    train: Train, data: Path, words: list[str], tmp_path: Path
) -> None:
    one = "data.balance=classes" not in words
    roots = [data / "small" / "train", data / "shards"] if one else [data / "small", data / "shards"]
    folder = train(*TINY, f"data.root={roots[0]}", *words, "run_dir=folder", "train.epochs=1")
    named = [f"data.train_shards={data / 'shards' / 'train'}"] if one else [f"data.root={data / 'shards'}"]
    shards = train(*TINY, "data=shards", *named, *words, "run_dir=shards", "train.epochs=1")
    assert folder.code == shards.code == 0, shards.output
    assert folder.fingerprints() == shards.fingerprints() and hashes(folder) == hashes(shards)


def test_a_photo_that_is_overwritten_ends_the_run_or_is_replaced(train: Train, data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data / "shards", tmp_path / "shards"))
    words = [*TINY, "data=shards", f"data.root={root}", "train.epochs=1"]
    assert train(*words, "run_dir=before").code == 0
    shard = root / "train" / "train-000002.tar"
    other_bytes(shard, restore=True)
    said = f"in {shard} is damaged, or overwritten in its shard: its CRC-32 is not the one that was indexed"
    ended = train(*words, "run_dir=raise")
    assert ended.code == 1 and said in ended.output, ended.output
    replaced = train(*words, "run_dir=replace", "data.on_corrupt=replace")
    assert replaced.code == 0 and replaced.summary()["replaced"] == 1, replaced.output


def test_a_shard_that_was_written_to_is_named_when_a_run_goes_on(train: Train, data: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(data / "shards", tmp_path / "shards"))
    words = [*TINY, "data=shards", f"data.root={root}"]
    assert train(*words, "train.epochs=1").code == 0
    shard = root / "train" / "train-000002.tar"
    other_bytes(shard)
    result = train(*words, "train.epochs=2")
    assert result.code == 2 and f"changed since: {shard}" in result.output and "content of samples" in result.output
    elsewhere = shutil.copytree(data / "shards", tmp_path / "elsewhere")
    assert train(*words[:-1], f"data.root={elsewhere}", "train.epochs=2").code == 0


def other_bytes(shard: Path, restore: bool = False) -> None:
    """Change one byte in the middle of the first photo; ``restore``: as nobody notices by the time of change."""
    status, content = shard.stat(), bytearray(shard.read_bytes())
    content[512 + 200] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(5, status.st_mtime_ns if restore else status.st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.order=blocks"], "data.order=blocks is for tar shards, and data=imagefolder has none"),
        (["data.train_shards=x.tar"], "data.train_shards=x.tar is for tar shards: add data=shards"),
        (
            ["data.layout=shards"],
            "data.layout=shards is for samples in a bucket, and data=imagefolder has none: leave it out",
        ),
        (
            ["data=aistore", "data.endpoint=embedded", "data.embedded_root=/data", "data.layout=shards"],
            "data.endpoint=embedded serves a folder of photos: use data=shards for tars on this machine",
        ),
        (["data=aistore", "data.order=blocks"], "data.order=blocks is for tar shards, and data=aistore has none"),
        (
            ["data=aistore", "data.label_field=label"],
            "data.label_field=label is for tar shards: add data.layout=shards",
        ),
        (["data=shards"], "data.root is not set: give the folder that holds train/*.tar and val/*.tar"),
        (["data=shards", "data.labels=x.csv"], "those of shards have their labels there: leave it out"),
        (["data=shards", "data.order=blocks", "data.balance=classes"], "each say which samples follow each other"),
    ],
)
def test_options_that_contradict_each_other(train: Train, words: list[str], said: str) -> None:
    root = [] if words == ["data=shards"] else ["data.root=/data"]
    with pytest.raises(ConfigError) as caught:
        train(*root, *words)
    assert said in str(caught.value)


def test_evaluation_of_shards(train: Train, data: Path) -> None:
    trained = train(*TINY, f"data.root={data / 'small'}", "run_dir=folder")
    words = [
        *TINY,
        "mode=evaluate",
        "run_dir=evaluated",
        f"model.weights={trained.run_dir / 'checkpoints' / 'last.pt'}",
    ]
    result = train(*words, "data=shards", f"data.val_shards={data / 'shards' / 'val'}")
    assert result.code == 0, result.output
    assert result.summary()["acc1"] == trained.summary()["acc1"]


def test_blocks_of_other_shards_are_another_order(train: Train, data: Path, tmp_path: Path) -> None:
    assert main([str(data / "small"), str(tmp_path / "other"), "--samples", "5", "--workers", "1"]) == 0
    words = [*TINY, "data=shards", "data.order=blocks", "data.block_shards=2"]
    assert train(*words, f"data.root={data / 'shards'}", "train.epochs=1").code == 0
    result = train(*words, f"data.root={tmp_path / 'other'}")
    assert result.code == 2 and "data set train.blocks: " in result.output, result.output
