"""Runs with everything that modern recipes add: mixtures, erasing, averaged weights, sizes and views."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.conftest import TINY, Result
from training.run_dir.checkpoint import state_sha256

Train = Callable[..., Result]

MIXED = ["train.mixup=0.2", "train.cutmix=1", "train.random_erasing=0.3", "train.ema_decay=0.5", "train.ema_every=2"]


def test_averaged_weights_are_validated_and_the_better_ones_are_the_best(train: Train, small_folder: Path) -> None:
    result = train(f"data.root={small_folder}", *TINY, *MIXED, "train.loss=bce", "train.log_every=1")
    assert result.code == 0, result.output
    assert "acc@1 and acc@5 of training count the label of a sample itself" in result.output
    assert {line["acc_counts"] for line in result.metrics("train_step")} == {"own label"}
    validations, summary = result.metrics("val_epoch"), result.summary()
    assert all("acc_counts" not in line for line in validations)
    last: dict[str, Any] = torch.load(result.run_dir / "checkpoints" / "last.pt", weights_only=True)
    assert list(last["ema"]) == list(last["model"])
    assert summary["ema_sha256"] == state_sha256(last["ema"]) != summary["state_sha256"] == state_sha256(last["model"])
    assert summary["ema_acc1"] == validations[-1]["ema_acc1"] == last["validation"]["ema_acc1"]
    figures = [
        (line[name], weights) for line in validations for name, weights in (("acc1", "model"), ("ema_acc1", "ema"))
    ]
    assert summary["best_acc1"] == max(figures)[0] and (summary["best_acc1"], summary["best_weights"]) in figures
    assert result.output.count("averaged weights  loss") == 2
    weights = result.run_dir / "checkpoints" / "last.pt"
    words = [f"data.root={small_folder}", *TINY, "mode=evaluate", f"model.weights={weights}", "run_dir=alone"]
    alone = train(*words)
    assert alone.summary()["acc1"] == max(summary["acc1"], summary["ema_acc1"])
    assert "at its last validation" in alone.output
