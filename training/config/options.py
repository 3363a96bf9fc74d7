"""Building blocks of the configuration: options that describe themselves, their checks, and old names.

Who types a name of an older version is told today's, and what was recorded is read by it.
"""

import dataclasses
import difflib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sources.errors import ConfigError

_OPTIM = (
    *("lr", "momentum", "nesterov", "weight_decay", "decay_norms_and_biases"),
    *("warmup_epochs", "schedule", "step_epochs", "step_gamma"),
)
MOVED = {f"train.{name}": f"optim.{name}" for name in _OPTIM}
"""Dotted name of former times → today's."""

OF_JOBS = "submit"
"""The group of options that runs recorded once and that jobs alone have now. It never changed a result."""

ChangesResult = bool | Callable[[Mapping[str, Any]], bool]
"""Whether an option changes a run's result; or a function that says so, given all values by their dotted names."""


@dataclass(frozen=True)
class Option:
    """What an option says of itself. ``name`` is dotted, ``kind`` its type; a bound is None where there is none."""

    name: str
    kind: Any
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    changes_result: ChangesResult = True
    is_command: bool = False

    @property
    def explained(self) -> str:
        """Return its line in a list of options: ``~`` if it never changes the result, its help and its bounds."""
        words = (("from", self.low), ("to", self.high), ("above", self.above), ("below", self.below))
        bounds = ", ".join(f"{word} {bound:g}" for word, bound in words if bound is not None)
        return f"{'~' if self.changes_result is False else ' '} {self.help}{f' ({bounds})' if bounds else ''}"

    def check(self, value: Any) -> None:
        """Raise ConfigError unless the value is one of the choices and within the bounds; "auto" has no size."""
        if self.choices and value is not None:
            several = " Several values are a sweep: add --multirun." if "," in value else ""
            known = ", ".join(self.choices)
            require(value in self.choices, f"{self.name} must be one of {known}, not {value!r}.{several}")
        if all(bound is None for bound in (self.low, self.high, self.above, self.below)) or value is None:
            return
        if isinstance(self.default, str):
            require(value == "auto" or isinstance(value, int), f"{self.name} must be auto or a number, not {value!r}.")
            if value == "auto":
                return
        if self.low is not None and self.high is not None:
            require(self.low <= value <= self.high, f"{self.name}={value} must be from {self.low:g} to {self.high:g}.")
        if self.low is not None:
            require(value >= self.low, f"{self.name} must be {self.low:g} or more, not {value}.")
        if self.high is not None:
            require(value <= self.high, f"{self.name} must be {self.high:g} or less, not {value}.")
        if self.above is not None:
            require(value > self.above, f"{self.name}={value} must be more than {self.above:g}.")
        if self.below is not None:
            require(value < self.below, f"{self.name}={value} must be less than {self.below:g}.")


def option(default: Any, help: str, **says: Any) -> Any:
    """A dataclass field that says of itself its help and whatever else ``Option`` lists.

    ``low`` and ``high`` are allowed themselves, ``above`` and ``below`` are not. A number with a default of "auto" may
    be "auto" too. An option changes the result until it says that it does not. ``is_command``: a line of it is run by a
    shell or is one of sbatch's, in which people set variables; line ends and tabs may be in it.
    """
    metadata = {"help": help, **says}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def free(default: Any, help: str, **says: Any) -> Any:
    """An option that never changes the result, whatever else it says."""
    return option(default, help, changes_result=False, **says)


def group(kind: type, *, changes_result: bool = True) -> Any:
    """A dataclass field that holds a group of options; ``changes_result=False`` is said of all options in it."""
    return field(default_factory=kind, metadata={"changes_result": changes_result})


def options_of(config: type, prefix: str = "", changes_result: bool = True) -> Iterator[Option]:
    """Every option of a configuration's dataclass, in order."""
    values = config()
    for item in dataclasses.fields(config):
        default, own = getattr(values, item.name), item.metadata.get("changes_result", True)
        if dataclasses.is_dataclass(default):
            yield from options_of(type(default), f"{prefix}{item.name}.", changes_result and own)
        else:
            metadata = dict(item.metadata) | ({} if changes_result else {"changes_result": False})
            yield Option(f"{prefix}{item.name}", item.type, default, **metadata)


class Names:
    """The names of a schema's options and of their groups, dotted."""

    def __init__(self, kind: type) -> None:
        self.options = [item.name for item in options_of(kind)]
        self.groups = {name.rpartition(".")[0] for name in self.options} - {""}

    def members(self, group: str) -> list[str]:
        """List the options of a group."""
        return [name for name in self.options if name.startswith(f"{group}.")]

    def unknown(self, name: str) -> str:
        """A sentence for an option that does not exist, with its present name or the nearest ones that do."""
        if name in MOVED:
            return f"{name} is called {MOVED[name]} now."
        if name.split(".")[0] == OF_JOBS and OF_JOBS not in self.groups:
            of_jobs = "of a job and not of a run: leave it out, or python -m scripts.submit slurm|k8s takes it."
            return f"{OF_JOBS}.… is {of_jobs}"
        leaves: dict[str, list[str]] = {}
        for option in self.options:
            leaves.setdefault(option.rpartition(".")[2], []).append(option)
        none = f"there is no option {name}"
        for group in difflib.get_close_matches(name, sorted(self.groups), n=1, cutoff=0.75) if "." not in name else ():
            return f"{none}: did you mean one of the group {group}, such as {self.members(group)[0]}?"
        matches = difflib.get_close_matches(name.rpartition(".")[2], leaves, n=3, cutoff=0.6)
        near = [option for match in matches for option in leaves[match]]
        hint = f"did you mean {' or '.join(near[:3])}?" if near else "python train.py --help lists them."
        return f"{none}: {hint}"


def values_of(config: Any) -> Iterator[tuple[Option, Any]]:
    """Every option with its value."""
    for item in options_of(type(config)):
        yield item, functools.reduce(getattr, item.name.split("."), config)


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def literal(value: Any) -> Any:
    """A plain value for OmegaConf to take as it is: a shell's ${NAME} in it is no interpolation.

    OmegaConf halves the backslashes before ``${``, so they are doubled.
    """
    if isinstance(value, dict):
        return {name: literal(item) for name, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted names."""
    flat = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


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


def where(name: str, *values: str) -> Callable[[Mapping[str, Any]], bool]:
    """An option that changes the result only where another one has one of these values."""
    return lambda options: options.get(name) in values
