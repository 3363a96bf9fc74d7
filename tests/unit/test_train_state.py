"""What a checkpoint holds: it is taken over whole or not at all, and every rank is asked for its part."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sources.errors import ConfigError
from training.config.schema import Config
from training.config.train_options import OptimConfig, TrainConfig
from training.optim.optimizers import OPTIMIZERS, require_optimizer
from training.processes.world import World
from training.report.console import Console
from training.run_dir import checkpoint
from training.run_dir.records import NoRecords, RunDirectory
from training.state.checkpoint_contents import KEYS, check, migrated
from training.state.consumed import Consumed
from training.state.run_state import Run, contents, save
from training.state.train_state import TrainState

STEPS = 4


def begun(steps: int = 0, outputs: int = 2, **options: Any) -> TrainState:
    """A layer after some steps of SGD."""
    torch.manual_seed(0)
    config = Config(train=TrainConfig(batch_size=12, epochs=2), optim=OptimConfig(**options))
    state = TrainState.begin(config, nn.Linear(3, outputs), torch.device("cpu"), STEPS)
    for _ in range(steps):
        state.model(torch.ones(1, 3)).sum().backward()
        state.update()
        state.step_is_done()
    return state


def trained(state: TrainState, steps: int) -> None:
    for _ in range(steps):
        generator = torch.Generator().manual_seed(state.step)
        state.model(torch.randn(2, 3, 8, 8, generator=generator)).square().sum().backward()
        state.update()
        state.step_is_done()


def begun_of(name: str) -> TrainState:
    """Kernels, matrices and vectors of which every optimiser takes its own kind."""
    torch.manual_seed(0)
    config = Config(
        train=TrainConfig(batch_size=12, epochs=2), optim=OptimConfig(name, lr=1e-2, weight_decay=0.1, clip_norm=1.0)
    )
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    return TrainState.begin(config, model, torch.device("cpu"), STEPS)


@pytest.mark.parametrize("name", [*OPTIMIZERS, "timm/adan", "timm/novograd"])
def test_a_killed_optimizer_goes_on_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    whole, first, second = begun_of(name), begun_of(name), begun_of(name)
    trained(whole, 5)
    trained(first, 2)
    file = io.BytesIO()
    torch.save(contents(run_of(first, tmp_path)) | {"config": {"optim": {"name": name}}}, file)
    written = migrated(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    check(written)
    second.load_state_dict(written)
    trained(second, 3)
    assert checkpoint.state_sha256(second.model.state_dict()) == checkpoint.state_sha256(whole.model.state_dict())
    assert equal(second.optimizer.state_dict()["state"], whole.optimizer.state_dict()["state"])


@pytest.mark.long
def test_every_optimizer_of_timm_goes_on_as_if_it_had_not_been_killed(tmp_path: Path) -> None:
    from timm.optim import list_optimizers

    taken = 0
    for name in list_optimizers():
        try:
            require_optimizer(f"timm/{name}")
        except ConfigError:
            continue
        test_a_killed_optimizer_goes_on_as_if_it_had_not_been(f"timm/{name}", tmp_path)
        taken += 1
    assert taken > 50


def run_of(state: TrainState, folder: Path, rank: int = 0) -> Run:
    config, device = Config(run_dir=str(folder)), torch.device("cpu")
    nothing: Any = None  # which saving does not ask for
    return Run(
        config, World(rank, 2), device, state, state.model, state.model, nothing, Consumed("off"), nothing,
        Console(enabled=False), {"data": {}},
    )  # fmt: skip


def equal(one: Any, other: Any) -> bool:
    files = [io.BytesIO(), io.BytesIO()]
    for value, file in zip((one, other), files, strict=True):
        torch.save(value, file)
    return files[0].getvalue() == files[1].getvalue()


def test_a_checkpoint_is_taken_over_whole_with_the_rates_of_now(tmp_path: Path) -> None:
    former = begun(steps=3)
    written = copy.deepcopy(contents(run_of(former, tmp_path)))
    assert set(KEYS) <= set(written)
    check(migrated(written))
    now = begun(lr=0.5, momentum=0.8)
    now.load_state_dict(migrated(written))
    assert now.position == (0, 3) and now.step == 3 and now.sound
    group = now.optimizer.param_groups[0]
    assert group["lr"] == now.lr_at(3) and group["momentum"] == 0.8 and group["initial_lr"] == 0.5
    entries, expected = now.state_dict(), former.state_dict()
    for name in set(expected) - {"optimizer", "schedule"}:
        assert equal(entries[name], expected[name]), name
    assert equal(entries["optimizer"]["state"], expected["optimizer"]["state"])
    assert now.schedule.last_epoch == 3


def test_an_epoch_of_another_length_is_begun_again() -> None:
    state = begun(steps=3).state_dict() | {"config": {}}
    now = begun()
    now.steps_per_epoch = 5
    now.load_state_dict(state)
    assert now.position == (0, 0) and now.schedule.last_epoch == 0


def test_what_does_not_fit_changes_nothing() -> None:
    state, now = begun(steps=2, outputs=3).state_dict() | {"config": {}}, begun(steps=1)
    before = copy.deepcopy(now.state_dict())
    state["model"] = now.model.state_dict()
    with pytest.raises(ValueError, match=r"its optimizer.state.0.momentum_buffer is \[3, 3\], and not \[2, 3\]"):
        now.load_state_dict(state)
    assert equal(now.state_dict(), before)


def test_a_rank_that_writes_nothing_is_asked_for_its_state_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[TrainState] = []
    state_dict = TrainState.state_dict
    monkeypatch.setattr(TrainState, "state_dict", lambda self: (asked.append(self), state_dict(self))[1])
    state = begun(steps=1)
    run = run_of(state, tmp_path, rank=1)
    save(run, best=True, finished_epoch=0, stopped=True)
    assert asked == [state] and run.saved == (0, 1)
    assert not list(tmp_path.iterdir())


def test_records_of_other_ranks_do_nothing_and_know_their_methods() -> None:
    records = NoRecords()
    for name in ("metric", "images", "replaced", "mirror", "preempted"):
        assert callable(getattr(RunDirectory, name)) and getattr(records, name)(1, tag="x") is None
    for name in ("metrics", "lock"):
        with pytest.raises(AttributeError, match=f"the records of a rank other than 0 have no {name}"):
            getattr(records, name)
