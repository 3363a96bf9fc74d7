"""The two splits of a folder as the options say: train/ and val/, or one folder of which a part is held out.

The photos of each lie in class folders, or have their classes in a file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sources.classes import ordered, read_classes, tell_missing
from sources.disk import shown
from sources.errors import ConfigError
from sources.folder import classes_of, manifest_of, scan_folder
from sources.folds import HeldOut
from sources.labelled import Labelling, Photos, match
from sources.labels import Labels, read_labels
from sources.manifest import Manifest
from sources.misplaced import require_root, require_split
from sources.walk import is_folder, top_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class SplitOptions:
    """What the user says of the samples and their labels; the names are those of the options."""

    held_out: HeldOut = HeldOut()
    classes: str = ""
    labels: str = ""
    multilabel: bool = False


class Part(NamedTuple):
    """A split: the folder that the names of its manifest lie in."""

    folder: Path
    manifest: Manifest


def splits_of(root: Path, options: SplitOptions, say: Say, with_train: bool = True) -> tuple[Part, Part]:
    """Training and validation; ``say`` hears warnings. Without ``with_train`` the first manifest is empty.

    Raises ConfigError or DataError.
    """
    if options.held_out:
        folder = _only_folder(root, options, say)
        if _is_labelled(folder, options):
            (whole,) = _labelled([folder], options, say)
        else:
            _refuse_labels(options, folder)
            classes = classes_of(folder, say)
            whole = manifest_of(folder, classes, classes, say)
            whole, _ = ordered((whole, whole), options.classes, shown(folder), say)
        train, val = options.held_out.parts(whole, shown(folder), say, with_train)
        return Part(folder, train), Part(folder, val)
    folders = root / "train", root / "val"
    if options.labels:
        train, val = _with_labels(root, options, say, with_train)
    else:
        train, val = ordered(scan_folder(root, say, with_train), options.classes, shown(root), say)
    return Part(folders[0], train), Part(folders[1], val)


def _only_folder(root: Path, options: SplitOptions, say: Say) -> Path:
    """The folder of the classes: ``root``, or its train/. Raises ConfigError where there is a val/ too."""
    require_root(root, "it must hold a folder for each class, or train/ with these in it")
    train, val = root / "train", root / "val"
    if is_folder(val) and (is_folder(train) or not top_of(val).images):
        instead = f"leave it out, or name one of them, as data.root={shown(train if is_folder(train) else val)}"
        raise ConfigError(f"{shown(root)} has a val/, and {options.held_out} divides one folder in two: {instead}.")
    if not is_folder(train):
        return root
    top, below = top_of(root), top_of(train)
    others = [name for name in top.folders if name != "train"]
    if others and not options.labels and (below.images or not below.folders):
        return root  # a class that is called train
    if others:
        say(f"warning: the samples are those of {shown(train)}, so {shown(root / others[0])} is left out")
    return train


def _is_labelled(folder: Path, options: SplitOptions) -> bool:
    """Whether the classes of a folder's photos are in the file of labels."""
    return options.labels != "" and (options.multilabel or bool(top_of(folder).images))


def _refuse_labels(options: SplitOptions, *folders: Path) -> None:
    if options.labels:
        raise ConfigError(
            f"data.labels={options.labels} is for photos that lie in no class folder, and those of "
            f"{' and '.join(map(shown, folders))} lie in some: leave it out."
        )


def _with_labels(root: Path, options: SplitOptions, say: Say, with_train: bool) -> tuple[Manifest, Manifest]:
    """Both manifests where photos of at least one of the two folders have their classes in a file."""
    train, val = root / "train", root / "val"
    if with_train:
        require_split(root, "train")
    require_split(root, "val")
    folders = [folder for folder in (train, val) if is_folder(folder)]
    flat = [folder for folder in folders if _is_labelled(folder, options)]
    if not flat:
        _refuse_labels(options, *folders)
    if flat == folders:
        found = _labelled(folders, options, say, with_train)
        return found[0] if with_train else found[-1].part(found[-1].labels < 0), found[-1]
    if flat == [train]:
        raise ConfigError(
            f"the photos of {shown(val)} lie in class folders and those of {shown(train)} do not: let both have their "
            "labels in the file, or both lie in class folders."
        )
    classes = classes_of(train, say)
    first = manifest_of(train, classes if with_train else [], classes, say)
    first, _ = ordered((first, first), options.classes, shown(train), say)
    (second,) = _labelled([val], options, say, with_train, first.classes)
    return first, second


def _labelled(
    folders: list[Path], options: SplitOptions, say: Say, with_train: bool = True, given: tuple[str, ...] | None = None
) -> list[Manifest]:
    """The manifests of folders whose photos have their classes in the file; ``given``: the classes, if known."""
    labels = read_labels(Path(options.labels), options.multilabel)
    found = [Photos.below(folder, say) for folder in folders]
    match(labels, found, say, all_used=with_train)
    if given is None and options.classes:
        given = _in_file(labels, found, options.classes, say)
    labelling = Labelling.of(labels, found, given, options.multilabel, say)
    return [labelling.manifest(photos) for photos in found]


def _in_file(labels: Labels, found: list[Photos], classes: str, say: Say) -> tuple[str, ...]:
    """The classes of a file that gives their order."""
    said = {name for photos in found for row in photos.rows for name in labels.classes_of[row]}
    names = read_classes(Path(classes), said)
    if said <= set(names):
        tell_missing(names, said, classes, shown(labels.path), say)
    return names
