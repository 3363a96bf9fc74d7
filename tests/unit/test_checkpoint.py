"""Checkpoints: whole or not at all, named when damaged."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
import torch

from sources.errors import UserError
from tests.support.checkpoints import sound_state
from training.run_dir import checkpoint


def newest(folder: Path) -> Path | None:
    found = checkpoint.newest(folder)
    return found and found[0]


def test_what_is_saved_is_loaded_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "checkpoints", sound_state(3))
    assert [entry.name for entry in path.parent.iterdir()] == ["last.pt"]
    assert newest(path.parent) == path
    assert checkpoint.load(path)["epoch"] == 3


def test_best_and_former_epochs_are_kept(tmp_path: Path) -> None:
    for epoch in range(5):
        also = ["best.pt"] if epoch == 1 else []
        checkpoint.save(tmp_path, sound_state(epoch), [*also, checkpoint.epoch_name(epoch)])
        checkpoint.keep_last_epochs(tmp_path, 2)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "best.pt",
        "epoch-0003.pt",
        "epoch-0004.pt",
        "last.pt",
    ]
    assert checkpoint.load(tmp_path / "best.pt")["epoch"] == 1
    assert checkpoint.load(tmp_path / "epoch-0003.pt")["epoch"] == 3
    checkpoint.keep_last_epochs(tmp_path, 0)
    assert not list(tmp_path.glob("epoch-*"))


def test_without_hard_links_it_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    checkpoint.save(tmp_path, sound_state(), ["best.pt"])
    assert checkpoint.load(tmp_path / "best.pt")["epoch"] == 1


def test_a_failed_write_keeps_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, sound_state(1))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"last.pt could not be written: .*No space left.*former one is untouched"):
        checkpoint.save(tmp_path, sound_state(2))
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.pt"]
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 1


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, sound_state(1), [checkpoint.epoch_name(0)])
    path = checkpoint.save(tmp_path, sound_state(2))
    path.write_bytes(path.read_bytes()[:200])
    assert newest(tmp_path) == tmp_path / "epoch-0000.pt"
    assert f"{path} is damaged" in capsys.readouterr().out
    torch.save(sound_state(7), tmp_path / "best.pt")
    assert newest(tmp_path) == tmp_path / "best.pt"
    for name in ("epoch-0000.pt", "best.pt"):
        (tmp_path / name).unlink()
    with pytest.raises(UserError, match="no checkpoint in .* can be read"):
        checkpoint.newest(tmp_path)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.load(tmp_path / "last.pt")


def test_a_foreign_file_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="is not a checkpoint of this trainer"):
        checkpoint.load(tmp_path / "other.pt")


def test_the_hash_of_a_state_is_as_documented() -> None:
    tensors = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3)}
    expected = hashlib.sha256(
        b"a torch.int64 []\n" + (3).to_bytes(8, "little") + b"b torch.float32 [1, 2]\n" + tensors["b"].numpy().tobytes()
    )
    assert checkpoint.state_sha256(tensors) == expected.hexdigest()
    images = torch.randn(2, 3, 4, 5)
    strided = images.to(memory_format=torch.channels_last)
    assert checkpoint.state_sha256({"x": images}) == checkpoint.state_sha256({"x": strided})
