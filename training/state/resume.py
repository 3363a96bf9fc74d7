"""Where a run goes on: the checkpoint, and whether it is still the same run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sources.errors import ConfigError, UserError
from training.config.options import flatten
from training.config.schema import Config
from training.model.class_order import order_warning
from training.model.torchvision_models import names_of_weights
from training.model.weights import Weights, load_weights
from training.optim.schedule import FALLING, learning_rate_factor
from training.processes.collectives import run_on_rank0
from training.processes.world import World
from training.run_dir import checkpoint
from training.state import compatibility
from training.state.train_state import TrainState

Say = Callable[[str], None]


def resume(config: Config, world: World, train_state: TrainState, environment: dict[str, Any], say: Say) -> Path | None:
    """Take over the checkpoint that ``resume`` says, if any; answer its path. Raises UserError if it does not fit.

    ``environment`` is that of this process; what the checkpoint knows of the model takes its place in it.
    """
    found: list[dict[str, Any]] = []  # on rank 0, which has read it to know that it can be
    path = run_on_rank0(world, lambda: _find(config, found))
    if path is None:
        return None
    if not config.run_mirror:
        state = found[0] if found else checkpoint.load(path)
    else:  # the machines share no disk: rank 0 alone has it
        state = run_on_rank0(world, lambda: found[0])
    changes = run_on_rank0(world, lambda: _accept_changes(config, environment, path, state, say))
    load_weights(train_state.model, state["model"], f"the checkpoint {path}", config.model.name)
    if train_state.averages:
        averaged = state.get("ema", state["model"])
        load_weights(train_state.averages.model, averaged, f"the checkpoint {path} (ema)", config.model.name)
    try:
        train_state.load_state_dict(state)
    except ValueError as error:
        raise UserError(f"the checkpoint {path} cannot be resumed: {error}.") from None
    _take_over_facts(config, train_state.model, environment["model"], path, state, say)
    progress, steps = train_state.progress, train_state.steps_per_epoch
    if progress.batches_done != state["batches_done"]:
        say(f"epoch {progress.epoch + 1} begins again, since it has {steps} steps now")
    if changes:
        progress.changes.append({"epoch": progress.epoch, "step": train_state.step, "changes": changes})
    return path


def how_to_train_on(config: Config, gave_up: bool) -> str:
    """A sentence for a run that is at its end; ``gave_up``: by train.stop_after."""
    if gave_up:
        return "Training ended by train.stop_after: raise it, or set it to 0, to train on."
    if config.optim.schedule not in FALLING:
        return "Raise train.epochs to train on, or start over with resume=never."
    return (
        f"With optim.schedule={config.optim.schedule} the learning rate of every step depends on train.epochs, so more "
        f"epochs are another run: begin it with run_dir=NEW, and from these weights with model.weights={config.run_dir}"
        "/checkpoints/best.pt; or start over with resume=never."
    )


def _on_epochs(config: Config, state: dict[str, Any], before: dict[str, Any]) -> str:
    """What another number of epochs does to a run that goes on from a checkpoint; empty where it is the same."""
    former, now = before.get("train.epochs"), config.train.epochs
    steps = state["steps_per_epoch"]
    if former == now or not isinstance(former, int):
        return ""
    if config.optim.schedule not in FALLING:
        return (
            f"train.epochs: {former} → {now}. optim.schedule={config.optim.schedule} has the same rates in the epochs "
            f"that are done, so this is a run of {now} epochs from its beginning."
        )
    if steps is None:
        return ""
    step = state["epoch"] * steps + state["batches_done"]
    peak = config.optim.peak(config.train.batch_size)
    was, would_be = (peak * learning_rate_factor(step, config.optim, epochs, steps) for epochs in (former, now))
    return (
        f"train.epochs is the length of optim.schedule={config.optim.schedule}: the next step, {step}, would have lr "
        f"{would_be:.4g} instead of {was:.4g}, after steps at the rates of {former} epochs."
    )


def _take_over_facts(
    config: Config, model: Any, now: dict[str, Any], path: Path, state: dict[str, Any], say: Say
) -> None:
    """The model reads its inputs as before, and other names of classes are told."""
    facts = state["environment"].get("model", {})
    if "transform_input" in now:  # a checkpoint without a record began as torchvision's weights, or from scratch
        before = facts.get("transform_input", config.model.weights in names_of_weights(config.model.name))
        now["transform_input"] = model.transform_input = before
    classes = now["classes"].split("/") if now["classes"] else []
    if warning := order_warning(f"the checkpoint {path}", Weights(path, {}, environment={"model": facts}), 0, classes):
        say(warning)


def _find(config: Config, found: list[dict[str, Any]]) -> Path | None:
    """The checkpoint to go on from, whose content is put into ``found``; None to begin from the beginning."""
    if config.resume == "never":
        return None
    if config.resume == "auto":
        newest = checkpoint.newest(Path(config.run_dir) / "checkpoints")
        if newest is None:
            return None
        path, state = newest
    else:
        path = Path(config.resume)
        path = path / "checkpoints" / "last.pt" if path.is_dir() else path
        state = checkpoint.load(path)
    found.append(state)
    return path


def _accept_changes(
    config: Config, environment: dict[str, Any], path: Path, state: dict[str, Any], say: Say
) -> list[str]:
    """What is not as it was when the checkpoint was written. Raises ConfigError for what nobody has allowed."""
    now = {"config": dataclasses.asdict(config), "environment": environment}
    of_result, of_rounding = compatibility.changes_of_result(state, now), compatibility.changes_of_rounding(state, now)
    listed = "".join(f"\n  {difference}" for difference in of_result)
    on_epochs = _on_epochs(config, state, flatten(state["config"]))
    falls = any(difference.name == "train.epochs" for difference in of_result)
    listed += f"\n{on_epochs}" if falls and on_epochs else ""
    if of_result and not config.allow_changes:
        raise ConfigError(
            f"to go on from {path} would not be the same run:{listed}\nUndo these changes, begin another run by "
            "run_dir=NEW, replace this one by resume=never, or accept them with allow_changes=true; environment.json "
            "will then list them."
        )
    if of_result:
        say(f"allowed changes since {path} was written:{listed}")
    if on_epochs and not falls:
        say(on_epochs)
    if of_rounding:
        say(
            f"since {path} was written: {', '.join(map(str, of_rounding))}. The samples stay the same; "
            "sums of floats may differ in their last bits."
        )
    return [str(difference) for difference in of_result + of_rounding]
