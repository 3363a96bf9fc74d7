"""Whether the folders of the data are in the order of the classes that weights were trained for.

A label is the place of its folder among the sorted names, and an output of a model the place of its class in the data
that it was trained on. Weights keep no names, so folders with other names or in another order give wrong labels without
any error.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torchvision

from training.model.weights import Weights

_LISTED = 3
"""Folders that a warning names."""


@dataclass(frozen=True)
class Classes:
    """The classes of a model and of the data that it is evaluated on."""

    of_label: tuple[int, ...]
    """The model's class of each label of the data."""
    possible: tuple[int, ...]
    """The model's classes whose logits count, ascending; the others are left out."""
    names: tuple[str, ...]
    """The names of all the model's classes; "" for a name that is not known."""
    sentence: str = ""
    """What one should know of it, unless label and class are the same number and all classes are possible."""

    @property
    def is_plain(self) -> bool:
        """Whether labels and logits are taken as they are."""
        return self.of_label == tuple(range(len(self.of_label))) and len(self.possible) == len(self.names)


def joined(classes: Sequence[str]) -> str:
    """Class names as one string for a checkpoint; a folder's name holds no slash."""
    return "/".join(classes)


@functools.cache
def imagenet_classes() -> list[tuple[str, str]]:
    """(WordNet id, torchvision's word) of the 1,000 classes, in the order of torchvision's weights."""
    wnids = Path(__file__).with_name("imagenet_wnids.txt").read_text(encoding="ascii").split()
    words = torchvision.models.get_model_weights("resnet18")["IMAGENET1K_V1"].meta["categories"]
    return list(zip(wnids, words, strict=True))


def imagenet_numbers(folders: Sequence[str]) -> list[int] | None:
    """The number of each folder among the 1,000 classes; None unless all are named as classes, each by another one.

    A name is a number, a WordNet id with or without words behind it, or torchvision's word.
    """
    if all(re.fullmatch(r"[0-9]{1,9}", name) for name in folders):
        numbers = [int(name) for name in folders]
    else:
        wnids = {wnid: number for number, (wnid, _) in enumerate(imagenet_classes())}
        words = {_letters(word): number for number, (_, word) in enumerate(imagenet_classes())}
        of_folder = (wnids.get(name[:9]) if _begins_with_wnid(name) else words.get(_letters(name)) for name in folders)
        numbers = [-1 if number is None else number for number in of_folder]
    return numbers if len(set(numbers)) == len(numbers) and all(0 <= number < 1000 for number in numbers) else None


def order_warning(source: str, weights: Weights | None, num_classes: int, folders: Sequence[str]) -> str | None:
    """A warning if ``folders``, the class names of the data, are not the first classes of the weights, in their order.

    ``source`` names the weights in the sentence; ``weights`` None: torchvision's own. Weights for 1,000 classes are
    taken for ImageNet's; of others the classes are known where a run of this trainer has made them.
    """
    recorded = weights.model_facts.get("classes") if weights else None
    if isinstance(recorded, str) and recorded:
        theirs = recorded.split("/")
        wrong = [number for number, name in enumerate(folders) if theirs[number : number + 1] != [name]]
        classes = [f"is {name!r}" for name in theirs] + ["is not there"] * len(folders)
        fix = "Name and choose the folders as in the data that the weights were trained on."
    elif num_classes == 1000:
        numbers = all(name.isdecimal() for name in folders)
        wrong = [
            number
            for number, (name, imagenets) in enumerate(zip(folders, imagenet_classes(), strict=False))
            if not (int(name) == number if numbers else _is_class(name, *imagenets))
        ]
        classes = [f"is {wnid} ({word})" for wnid, word in imagenet_classes()]
        fix = _fix(folders)
    else:
        return None
    if not wrong:
        return None
    first = "; ".join(f"folder {n} is {folders[n]!r}, class {n} of the weights {classes[n]}" for n in wrong[:_LISTED])
    more = f"; and {len(wrong) - _LISTED:,} more" if len(wrong) > _LISTED else ""
    return (
        f"warning: the classes of the data are not those of {source} in their order, so an evaluation counts right "
        f"answers as wrong ones, and training has to learn the labels anew: {first}{more}. {fix}"
    )


def _fix(folders: Sequence[str]) -> str:
    if all(name.isdecimal() for name in folders) and sorted(map(int, folders)) == list(range(len(folders))):
        return (
            "Names are sorted as text, 10 before 2: pad the numbers with zeros, 0000 to 0999, or name the folders by "
            "their WordNet ids."
        )
    wnids = {wnid for wnid, _ in imagenet_classes()}
    if wnids == {name[:9] for name in folders}:
        return "List the classes in the order of their WordNet ids, as sorted folders have it."
    if all(name[:9] in wnids for name in folders):
        return "A part of ImageNet's folders has other numbers than the whole: all 1,000 are needed for these to agree."
    of_words = {_letters(word): wnid for wnid, word in imagenet_classes()}
    example = next((f"{name} is {of_words[_letters(name)]}" for name in folders if _letters(name) in of_words), "")
    return (
        f"Name the folders by their WordNet ids{f' ({example})' if example else ''}: sorted, these have the order of "
        "the weights."
    )


def _is_class(folder: str, wnid: str, word: str) -> bool:
    if _begins_with_wnid(folder):
        return folder.startswith(wnid)
    return _letters(folder) == _letters(word)


def _begins_with_wnid(name: str) -> bool:
    return re.match(r"n\d{8}(?!\d)", name) is not None


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()
