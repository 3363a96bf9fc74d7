"""Which class of the model a folder of the data is, and which of the model's classes are a possible answer.

Weights know their classes by number. Folders of an evaluation may be a part of them, as those of ImageNet-A and -R, or
sorted as text, as the 0 … 999 of ImageNet-V2.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sources.errors import ConfigError
from training.config.train_options import EVAL_CLASSES, ModelConfig
from training.model.bundle import builder
from training.model.class_order import Classes, imagenet_classes, imagenet_numbers
from training.model.weights import Weights

_PRESETS = {"r": "ImageNet-R", "a": "ImageNet-A"}


def classes_of_weights(config: ModelConfig, chosen: str, folders: Sequence[str]) -> int:
    """How many classes the weights of an evaluation have: those of the data, unless it is known that there are more.

    ``chosen``: eval.classes. Raises ConfigError for weights that cannot be read.
    """
    if config.num_classes:
        return config.num_classes
    asked, of_imagenet = chosen != "auto", imagenet_numbers(folders) is not None
    if not folders or (not asked and not (of_imagenet and len(folders) < 1000)):
        return len(folders)
    outputs, recorded = builder(config.name).classes_of_weights(config)
    if asked and set(folders) <= set(recorded):
        return outputs
    return 1000 if of_imagenet and outputs in (0, 1000) and (asked or outputs) else len(folders)


def match(chosen: str, folders: Sequence[str], weights: Weights | None, outputs: int) -> Classes | None:
    """The classes of the folders in a model with ``outputs`` classes, for eval.classes=``chosen``.

    None where nothing was chosen and the folders' names tell nothing, so that labels are taken for classes. Raises
    ConfigError for a choice that does not fit the model or the folders.
    """
    recorded = tuple(str((weights.model_facts if weights else {}).get("classes", "")).split("/"))
    known = recorded if recorded != ("",) else ()
    names = known + ("",) * (outputs - len(known))
    numbers: list[int] | None = None
    if folders and known and set(folders) <= set(known):
        places = {name: number for number, name in enumerate(known)}
        numbers = [places[name] for name in folders]
    elif folders and outputs == 1000 and (not known or imagenet_numbers(known) == list(range(1000))):
        numbers = imagenet_numbers(folders)
        names = tuple(" ".join(pair) for pair in imagenet_classes())
    possible, which = _possible(chosen, folders, numbers, names)
    if numbers is None:
        if chosen != "auto" and chosen != "all":
            listed = f"folders of the data ({', '.join(folders[:3])}, …)" if folders else "data, which have no folders,"
            raise ConfigError(
                f"eval.classes={chosen} needs to know which class a folder is, and the {listed} are not named as the "
                f"{outputs:,} classes of the weights: name folders by WordNet ids for weights of ImageNet, and as in "
                "the data that they were trained on for others."
            )
        return None
    inside = set(possible)
    if outside := [name for name, number in zip(folders, numbers, strict=True) if number not in inside]:
        raise ConfigError(f"folder {outside[0]!r} of the data is not one of {which}: choose eval.classes=all or data.")
    of_label = tuple(numbers)
    plain = Classes(of_label, possible, names)
    return plain if plain.is_plain else Classes(of_label, possible, names, _sentence(plain, folders, which))


def _sentence(classes: Classes, folders: Sequence[str], which: str) -> str:
    pairs = list(zip(folders, classes.of_label, strict=True))
    name, label = next((pair for place, pair in enumerate(pairs) if place != pair[1]), pairs[0])
    parts = [
        f"classes: the data have {len(folders):,} of the model's {len(classes.names):,}, and a folder is known by its "
        f"name: {name!r} is class {label}"
    ]
    if len(classes.possible) < len(classes.names):
        parts.append(
            f"possible answers are {which}, and the other {len(classes.names) - len(classes.possible):,} logits are "
            "left out (eval.classes=all keeps them)"
        )
    else:
        parts.append(f"possible answers are all {len(classes.names):,}")
    return "; ".join(parts)


def _possible(
    chosen: str, folders: Sequence[str], numbers: list[int] | None, names: Sequence[str]
) -> tuple[tuple[int, ...], str]:
    """(the possible classes, what they are called)."""
    all_ = tuple(range(len(names)))
    if chosen == "all" or (chosen == "auto" and numbers is None):
        return all_, "the model's classes"
    if chosen == "auto":
        for preset in _PRESETS:
            if set(numbers or ()) == set(preset_classes(preset)) and len(names) == 1000:
                return preset_classes(preset), f"the 200 classes of {_PRESETS[preset]}"
        return all_, "the model's classes"
    if chosen == "data":
        return tuple(sorted(set(numbers or ()))), f"the {len(folders):,} classes of the data"
    if chosen in _PRESETS:
        if len(names) != 1000:
            raise ConfigError(
                f"eval.classes={chosen} is a list of 200 of ImageNet's 1,000 classes, and the model has "
                f"{len(names):,}: choose eval.classes=data, or weights for ImageNet."
            )
        return preset_classes(chosen), f"the 200 classes of {_PRESETS[chosen]}"
    return _listed(Path(chosen), names), f"the classes that {chosen} lists"


@cache
def preset_classes(preset: str) -> tuple[int, ...]:
    """The classes of ImageNet-R ("r") or ImageNet-A ("a") as numbers of the 1,000, ascending."""
    wnids = Path(__file__).with_name(f"imagenet_{preset}_wnids.txt").read_text(encoding="ascii").split()
    numbers = {wnid: number for number, (wnid, _) in enumerate(imagenet_classes())}
    return tuple(sorted(numbers[wnid] for wnid in wnids))


def _listed(path: Path, names: Sequence[str]) -> tuple[int, ...]:
    """The classes that a file lists by their names or numbers, one in a line."""
    if not path.is_file():
        raise ConfigError(
            f"eval.classes={path} is neither {', '.join(EVAL_CLASSES)} nor a file that lists classes, one in a line."
        )
    numbers = {first: number for number, name in enumerate(names) if name for first in (name, name.split(" ")[0])}
    found = set()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"eval.classes={path} is not a text file: it lists classes, one in a line.") from None
    except OSError as error:
        raise ConfigError(f"eval.classes={path} cannot be read: {error.strerror}.") from None
    for line, text in enumerate(lines, 1):
        word = text.strip()
        if not word:
            continue
        number = numbers.get(word, int(word) if re.fullmatch(r"\d{1,9}", word) else None)
        if number is None or number >= len(names):
            raise ConfigError(
                f"eval.classes={path}, line {line}: {word[:40]!r} is not a class of the model, which has "
                f"{len(names):,}. Write the name of a class or its number, counted from 0."
            )
        found.add(number)
    if not found:
        raise ConfigError(f"eval.classes={path} lists no classes.")
    return tuple(sorted(found))
