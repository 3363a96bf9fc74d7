"""Where a run goes on: the checkpoint, and whether it is still the same run."""

import dataclasses
from pathlib import Path
from typing import Any

from aistore_data.errors import ConfigError
from training import checkpoint, drift
from training.config import Config
from training.distributed import on_main
from training.model import load_weights
from training.state import Run, restore


def resume(run: Run) -> Path | None:
    """Take over the checkpoint that ``resume`` says, if any; answer its path. Raises UserError if it does not fit."""
    path = on_main(run.world, lambda: _checkpoint_to_resume(run.config))
    if path is None:
        return None
    state = _load(run, path)
    changes = on_main(run.world, lambda: _accept_changes(run, path, state))
    load_weights(run.model, state["model"], f"the checkpoint {path}", run.config.model.name)
    restore(run, state)
    if changes:
        run.progress.changes.append({"epoch": run.progress.epoch, "step": run.step, "changes": changes})
    return path


def _load(run: Run, path: Path) -> dict[str, Any]:
    if run.config.run_mirror:  # the machines share no disk: rank 0 alone has it
        return on_main(run.world, lambda: checkpoint.load(path))
    return checkpoint.load(path)


def _checkpoint_to_resume(config: Config) -> Path | None:
    if config.resume == "never":
        return None
    if config.resume == "auto":
        return checkpoint.newest(Path(config.run_dir) / "checkpoints")
    path = Path(config.resume)
    return path / "checkpoints" / "last.pt" if path.is_dir() else path


def _accept_changes(run: Run, path: Path, state: dict[str, Any]) -> list[str]:
    """What is not as it was when the checkpoint was written. Raises ConfigError for what nobody has allowed."""
    now = {"config": dataclasses.asdict(run.config), "environment": run.environment}
    of_result, of_rounding = drift.changes_of_result(state, now), drift.changes_of_rounding(state, now)
    listed = "".join(f"\n  {difference}" for difference in of_result)
    if of_result and not run.config.allow_changes:
        raise ConfigError(
            f"to go on from {path} would not be the same run:{listed}\nUndo these changes, begin another run by "
            "run_dir=NEW, replace this one by resume=never, or accept them with allow_changes=true; environment.json "
            "will then list them."
        )
    if of_result:
        run.console.say(f"allowed changes since {path} was written:{listed}")
    if of_rounding:
        run.console.say(
            f"since {path} was written: {', '.join(map(str, of_rounding))}. The samples stay the same; "
            "sums of floats may differ in their last bits."
        )
    return [str(difference) for difference in of_result + of_rounding]
