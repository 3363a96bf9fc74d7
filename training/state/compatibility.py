"""No silent drift: a run that goes on must be the run that was begun, or say that it is not.

A run is a function of configuration, data, code and versions, so these are compared with those of the checkpoint. What
only decides where samples come from, what is recorded, or how fast it goes may change freely. The number of processes
and of threads and the device may change too, since the stream of samples stays the same; but they change the order in
which floats are added, which is worth a line.
"""

import dataclasses
from typing import Any, NamedTuple

from training.config.options import Option, flatten, options_of
from training.config.schema import Config
from training.config.train_options import TIMM
from training.state.content import changes_of_content

REMOVED: dict[str, Any] = {}
"""Options that this version has no more, by their dotted names, and what they did by default."""

_VERSIONS = ("torch", "torchvision", "numpy", "pillow", "libjpeg_turbo", "sample", "cuda", "cudnn")
_TIMMS = ("muon", "lamb")
"""Optimisers of timm's that have a name of their own."""

_ROUNDING = ("world_size", "threads", "device")
_STATE = ("batches_done", "replaced")
"""Entries of a checkpoint, beside its configuration, on which it depends whether some options matter."""


class Difference(NamedTuple):
    """One thing that is not as it was."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: {_short(self.before)} → {_short(self.now)}"


def changes_of_result(before: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """What makes another run of it; both sides are {"config": …, "environment": …}, as a checkpoint has them.

    What a side does not know, because its version had no such option, counts as the option's default. An option that
    this version has no more (``REMOVED``) counts only where it was not at its default; one that no version of ours had
    always counts, since nobody knows what it did.
    """
    contents = _content_of_the_same_data(before, now), _content_of_the_same_data(now, before)
    changed = [Difference(*change) for change in changes_of_content(*contents)]
    return _changed_options(before, now) + _compare(*_decisive(before, now)) + changed


def changes_of_rounding(before: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """What leaves the stream of samples as it is, but may change the last bits of the weights."""
    return _compare(*({name: side["environment"].get(name) for name in _ROUNDING} for side in (before, now)))


def _changed_options(before: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    state = {name: before[name] for name in _STATE if name in before}
    known = {item.name: item for item in options_of(Config)}
    defaults = flatten(dataclasses.asdict(Config())) | REMOVED
    sides = [defaults | flatten(side["config"]) | state for side in (before, now)]
    return [
        pair
        for pair in _compare(*sides)
        if pair.name not in known or any(_matters(known[pair.name], side) for side in sides)
    ]


def _matters(item: Option, values: dict[str, Any]) -> bool:
    return item.changes_result if isinstance(item.changes_result, bool) else item.changes_result(values)


def _decisive(before: dict[str, Any], now: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What decides the result besides the options, of both sides.

    What makes samples is told by its version, and by a fingerprint of pixels where both sides have one. The hash of
    source files that older checkpoints have says nothing: code may be rewritten.
    """
    sides = []
    for environment in (before["environment"], now["environment"]):
        data = environment.get("data", {})
        parts = {f"data set {split}": data.get(split, {}) for split in ("train", "val")}
        versions = {name: environment.get("versions", {}).get(name) for name in (*_VERSIONS, "timm")}
        sides.append(flatten(parts) | versions | {"what makes samples": environment.get("samples")})
    if None in (side["what makes samples"] for side in sides):
        for side in sides:
            del side["what makes samples"]
    return sides[0], sides[1]


def uses_timm(config: dict[str, Any]) -> bool:
    """Whether timm takes part in the result of a configuration, nested or with dotted names."""
    values = flatten(config)
    names = str(values.get("model.name")), str(values.get("optim.name"))
    return any(name.startswith(TIMM) for name in names) or names[1] in _TIMMS or bool(values.get("optim.layer_decay"))


def _content_of_the_same_data(side: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A side's ``content`` of the splits that have one hash on both sides; other data are told by that."""
    data, others = (part["environment"].get("data", {}) for part in (side, other))
    content = side["environment"].get("content") or {}
    return {name: part for name, part in content.items() if data.get(name) == others.get(name)}


def _compare(before: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    names = [*before, *(name for name in now if name not in before)]
    pairs = [Difference(name, before.get(name), now.get(name)) for name in names]
    return [pair for pair in pairs if pair.before != pair.now]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
