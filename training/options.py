"""Building blocks of the configuration: an option with its help, and the checks that make a sentence."""

import re
from collections.abc import Iterable
from dataclasses import field
from typing import Any

from aistore_data.errors import ConfigError


def option(default: Any, help: str) -> Any:
    """A dataclass field with a line of help."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ConfigError unless ``value`` is one of ``choices``."""
    choices = tuple(choices)
    several = " Several values are a sweep: add --multirun." if "," in value else ""
    require(value in choices, f"{name} must be one of {', '.join(choices)}, not {value!r}.{several}")


def at_least(name: str, value: float, low: float) -> None:
    """Raise ConfigError for a value below ``low``."""
    require(value >= low, f"{name} must be {low} or more, not {value}.")


def auto_or_int(name: str, value: int | str, low: int) -> None:
    """Raise ConfigError unless ``value`` is "auto" or an integer of at least ``low``."""
    require(value == "auto" or isinstance(value, int), f"{name} must be auto or a number, not {value!r}.")
    if value != "auto":
        at_least(name, int(value), low)


def literal(value: Any) -> Any:
    """A plain value for OmegaConf to take as it is: a shell's ${NAME} in it is no interpolation."""
    if isinstance(value, dict):
        return {name: literal(item) for name, item in value.items()}
    if isinstance(value, list):
        return [literal(item) for item in value]
    # A backslash before ${ would take the escape's meaning away, so it is doubled.
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
