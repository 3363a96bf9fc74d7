"""Where the weights of a file come from, and how good they were, in plain values that travel with an export."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.config.options import flatten, options_of
from training.config.schema import Config
from training.run_dir.files import is_run_directory, read_object


@dataclass(frozen=True)
class Provenance:
    """What is known of the run that made the weights, and of their last validation; empty where it is not known."""

    run_id: str = ""
    run: str = ""
    """Name of the run directory."""
    file: str = ""
    """Name of the checkpoint."""
    weights: str = "raw"
    """"raw" or "ema", the averaged ones."""
    epoch: int = 0
    """Whole epochs that are done."""
    batches_done: int = 0
    """Steps of the epoch that was begun."""
    epochs: int = 0
    """The epochs of the configuration."""
    finished: bool | None = None
    """Whether the run came to its end; None where the checkpoint lies outside its run directory."""
    validated_epoch: int = 0
    """Epochs done when the weights were last validated; 0: never."""
    acc1: float | None = None
    """The accuracy in percent, as is acc5."""
    acc5: float | None = None
    loss: float | None = None
    val_samples: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    """The options that decided the result, by dotted names."""
    data_sha256: dict[str, str] = field(default_factory=dict)
    """Hash of the data set, by split."""
    versions: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    """The commit of the trainer's code."""

    @property
    def figures_are_of_these_weights(self) -> bool:
        """Whether nothing was trained since the validation."""
        return self.acc1 is not None and self.validated_epoch == self.epoch and self.batches_done == 0

    @property
    def position(self) -> str:
        """Up to where the weights were trained, in words."""
        if not self.epochs:
            return "trained for an unknown time"
        steps = f" and {self.batches_done:,} steps" if self.batches_done else ""
        ended = {True: "the run is finished", False: "the run is not finished", None: ""}[self.finished]
        return f"epoch {self.epoch}{steps} of {self.epochs}{f' ({ended})' if ended else ''}"

    @property
    def figures(self) -> str:
        """Describe the last validation in words."""
        if self.acc1 is None or not self.validated_epoch:
            return "not validated"
        acc5 = "" if self.acc5 is None else f", acc@5 {self.acc5:.2f} %"
        said = f"acc@1 {self.acc1:.2f} %{acc5} on {self.val_samples:,} photos"
        if self.figures_are_of_these_weights:
            return said
        return f"not validated as they are; after epoch {self.validated_epoch} the run had {said}"


def provenance_of(path: Path, state: dict[str, Any], averaged: bool) -> Provenance:
    """That of a checkpoint, as ``checkpoint.load`` answers it. ``averaged``: whether its averaged weights are taken."""
    folder = path.absolute().parent.parent
    in_run = path.absolute().parent.name == "checkpoints" and is_run_directory(folder)
    of_run = read_object(folder / "environment.json") if in_run else {}
    config, environment, figures = flatten(state["config"]), state["environment"], state["validation"]
    epoch, epochs, every = state["epoch"], _number(config.get("train.epochs")), _number(config.get("eval.every")) or 1
    validated = epoch if epoch == epochs else epoch - epoch % every
    prefix = "ema_" if averaged else ""
    data = environment.get("data", {})
    git = environment.get("git")
    return Provenance(
        run_id=str(of_run.get("id", "")),
        run=folder.name if in_run else Path(str(config.get("run_dir", ""))).name,
        file=path.name,
        weights="ema" if averaged else "raw",
        epoch=epoch,
        batches_done=state["batches_done"],
        epochs=epochs,
        finished=(folder / "summary.json").exists() if in_run else None,
        validated_epoch=validated if f"{prefix}acc1" in figures else 0,
        **{name: figure(figures, f"{prefix}{name}") for name in ("acc1", "acc5", "loss")},
        val_samples=_number(figures.get("count")),
        config=options_that_decide(config),
        data_sha256={
            split: str(part["sha256"])
            for split in ("train", "val")
            if isinstance(part := data.get(split), dict) and "sha256" in part
        },
        versions=environment.get("versions", {}),
        commit=str(git.get("commit", "")) if isinstance(git, dict) else "",
    )


def options_that_decide(config: dict[str, Any]) -> dict[str, Any]:
    """Of a configuration by dotted names, the options that change the result.

    The others name folders and hosts, which are of no use elsewhere and are nobody's business there. Of a file of
    initial weights its name is left.
    """
    known = [option.name for option in options_of(Config) if option.changes_result is not False]
    kept = {name: config[name] for name in known if name in config}
    if isinstance(path := kept.get("model.weights"), str):
        kept["model.weights"] = Path(path).name  # of a file; names of published weights hold no slash
    return kept


def changed_options(config: dict[str, Any]) -> list[str]:
    """NAME=VALUE for each option that decided the result and is not the default, as train.py takes it."""
    options = {option.name: option for option in options_of(Config)}
    return [
        f"{name}={_typed(value)}"
        for name, value in config.items()
        if name in options and value != options[name].default
    ]


def _typed(value: Any) -> str:
    """A value as one types it, texts in a list in quotes."""
    if isinstance(value, list):
        return f"[{','.join(repr(item) for item in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def from_record(record: Any) -> Provenance:
    """What ``dataclasses.asdict`` made of one. Raises ValueError for anything else."""
    if not isinstance(record, dict):
        raise ValueError("it has no provenance")
    empty = dataclasses.asdict(Provenance())
    for name, value in record.items():
        if name not in empty:
            raise ValueError(f"its provenance has the unknown entry {name[:40]!r}")
        numbers = (int, float, type(None))
        kinds = {"acc1": numbers, "acc5": numbers, "loss": numbers, "finished": (bool, type(None))}
        if not isinstance(value, kinds.get(name, (type(empty[name]),))):
            raise ValueError(f"{name} of its provenance is a {type(value).__name__}")
    return Provenance(**record)


def figure(figures: dict[str, Any], name: str) -> float | None:
    """A figure of a validation, if it is there and a number."""
    value = figures.get(name)
    return float(value) if isinstance(value, int | float) else None


def _number(value: Any) -> int:
    return value if type(value) is int else 0
