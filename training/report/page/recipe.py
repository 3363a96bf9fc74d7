"""A run beside the recipe that its command names: what differs, and whether it reached what the recipe promises."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from training.config.options import flatten, options_of, with_present_names
from training.config.schema import Config, format_value

CONF = Path(__file__).resolve().parents[3] / "conf"

_BAND = re.compile(r"acc@1 of ([\d.]+) to ([\d.]+) %")
_LEAST = re.compile(r"at least ([\d.]+) %")
_OF_THE_PLACE = ("run_dir", "run_mirror", "resume")
"""Options of where a run is kept, which no recipe sets."""


class Differing(NamedTuple):
    """An option that is not as the recipe, or the defaults, have it; values as one types them."""

    name: str
    recipe: str
    run: str
    changes_result: bool


@dataclass(frozen=True)
class Recipe:
    """An overlay of ``conf/experiment``: its options with those that it leaves as they are, and its header's words."""

    name: str
    options: dict[str, Any]
    published: str
    expected: str

    def judged(self, acc1: float) -> str:
        """Whether a final acc@1 in percent lies where the recipe expects it; "" where it says no band."""
        if band := _BAND.search(self.expected):
            low, high = float(band[1]), float(band[2])
            where = "below" if acc1 < low else "above" if acc1 > high else "within"
            return f"acc@1 {acc1:.2f} % is {where} the band of {low:g} to {high:g} %."
        if least := _LEAST.search(self.expected):
            word = "at least" if acc1 >= float(least[1]) else "below"
            return f"acc@1 {acc1:.2f} % is {word} the {float(least[1]):g} % that the recipe promises."
        return ""


def named_in(environment: Mapping[str, Any]) -> str:
    """The recipe that the command of a run names; "" for none."""
    words = environment.get("command")
    names = [word.partition("=")[2] for word in words if str(word).startswith("experiment=")] if words else []
    return names[-1] if names and re.fullmatch(r"\w+", names[-1]) else ""


def read_recipe(name: str) -> Recipe | None:
    """The recipe of this name; None if there is no such file. "" is the defaults alone."""
    path = CONF / "experiment" / f"{name}.yaml"
    if name and not path.is_file():
        return None
    content = path.read_text(encoding="utf-8") if name else ""
    values = yaml.safe_load(content) or {}
    groups = {"data": "imagefolder"}
    for entry in values.pop("defaults", []):
        groups |= {key.removeprefix("override ").strip("/"): choice for key, choice in entry.items()}
    nested: dict[str, Any] = {}
    for group, choice in groups.items():
        nested[group] = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text(encoding="utf-8")) or {}
    options = flatten(dataclasses.asdict(_build(Config, _merged(nested, values))))
    comment = " ".join(line.lstrip("# ") for line in content.splitlines() if line.startswith("#"))
    return Recipe(name, options, _sentences(comment, "Published"), _sentences(comment, "Expected"))


def differing(recipe: Recipe, config: Mapping[str, Any]) -> list[Differing]:
    """What a recorded configuration has otherwise; options that it does not know are at their default in it."""
    values, found = recorded_options(config), []
    for item in options_of(Config):
        name = item.name
        before, now = recipe.options[name], values[name]
        if name not in _OF_THE_PLACE and before != now:
            says = item.changes_result
            changes = says if isinstance(says, bool) else any(says(side) for side in (recipe.options, values))
            if before is None and not changes:
                continue  # what the run has settled where nothing was said
            found.append(Differing(name, format_value(before), format_value(now), changes))
    return found


def recorded_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a recorded configuration by their dotted names; one that it does not know is at its default."""
    defaults = flatten(dataclasses.asdict(_build(Config, {})))
    recorded = flatten(with_present_names(config))
    return {name: recorded.get(name, default) for name, default in defaults.items()}


def _sentences(comment: str, word: str) -> str:
    """What a header says behind ``word:``, up to its next word of this kind."""
    found = re.search(rf"\b{word}: (.*?)(?= (?:Published|Expected|Differs from the original): |$)", comment)
    return found[1] if found else ""


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    both = dict(first)
    for name, value in second.items():
        nested = isinstance(value, dict) and isinstance(both.get(name), dict)
        both[name] = _merged(both[name], value) if nested else value
    return both


def _build(kind: type, values: Mapping[str, Any]) -> Any:
    """A dataclass of options from nested values, with what it settles by itself, as Hydra's composition has it."""
    made = {}
    for item in dataclasses.fields(kind):
        former = getattr(kind(), item.name)
        if dataclasses.is_dataclass(former):
            made[item.name] = _build(type(former), values.get(item.name, {}))
        else:
            made[item.name] = values.get(item.name, former)
    return kind(**made)
