"""What a resumed run may change, and what it may not."""

import copy
import dataclasses
from typing import Any

import pytest

from training.config import Config, describe_options
from training.drift import changes_of_result, changes_of_rounding

ENVIRONMENT: dict[str, Any] = {
    "versions": {"torch": "2.15", "numpy": "2.4", "python": "3.11"},
    "sample_code": "a" * 64,
    "data": {
        "source": "/here",
        "train": {"samples": 36, "sha256": "b" * 64},
        "val": {"samples": 15, "sha256": "c" * 64},
    },
    "world_size": 1,
    "threads": 2,
    "device": "cpu",
    "git": {"commit": "abc"},
}


def side() -> dict[str, Any]:
    return {"config": dataclasses.asdict(Config()), "environment": copy.deepcopy(ENVIRONMENT)}


def put(tree: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *groups, name = path.split(".")
    inner = tree
    for group in groups:
        inner = inner[group]
    inner[name] = value
    return tree


RESULT = {
    *("seed", "precision", "deterministic", "data.wire", "data.image_size", "data.interpolation", "data.scale"),
    *("data.fingerprint", "model.name", "model.weights", "train.batch_size", "train.lr", "train.momentum"),
    *("train.weight_decay", "train.label_smoothing", "train.schedule", "train.accumulate", "train.compile"),
    *("data.val_resize", "train.warmup_epochs"),
}
FREE = {
    *("run_dir", "resume", "data.root", "data.source", "data.bucket", "data.transform", "data.workers"),
    *("data.etl.train_name", "data.etl.num_workers", "train.checkpoint_every", "train.keep", "train.epochs"),
    *("allow_changes", "threads", "device"),
}


@pytest.mark.parametrize("name", [name for name, _, _ in describe_options()])
def test_an_option_is_free_or_decides(name: str) -> None:
    """Every option is compared; a new one counts as deciding the result until it is said to be free."""
    changed = put(side(), f"config.{name}", "something else")
    names = [difference.name for difference in changes_of_result(side(), changed)]
    if name in RESULT:
        assert names == [name]
    if name in FREE:
        assert names == []


def test_more_epochs_are_free_unless_the_schedule_ends_with_them() -> None:
    cosine = put(side(), "config.train.schedule", "cosine")
    longer = put(copy.deepcopy(cosine), "config.train.epochs", 100)
    assert [str(difference) for difference in changes_of_result(cosine, longer)] == ["train.epochs: 90 → 100"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("versions.torch", "torch: 2.15 → 9"),
        ("sample_code", "sample code: aaaaaaaaaaaa… → 9"),
        ("data.train.sha256", "data set train.sha256: bbbbbbbbbbbb… → 9"),
        ("data.val.samples", "data set val.samples: 15 → 9"),
    ],
)
def test_data_code_and_versions_decide(path: str, text: str) -> None:
    changed = put(side(), f"environment.{path}", 9)
    assert [str(difference) for difference in changes_of_result(side(), changed)] == [text]
    assert not changes_of_rounding(side(), changed)


@pytest.mark.parametrize("path", ["versions.python", "git.commit", "data.source"])
def test_what_does_not_decide(path: str) -> None:
    changed = put(side(), f"environment.{path}", 9)
    assert not changes_of_result(side(), changed) and not changes_of_rounding(side(), changed)


def test_processes_threads_and_device_may_change_but_are_said() -> None:
    changed = put(put(side(), "environment.world_size", 4), "environment.device", "GPU")
    assert not changes_of_result(side(), changed)
    assert list(map(str, changes_of_rounding(side(), changed))) == ["world_size: 1 → 4", "device: cpu → GPU"]
