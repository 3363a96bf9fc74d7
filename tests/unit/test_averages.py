"""Averaged weights are torchvision's and timm's, go on exactly, and a run that is too short for them is told."""

import copy
import importlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scripts.compare_runs import part_in_weights
from sources.errors import ConfigError
from tests.unit.test_train_state import equal, run_of
from training.config.schema import Config
from training.config.train_options import OptimConfig, TrainConfig
from training.model.weights import read_weights
from training.report.metrics import Metrics, Validation
from training.state.averages import note_on_averages
from training.state.checkpoint_contents import check, migrated
from training.state.run_state import contents
from training.state.train_state import TrainState

STEPS = 5


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))


def begun(warmup: float = 0, every: int = 2, decay: float = 0.9) -> TrainState:
    train = TrainConfig(epochs=4, ema_decay=decay, ema_every=every)
    config = Config(train=train, optim=OptimConfig(lr=0.1, warmup_epochs=warmup))
    return TrainState.begin(config, network(), torch.device("cpu"), STEPS)


def step(state: TrainState) -> None:
    generator = torch.Generator().manual_seed(state.step)
    state.model(torch.randn(8, 3, 6, 6, generator=generator)).square().mean().backward()
    state.update()
    state.step_is_done()
    if state.progress.batches_done == STEPS:
        state.progress = state.progress.at_epoch(state.progress.epoch + 1)


@pytest.mark.parametrize("warmup", [0, 1, 1.5])
@pytest.mark.parametrize("every", [1, 2, 32])
def test_averages_are_those_of_torchvisions_references(warmup: float, every: int) -> None:
    """``AveragedModel`` with buffers, of which the references' loop resets the count during the warm-up."""
    state = begun(warmup, every)
    expected = AveragedModel(state.model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for epoch in range(4):
        for number in range(STEPS):
            step(state)
            if number % every == 0:
                expected.update_parameters(state.model)
                if epoch < warmup:
                    expected.n_averaged.fill_(0)
    assert state.averages
    assert equal(state.averages.model.state_dict(), expected.module.state_dict())
    assert not equal(state.averages.model.state_dict(), state.model.state_dict())


def test_averages_are_timms() -> None:
    """``ModelEmaV3``, which copies integers instead of averaging them: the counts of batches of a BatchNorm."""
    utils = importlib.import_module("timm.utils")
    state = begun(every=1)
    expected = utils.ModelEmaV3(state.model, decay=0.9)
    for number in range(2 * STEPS):
        step(state)
        if number == 0:
            expected.set(state.model)
        else:
            expected.update(state.model)
    assert state.averages
    theirs = {name: value for name, value in expected.module.state_dict().items() if value.is_floating_point()}
    assert equal({name: state.averages.model.state_dict()[name] for name in theirs}, theirs)


@pytest.mark.parametrize("after", [1, 4, 7, 13])
def test_averages_go_on_where_they_were(after: int, tmp_path: Path) -> None:
    whole, killed, now = begun(1), begun(1), begun(1)
    for _ in range(4 * STEPS):
        step(whole)
    for _ in range(after):
        step(killed)
    killed.progress.validation = {"loss": 1.0, "acc1": 1.0, "acc5": 1.0}
    written = copy.deepcopy(contents(run_of(killed, tmp_path)))
    check(migrated(written))
    now.load_state_dict(migrated(written))
    while now.progress.epoch < 4:
        step(now)
    assert now.averages and whole.averages
    assert equal(now.averages.model.state_dict(), whole.averages.model.state_dict())
    assert equal(now.model.state_dict(), whole.model.state_dict())


def test_averages_that_begin_with_a_run_that_went_on_are_those_of_its_weights(tmp_path: Path) -> None:
    without = begun(decay=0)
    step(without)
    assert without.averages is None and "ema" not in without.state_dict()
    now = begun()
    now.load_state_dict(migrated(contents(run_of(without, tmp_path))))
    assert now.averages and equal(now.averages.model.state_dict(), now.model.state_dict())


def test_a_damaged_average_is_named(tmp_path: Path) -> None:
    state = begun()
    step(state)
    for value, expected in (([1], "its ema is a list, which is not a dict"), ({"a": 1}, "its ema.a is 1, which is")):
        broken = migrated(contents(run_of(state, tmp_path)) | {"ema": value})
        with pytest.raises(ValueError, match=expected):
            check(broken)
    halves = {name: value.half() for name, value in state.state_dict()["ema"].items()}
    with pytest.raises(ValueError, match="its ema.0.weight is torch.float16, and the model's is torch.float32"):
        begun().load_state_dict(migrated(contents(run_of(state, tmp_path)) | {"ema": halves}))


def config_of(epochs: int, decay: float, every: int = 1, warmup: float = 0) -> Config:
    train = TrainConfig(epochs=epochs, ema_decay=decay, ema_every=every)
    return Config(train=train, optim=OptimConfig(warmup_epochs=warmup))


def test_a_run_that_is_too_short_for_its_averages_is_told() -> None:
    assert note_on_averages(config_of(90, 0.0), 100) is None
    assert note_on_averages(config_of(600, 0.99891, 32, 5), 1251) is None  # torchvision's ResNet-50
    note = note_on_averages(config_of(2, 0.999), 100) or ""
    assert "train.ema_decay=0.999 is slow for a run that averages 199 times: 82 % of the result" in note
    suggested = float(note.split("With ")[1].split(" ")[0])
    assert suggested**199 == pytest.approx(0.01, rel=0.2)
    for config, steps in ((config_of(2, 0.9, warmup=2), 100), (config_of(1, 0.9, 32), 32)):
        with pytest.raises(ConfigError, match="averages nothing.* Lower train.ema_every, train longer, or leave out"):
            note_on_averages(config, steps)


def test_the_better_weights_are_the_best(tmp_path: Path) -> None:
    sums = torch.tensor([10.0, 5.0, 9.0, 10.0], dtype=torch.float64)
    better, worse = Metrics(0.5, 60.0, 90.0, 10), Metrics(0.5, 50.0, 90.0, 10)
    assert Validation(sums, ema=better).best == (60.0, "ema")
    assert Validation(sums, ema=worse).best == Validation(sums).best == (50.0, "model")
    assert Validation(sums, ema=better).ema_figures == {"ema_loss": 0.5, "ema_acc1": 60.0, "ema_acc5": 90.0}
    assert Validation(sums).ema_figures == {}


def test_runs_that_differ_in_their_averages_alone_are_told_apart() -> None:
    def record(ema: str) -> Any:
        return SimpleNamespace(
            summary={"state_sha256": 64 * "a", "epochs": 2} | ({"ema_sha256": 64 * ema} if ema else {})
        )

    assert part_in_weights(record("b"), record("b")) is None and part_in_weights(record(""), record("")) is None
    assert part_in_weights(record("b"), record("c")) == "averaged weights bbbbbbbbbbbb… here, cccccccccccc… there"
    assert part_in_weights(record("b"), record("")) == "averaged weights bbbbbbbbbbbb… here, none… there"


@pytest.mark.parametrize(("averaged", "taken"), [(60.0, "ema"), (40.0, "model"), (math.nan, "model"), ("x", "model")])
def test_weights_of_a_checkpoint_are_the_better_ones(averaged: Any, taken: str, tmp_path: Path) -> None:
    state = begun()
    step(state)
    written = contents(run_of(state, tmp_path)) | {"validation": {"acc1": 50.0, "ema_acc1": averaged}}
    torch.save(written, tmp_path / "best.pt")
    weights = read_weights(tmp_path / "best.pt")
    assert equal(weights.tensors, dict(written[taken]))
    words = "taken are its averaged weights" if taken == "ema" else "taken are its weights"
    assert words in weights.notes[0]
    torch.save({name: value for name, value in written.items() if name != "ema"}, tmp_path / "plain.pt")
    assert read_weights(tmp_path / "plain.pt").notes == ()
