"""Photos that lie in no class folders, and their classes in a file: a split, or both, as manifests."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sources.disk import shown
from sources.errors import ConfigError
from sources.folder import tell_oddities
from sources.labels import Labels
from sources.manifest import IMG_EXTENSIONS, Manifest
from sources.progress_bar import Progress
from sources.walk import Oddities, images_below

_MOST_NUMBERS = 100_000
"""Classes that have numbers alone: larger numbers are something else."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Photos:
    """The photos below a folder: their paths below it, sizes in bytes and, once found, names in the file of labels."""

    folder: Path
    names: list[str]
    sizes: list[int]
    rows: list[str]

    @classmethod
    def below(cls, folder: Path, say: Say) -> "Photos":
        """Find the photos below a folder; ``say`` hears warnings. Raises ConfigError for a folder without photos."""
        oddities = Oddities()
        with Progress(f"photos of {shown(folder)} found") as progress:
            photos = progress.over(images_below(str(folder), b".", oddities))
            found = sorted((os.fsdecode(name[2:]), size) for name, size in photos)
        tell_oddities(folder, oddities, say)
        if not found:
            raise ConfigError(f"{shown(folder)} holds no images ({', '.join(IMG_EXTENSIONS)}): add those to train on.")
        return cls(folder, [name for name, _ in found], [size for _, size in found], [""] * len(found))


def match(labels: Labels, folders: Sequence[Photos], say: Say, all_used: bool = True) -> None:
    """Find each photo's row. Raises ConfigError for a photo without one, and for a row that fits several photos.

    A row names a photo by its path below the folder, with or without the folder's own name, or by its name alone, and
    with or without its extension. A row without a photo is an error where ``all_used``, and else a warning.
    """
    photo_of: dict[str, tuple[Photos, int]] = {}  # a million paths would take as long as all the rest
    lost: list[tuple[Photos, int]] = []
    where = " and ".join(shown(photos.folder) for photos in folders)

    def take(photos: Photos, at: int, row: str) -> None:
        if row in photo_of:
            first, second = (some.folder / some.names[place] for some, place in (photo_of[row], (photos, at)))
            raise ConfigError(
                f"{_row(labels, row)} is two photos, {shown(first)} and {shown(second)}: name each by its path "
                f"below {shown(photos.folder.parent)}."
            )
        photo_of[row], photos.rows[at] = (photos, at), row

    for photos in folders:
        for at, name in enumerate(photos.names):
            rows = [key for key in _keys(photos.folder.name, name) if key in labels.classes_of]
            if len(rows) > 1:
                first, second = sorted(labels.lines[row] for row in rows[:2])
                raise ConfigError(
                    f"{shown(labels.path)} names {shown(photos.folder / name)} twice, in the lines {first:,} and "
                    f"{second:,}: remove one of them."
                )
            if rows:
                take(photos, at, rows[0])
            else:
                lost.append((photos, at))
    left = [row for row in labels.classes_of if row not in photo_of]
    bases: dict[str, str] = {}
    for row in left if lost else ():
        base = row.rpartition("/")[2]
        bases[base] = "" if base in bases else row  # a path from elsewhere helps where its last part is unique
    without = []
    for photos, at in lost:
        base = photos.names[at].rpartition("/")[2]
        row = bases.get(base) or bases.get(base.rpartition(".")[0], "")
        if row:
            take(photos, at, row)
        else:
            without.append(photos.folder / photos.names[at])
    if without:
        raise ConfigError(
            f"{shown(without[0])} has no label in {shown(labels.path)}{_more(without)}: add a line "
            "for each, or move them away."
        )
    left = [row for row in left if row not in photo_of]
    if left and all_used:
        raise ConfigError(
            f"{_row(labels, left[0])} is not a photo in {where}{_more(left)}: remove the line, or correct the name."
        )
    if left:
        say(f"warning: {_row(labels, left[0])} is not a photo in {where}{_more(left)}; they are left out")


def class_order(
    labels: Labels, folders: Sequence[Photos], given: Sequence[str] | None, say: Say
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes, and what the file calls each → its number, from 0 on. Raises ConfigError.

    ``given``: the classes, where they are known; the file has their names or their numbers. Else the classes are the
    names in the file, sorted, or the numbers from 0 to the largest.
    """
    first_row: dict[str, str] = {}
    for row in (row for photos in folders for row in photos.rows):
        for said in labels.classes_of[row]:
            first_row.setdefault(said, row)
    texts = set(first_row)
    are_numbers = bool(texts) and all(re.fullmatch("0|[1-9][0-9]{,8}", text) for text in texts)
    names = given if given is not None else [*labels.columns] or ([] if are_numbers else sorted(texts))
    if not names and not are_numbers:
        raise ConfigError(f"{shown(labels.path)} gives no photo a class: a model needs some to learn.")
    if texts <= set(names) and names:
        return tuple(names), {name: number for number, name in enumerate(names)}
    if not are_numbers:
        unknown = min(texts - set(names))
        raise ConfigError(
            f"{_row(labels, first_row[unknown])} is of the class {unknown!r}, which is none of the {len(names):,} "
            f"classes, such as {names[0]!r}: correct it."
        )
    largest, end = max(texts, key=int), len(names) or _MOST_NUMBERS
    if int(largest) >= end:
        raise ConfigError(
            f"{_row(labels, first_row[largest])} is of the class number {largest}, and classes have numbers from 0 to "
            f"{end - 1:,}: use those, or the names of the classes."
        )
    names = names or [str(number) for number in range(int(largest) + 1)]
    say(
        f"{shown(labels.path)} gives numbers of classes, which are counted from 0 on: 0 is {names[0]}, "
        f"{len(names) - 1:,} is {names[-1]}"
    )
    unused = [number for number in range(len(names)) if str(number) not in texts]
    if unused:
        say(f"warning: {len(unused):,} of these classes have no photo; the first of them is number {unused[0]:,}")
    return tuple(names), {str(number): number for number in range(len(names))}


@dataclass(frozen=True)
class Labelling:
    """How the rows of a file become labels: ``numbers`` of what it calls the ``classes``, and ``sets`` of several."""

    labels: Labels
    classes: tuple[str, ...]
    numbers: dict[str, int]
    sets: list[tuple[int, ...]] | None = None

    @classmethod
    def of(
        cls, labels: Labels, folders: Sequence[Photos], given: Sequence[str] | None, several: bool, say: Say
    ) -> "Labelling":
        """Label photos whose rows are found; other arguments and errors are those of ``class_order``."""
        classes, numbers = class_order(labels, folders, given, say)
        labelling = cls(labels, classes, numbers)
        if not several:
            return labelling
        found = {labelling._set(row) for photos in folders for row in photos.rows}
        return dataclasses.replace(labelling, sets=sorted(found))

    def manifest(self, photos: Photos) -> Manifest:
        """Return the manifest of photos whose rows are found. With ``sets``, labels are rows of their table."""
        rows = photos.rows
        if self.sets is None:
            return self._build(photos, (self.numbers[self.labels.classes_of[row][0]] for row in rows))
        places = {some: place for place, some in enumerate(self.sets)}
        table = np.zeros((len(self.sets), len(self.classes)), np.bool_)
        for some, place in places.items():
            table[place, list(some)] = True
        return dataclasses.replace(self._build(photos, (places[self._set(row)] for row in rows)), sets=table)

    def _build(self, photos: Photos, numbers: Iterable[int]) -> Manifest:
        found = zip(photos.names, photos.sizes, numbers, strict=True)
        return Manifest.build(((os.fsencode(name), number, size) for name, size, number in found), self.classes)

    def _set(self, row: str) -> tuple[int, ...]:
        return tuple(sorted(self.numbers[name] for name in self.labels.classes_of[row]))


def _keys(folder: str, name: str) -> tuple[str, ...]:
    """What a row may call a photo, the most exact first."""
    paths = f"{folder}/{name}", name
    return *paths, *(path.rpartition(".")[0] for path in paths)


def _row(labels: Labels, row: str) -> str:
    return f"{row}, in line {labels.lines[row]:,} of {shown(labels.path)},"


def _more(some: Sequence[object]) -> str:
    return f" (and {len(some) - 1:,} more)" if len(some) > 1 else ""
