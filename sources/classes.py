"""The order of the classes, which are the labels: that of ImageFolder, or that of a file."""

import dataclasses
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sources.disk import cause, shown
from sources.errors import ConfigError
from sources.labels import text_of
from sources.manifest import Manifest

_FORMS = (
    'a text with the name of a class in each line, or in JSON a list of them or {"0": NAME, …}, whose names may be '
    "[NAME, WORD]"
)


def read_classes(path: Path, known: Collection[str]) -> tuple[str, ...]:
    """The class names in a file, in its order; of several columns, that in which the names ``known`` are.

    Raises ConfigError for a file that cannot be read or names a class twice, DataError for one that is no text.
    """
    try:
        with open(path, "rb") as file:
            text = text_of(file, str(path))
    except OSError as error:
        raise ConfigError(f"{shown(path)} cannot be read: {cause(error)}. data.classes names {_FORMS}.") from None
    columns = _in_json(path, text) if text.lstrip()[:1] in ("[", "{") else _in_lines(text)
    names = next((column for column in columns if set(known) <= set(column)), columns[0])
    if not names:
        raise ConfigError(f"{shown(path)} names no classes: data.classes is {_FORMS}.")
    places: dict[str, int] = {}
    for number, name in enumerate(names):
        if name in places:
            raise ConfigError(
                f"{shown(path)} names the class {name!r} twice, as number {places[name]:,} and {number:,} from 0 on: "
                "each name has one place."
            )
        places[name] = number
    return tuple(names)


def in_order(manifest: Manifest, names: Sequence[str], path: Path, where: str) -> Manifest:
    """The samples with labels by the order of ``names``, which the file ``path`` gives. Raises ConfigError."""
    places = places_of(manifest.classes, names, path, where)
    return dataclasses.replace(manifest, labels=places[manifest.labels], classes=tuple(names))


def places_of(classes: Sequence[str], names: Sequence[str], path: Path, where: str) -> NDArray[np.int64]:
    """The number of each class in the order of ``names``, int64 [classes]; as ``in_order``."""
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [name for name in classes if name not in numbers]
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        raise ConfigError(
            f"{shown(path)} does not name the class {unknown[0]!r}{more} of {where}: add it where it belongs, or "
            "remove its samples."
        )
    return np.array([numbers[name] for name in classes], np.int64)


def ordered(
    manifests: tuple[Manifest, Manifest], path: str, where: str, say: Callable[[str], None]
) -> tuple[Manifest, Manifest]:
    """Both splits, whose classes are the same, in the order that the file ``path`` gives; of "", as they are.

    ``say`` hears warnings: of an order that surprises, and of names without samples. Raises as ``read_classes``, and
    ConfigError for a class that the file does not name.
    """
    classes = manifests[1].classes
    if not path:
        trains = len(manifests[0]) > 0  # an evaluation compares the names with the classes of its weights
        if trains and (warning := surprise(classes, where)):
            say(warning)
        return manifests
    names = read_classes(Path(path), classes)
    train, val = (in_order(manifest, names, Path(path), where) for manifest in manifests)
    tell_missing(names, classes, path, where, say)
    return train, val


def tell_missing(
    names: Sequence[str], classes: Collection[str], path: str, where: str, say: Callable[[str], None]
) -> None:
    """Warn of names that no sample has."""
    there = set(classes)
    missing = [name for name in names if name not in there]
    if missing:
        say(
            f"warning: {len(missing):,} of the {len(names):,} classes of {shown(path)}, like {missing[0]!r}, are not "
            f"in {where}: the model has an output for each, which is never right"
        )


def surprise(classes: Sequence[str], where: str) -> str:
    """A warning for names that are numbers and are not in the order of the numbers; "" where there is none."""
    if not all(name.isascii() and name.isdecimal() for name in classes):
        return ""
    by_number = sorted(classes, key=int)
    first = next((at for at, (name, other) in enumerate(zip(classes, by_number, strict=True)) if name != other), None)
    if first is None:
        return ""
    return (
        f"warning: the classes of {where} are numbers, and sorted as text, as torchvision's ImageFolder has them: "
        f"number {first} from 0 on is {classes[first]!r}, and not {by_number[first]!r}. For the order of the numbers "
        f"name a file with them, one in each line: seq {by_number[0]} {by_number[-1]} > classes.txt, and "
        "data.classes=classes.txt"
    )


def _in_lines(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [lines, [line.split()[0] for line in lines]]


def _in_json(path: Path, text: str) -> list[list[str]]:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{shown(path)} begins like JSON, and is not JSON: data.classes is {_FORMS}.") from None
    if isinstance(content, dict) and all(type(value) is int for value in content.values()):
        content = {str(number): name for name, number in content.items()}  # a class's number by its name
    if isinstance(content, dict):
        content = [content.get(str(number)) for number in range(len(content))]
    rows = [row if isinstance(row, list) else [row] for row in content]
    if not all(row and len(row) == len(rows[0]) and all(isinstance(cell, str) for cell in row) for row in rows):
        raise ConfigError(
            f"{shown(path)} is not of a known form, with each number from 0 to {len(rows) - 1:,}: data.classes is "
            f"{_FORMS}."
        )
    return [list(column) for column in zip(*rows, strict=True)] or [[]]
