"""Training and validation samples in tar shards, as the options say, and the names of their classes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sources.classes import places_of, read_classes, surprise, tell_missing
from sources.disk import shown
from sources.errors import ConfigError
from sources.folds import HeldOut
from sources.shards.index import open_index
from sources.shards.listing import CLASSES, INFO, Listing, shards_of
from sources.shards.manifest import ShardManifest
from sources.walk import is_folder

Say = Callable[[str], None]


@dataclass(frozen=True)
class ShardOptions:
    """What the user says of the shards; the names are those of the options."""

    root: str = ""
    train_shards: str = ""
    val_shards: str = ""
    label_field: str = ""
    classes: str = ""
    held_out: HeldOut = HeldOut()
    keeps_beside: bool = True
    """Whether an index that is made may be kept beside the shards; else it is in the cache folder."""


def shard_splits(options: ShardOptions, say: Say, with_train: bool = True) -> tuple[ShardManifest, ShardManifest]:
    """Training and validation; ``say`` hears warnings. Without ``with_train`` the first manifest is empty.

    Raises ConfigError or DataError.
    """
    if options.held_out:
        listing = of_one(options)
        found = found_in(listing, options, say)
        whole, _ = named((found, found), options.classes, say, with_train)
        parts = options.held_out.parts(whole, shown(listing.source), say, with_train)
        assert isinstance(parts[0], ShardManifest) and isinstance(parts[1], ShardManifest)
        return parts[0], parts[1]
    listings = [of_split(options, split) for split in (("train", "val") if with_train else ("val",))]
    splits = [found_in(listing, options, say) for listing in listings]
    return named(
        (splits[0] if with_train else splits[0].without_samples(), splits[-1]), options.classes, say, with_train
    )


class Found(NamedTuple):
    """The samples of a split as its shards have them, and the names of the classes that lie beside these."""

    manifest: ShardManifest
    names: tuple[str, ...] | None
    where: str
    """Where the shards and the names lie, for messages."""
    source: str
    """What named the shards, for messages."""

    def without_samples(self) -> "Found":
        """The same place with no sample."""
        return self._replace(manifest=self.manifest.part(np.zeros(len(self.manifest), np.bool_)))


def found_in(listing: Listing, options: ShardOptions, say: Say) -> Found:
    """The samples of listed shards, by their index. Raises ConfigError or DataError."""
    manifest = open_index(listing, options.label_field, say, beside=options.keeps_beside)
    return Found(manifest, listing.classes(), shown(listing.folder), shown(listing.source))


def of_split(options: ShardOptions, split: str) -> Listing:
    """The shards of train or val. Raises ConfigError or DataError."""
    name = f"data.{split}_shards"
    if given := getattr(options, f"{split}_shards"):
        return shards_of(given, split, name)
    if not options.root:
        raise ConfigError(f"{name} is not set: name the tars, {name}='…/{split}-{{000000..000099}}.tar', or data.root.")
    root = Path(options.root)
    if (root / INFO).is_file():
        return shards_of(str(root / INFO), split, "data.root")
    if not is_folder(root / split):
        raise ConfigError(
            f"{shown(root / split)} is missing: data.root={options.root} must hold train/*.tar and val/*.tar. Where "
            f"the shards lie elsewhere, name them by data.train_shards and data.val_shards{_for_training(split)}."
        )
    return shards_of(str(root / split), split, "data.root")


def _for_training(split: str) -> str:
    return "; data.val_split=0.1 holds out a tenth of train/ in the place of val/" if split == "val" else ""


def of_one(options: ShardOptions) -> Listing:
    """The shards of which a part is held out."""
    if options.val_shards:
        raise ConfigError(
            f"{options.held_out} divides the training shards in two, and data.val_shards={options.val_shards} names "
            "another validation: leave one of them out."
        )
    if options.train_shards:
        return shards_of(options.train_shards, "train", "data.train_shards")
    root = Path(options.root)
    if is_folder(root / "val"):
        raise ConfigError(
            f"{shown(root)} has a val/, and {options.held_out} divides one set of shards in two: leave it out, or name "
            f"one of them, as data.train_shards={shown(root / 'train')}."
        )
    if is_folder(root / "train"):
        return shards_of(str(root / "train"), "train", "data.root")
    return shards_of(str(root), "train", "data.root")


def named(splits: tuple[Found, Found], classes: str, say: Say, with_train: bool) -> tuple[ShardManifest, ShardManifest]:
    """Both splits with the names of their classes, which are numbers where nobody has names.

    ``classes``: a file that gives names to numbers, or another order to names; "": none. ``say`` hears warnings.
    Raises ConfigError.
    """
    where = " and ".join(dict.fromkeys(split.where for split in splits))
    most = [int(np.flatnonzero(split.manifest.counts()).max(initial=-1)) for split in splits]
    known = [split.names for split in splits]
    if None not in known and known[0] != known[1]:
        raise ConfigError(
            f"{splits[0].where}/{CLASSES} and {splits[1].where}/{CLASSES} differ: both splits need the same classes, "
            "in the same order."
        )
    names = known[0] or known[1]
    if names is not None and max(most) >= len(names):
        raise ConfigError(
            f"{where} has labels to {max(most):,}, and {CLASSES} beside the shards {len(names):,} names: it must have "
            f"one for each number, from 0 on."
        )
    if names is None:
        names = _of_numbers(classes, max(most), where)
        train, val = (split.manifest.named(names) for split in splits)
    elif classes:
        order = read_classes(Path(classes), names)
        places = places_of(names, order, Path(classes), where)
        tell_missing(order, names, classes, where, say)
        train, val = (split.manifest.relabelled(places, order) for split in splits)
    else:
        if with_train and (warning := surprise(names, where)):
            say(warning)
        train, val = (split.manifest.named(names) for split in splits)
    if with_train and splits[0].source != splits[1].source:
        _compare(train, val, splits, say)
    return train, val


def with_classes(found: Found, classes: tuple[str, ...], say: Say) -> ShardManifest:
    """One split whose labels are indices into ``classes``; into its own names, or numbers, where these are empty.

    Raises ConfigError for a sample of a class that is not among them.
    """
    own, _ = named((found, found), "", say, False)
    if not classes or own.classes == classes:
        return own
    counts = own.counts()
    most = int(np.flatnonzero(counts).max(initial=-1))
    if found.names is None:
        if most >= len(classes):
            raise ConfigError(
                f"{found.where} has labels to {most:,}, and {len(classes):,} classes are given: name all."
            )
        return own.named(classes)
    numbers = {name: number for number, name in enumerate(classes)}
    unknown = [name for name, count in zip(own.classes, counts, strict=True) if count and name not in numbers]
    if unknown:
        raise ConfigError(
            f"{found.where} has photos of the class {unknown[0]!r}, and the given classes lack it: add it, or remove "
            "the photos."
        )
    return own.relabelled(np.array([numbers.get(name, 0) for name in own.classes], np.int64), classes)


def _of_numbers(classes: str, most: int, where: str) -> tuple[str, ...]:
    """The names that a file gives to numbers, or the numbers themselves."""
    if not classes:
        return tuple(str(number) for number in range(most + 1))
    names = read_classes(Path(classes), ())
    if most >= len(names):
        raise ConfigError(
            f"{shown(classes)} names {len(names):,} classes, and {where} has labels to {most:,}: name each "
            "number, from 0 on, in a line."
        )
    return names


def _compare(train: ShardManifest, val: ShardManifest, splits: tuple[Found, Found], say: Say) -> None:
    """Raises ConfigError for a class that is validated and never trained on; warns of the opposite."""
    counts, others = train.counts(), val.counts()
    source, other = (split.source for split in splits)
    if (unknown := np.flatnonzero((counts == 0) & (others > 0))).size:
        more = f" (and {unknown.size - 1:,} more)" if unknown.size > 1 else ""
        raise ConfigError(
            f"{other} has photos of class {train.classes[unknown[0]]}{more}, and {source} has none: both splits need "
            "the same classes. Remove these photos, or add some to train on."
        )
    if (lacking := np.flatnonzero((counts > 0) & (others == 0))).size:
        say(
            f"warning: {other} has no photo of {lacking.size:,} of the {np.count_nonzero(counts):,} classes, like "
            f"{train.classes[lacking[0]]}: they are trained on and never validated"
        )
