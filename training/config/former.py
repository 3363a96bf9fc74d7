"""What older versions called options: who types such a name is told today's, and what was recorded is read by it."""

from collections.abc import Mapping
from typing import Any

_OPTIM = (
    *("lr", "momentum", "nesterov", "weight_decay", "decay_norms_and_biases"),
    *("warmup_epochs", "schedule", "step_epochs", "step_gamma"),
)
MOVED = {f"train.{name}": f"optim.{name}" for name in _OPTIM}
"""Dotted name of former times → today's."""

OF_JOBS = "submit"
"""The group of options that runs recorded once and that jobs alone have now. It never changed a result."""


def is_former(name: str) -> bool:
    """Whether a run may have recorded ``name``, an option or a group of them, that it has no more under that name."""
    return name in MOVED or name == OF_JOBS


def with_present_names(config: Mapping[Any, Any]) -> dict[Any, Any]:
    """A recorded configuration, nested as in config.yaml, by today's names. What is no dict of options stays."""
    present = {key: dict(part) if isinstance(part, dict) else part for key, part in config.items() if key != OF_JOBS}
    for former, name in MOVED.items():
        (group, option), (new_group, new_option) = former.split("."), name.split(".")
        source = present.get(group)
        if isinstance(source, dict) and option in source:
            value = source.pop(option)
            target = present.setdefault(new_group, {})
            if isinstance(target, dict):
                target.setdefault(new_option, value)
    return present
