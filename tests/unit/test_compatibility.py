"""What a resumed run may change, and what it may not."""

import copy
import dataclasses
from typing import Any

import pytest

from training.config.schema import Config, describe_options
from training.state import compatibility
from training.state.compatibility import changes_of_result, changes_of_rounding

ENVIRONMENT: dict[str, Any] = {
    "versions": {"sample": 1, "torch": "2.15", "numpy": "2.4", "python": "3.11"},
    "samples": "a" * 64,
    "sample_code": "d" * 64,
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


FREE = {
    *("run_dir", "run_mirror", "resume", "mode", "device", "allow_changes", "threads", "meet_s"),
    *("data.classes", "data.labels", "data.train_shards", "data.val_shards", "data.label_field"),
    "data.block_shards",  # without data.order=blocks
    *("data.source", "data.root", "data.endpoint", "data.bucket", "data.val_bucket", "data.train_prefix"),
    "data.layout",
    *("data.val_prefix", "data.embedded_root", "data.embedded_layout", "data.transform", "data.local_share"),
    *("data.workers", "data.prefetch", "data.index", "data.cache", "data.cache_dir", "data.cache_gb"),
    *("data.max_replaced", "data.patience_s", "data.audit_every"),
    *("data.train_samples", "data.val_samples", "data.on_corrupt"),  # see below
    *("data.augment_ops", "data.augment_magnitude", "data.augment_interpolation"),  # see below
    *("optim.betas", "optim.eps", "optim.alpha", "optim.warmup_start", "optim.min_lr"),  # see below
    *("train.stop_after", "train.profile", "eval.every"),
    *("eval.flip", "eval.classes", "eval.labels", "eval.predictions", "eval.compare_precision"),  # of evaluations
    *("log.tensorboard", "log.wandb", "log.mlflow", "log.report"),
    *("train.epochs", "train.checkpoint_every", "train.checkpoint_every_s", "train.keep", "train.log_every"),
    *("train.bce_threshold", "train.mix_prob", "train.mix_switch", "train.ema_every", "eval.ema"),  # see below
    "model.head",  # with model.weights alone
}
"""Besides ``data.etl`` and ``log``: what may change when a run of the default configuration goes on."""

OPTIONS = [name for name, _, _ in describe_options()]


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [difference.name for difference in changes_of_result(before, now)]


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_free_or_decides(name: str) -> None:
    """Every option is compared; a new one counts as deciding the result until it is said to be free."""
    free = name in FREE or name.startswith(("data.etl.", "log."))
    for value in ("something else", None, 5, [1]):
        if value != getattr_path(name):
            assert changes(side(), put(side(), f"config.{name}", value)) == ([] if free else [name])


def getattr_path(name: str) -> Any:
    tree: Any = dataclasses.asdict(Config())
    for part in name.split("."):
        tree = tree[part]
    return tree


def test_every_free_option_exists() -> None:
    assert set(OPTIONS) > FREE


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_the_checkpoint_does_not_know_counts_as_its_default(name: str) -> None:
    older = side()
    *groups, last = name.split(".")
    inner = older["config"]
    for part in groups:
        inner = inner[part]
    del inner[last]
    assert changes(older, side()) == []
    free = name in FREE or name.startswith(("data.etl.", "log."))
    assert changes(older, put(side(), f"config.{name}", "new")) == ([] if free else [name])


def test_an_option_that_is_no_more_counts_unless_it_was_at_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert changes(put(side(), "config.train.nothing_we_know", 1), side()) == ["train.nothing_we_know"]
    monkeypatch.setitem(compatibility.REMOVED, "train.warp", 1.0)
    assert changes(put(side(), "config.train.warp", 1.0), side()) == []
    assert changes(put(side(), "config.train.warp", 2.0), side()) == ["train.warp"]


@pytest.mark.parametrize(
    ("name", "value", "when", "elsewhere"),
    [
        ("train.epochs", 100, {"config.optim.schedule": "cosine"}, {"config.optim.schedule": "step"}),
        ("train.epochs", 100, {"config.optim.schedule": "linear"}, {"config.optim.schedule": "constant"}),
        ("train.bce_threshold", 0.2, {"config.train.loss": "bce"}, {"config.train.loss": "ce"}),
        ("model.head", "new", {"config.model.weights": "w.pt"}, {"config.model.weights": ""}),
        ("train.mix_prob", 0.5, {"config.train.mixup": 0.2}, {"config.train.random_erasing": 0.1}),
        ("train.mix_prob", 0.5, {"config.train.cutmix": 0.2}, {}),
        ("train.mix_switch", 0.3, {"config.train.mixup": 1, "config.train.cutmix": 1}, {"config.train.mixup": 1}),
        ("train.ema_every", 32, {"config.train.ema_decay": 0.9}, {}),
        ("eval.ema", "off", {"config.train.ema_decay": 0.9}, {}),
        ("optim.momentum", 0.5, {"config.optim.name": "sgd"}, {"config.optim.name": "adamw"}),
        ("optim.nesterov", True, {"config.optim.name": "sgd"}, {"config.optim.name": "adamw"}),
        ("optim.betas", [0.5, 0.9], {"config.optim.name": "adamw"}, {"config.optim.name": "sgd"}),
        ("optim.eps", 0.5, {"config.optim.name": "adamw"}, {"config.optim.name": "sgd"}),
        ("optim.warmup_start", 0.5, {"config.optim.warmup_epochs": 1.0}, {"config.optim.warmup_epochs": 0.0}),
        ("optim.min_lr", 0.05, {"config.optim.schedule": "cosine"}, {"config.optim.schedule": "step"}),
        ("optim.min_lr", 0.05, {"config.optim.schedule": "linear"}, {"config.optim.schedule": "constant"}),
        ("optim.step_epochs", 5, {"config.optim.schedule": "step"}, {"config.optim.schedule": "cosine"}),
        ("optim.step_gamma", 0.5, {"config.optim.schedule": "step"}, {"config.optim.schedule": "cosine"}),
        ("data.train_samples", 5, {"config.data.source": "synthetic"}, {"config.data.source": "aistore"}),
        ("data.val_samples", 5, {"config.data.source": "synthetic"}, {"config.data.source": "aistore"}),
        ("data.augment_ops", 3, {"config.data.augment": "ra"}, {"config.data.augment": "ra_timm"}),
        ("data.augment_magnitude", 3, {"config.data.augment": "ra"}, {"config.data.augment": "ta_wide"}),
        ("data.augment_magnitude", 6, {"config.data.augment": "ra_timm"}, {"config.data.augment": "aa"}),
        ("data.augment_interpolation", "bilinear", {"config.data.augment": "aa"}, {"config.data.augment": "3a"}),
        ("data.on_corrupt", "replace", {"replaced": [3]}, {"replaced": []}),
        ("data.fingerprint", "full", {"batches_done": 3}, {"batches_done": 0}),
    ],
)
def test_an_option_that_decides_only_at_times(
    name: str, value: Any, when: dict[str, Any], elsewhere: dict[str, Any]
) -> None:
    for places, expected in ((when, [name]), (elsewhere, [])):
        before = side()
        for path, content in places.items():
            before = put(before, path, content)
        assert changes(before, put(copy.deepcopy(before), f"config.{name}", value)) == expected


def test_a_change_of_the_schedule_makes_its_other_options_count() -> None:
    now = put(put(side(), "config.optim.schedule", "cosine"), "config.train.epochs", 100)
    assert changes(side(), now) == ["optim.schedule", "train.epochs"]


def test_more_epochs_are_free_unless_the_schedule_ends_with_them() -> None:
    cosine = put(side(), "config.optim.schedule", "cosine")
    longer = put(copy.deepcopy(cosine), "config.train.epochs", 100)
    assert [str(difference) for difference in changes_of_result(cosine, longer)] == ["train.epochs: 90 → 100"]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("versions.torch", "torch: 2.15 → 9"),
        ("versions.sample", "sample: 1 → 9"),
        ("samples", "what makes samples: aaaaaaaaaaaa… → 9"),
        ("data.train.sha256", "data set train.sha256: bbbbbbbbbbbb… → 9"),
        ("data.val.samples", "data set val.samples: 15 → 9"),
    ],
)
def test_data_code_and_versions_decide(path: str, text: str) -> None:
    changed = put(side(), f"environment.{path}", 9)
    assert [str(difference) for difference in changes_of_result(side(), changed)] == [text]
    assert not changes_of_rounding(side(), changed)


@pytest.mark.parametrize("path", ["versions.python", "git.commit", "data.source", "sample_code"])
def test_what_does_not_decide(path: str) -> None:
    changed = put(side(), f"environment.{path}", 9)
    assert not changes_of_result(side(), changed) and not changes_of_rounding(side(), changed)


def test_processes_threads_and_device_may_change_but_are_said() -> None:
    changed = put(put(side(), "environment.world_size", 4), "environment.device", "GPU")
    assert not changes_of_result(side(), changed)
    assert list(map(str, changes_of_rounding(side(), changed))) == ["world_size: 1 → 4", "device: cpu → GPU"]


def test_a_checkpoint_without_a_fingerprint_of_samples_is_told_by_their_version() -> None:
    older = side()
    del older["environment"]["samples"]
    assert changes(older, put(side(), "environment.sample_code", "e" * 64)) == []
    assert changes(older, put(side(), "environment.versions.sample", 2)) == ["sample"]
