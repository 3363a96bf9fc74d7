"""Other labels than the folders': a list of right classes for each photo of ImageNet's validation set."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sources.errors import ConfigError

PHOTOS = 50_000
"""Photos of ILSVRC2012_val; the file has a list for each of them, in the order of their names."""

_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.[A-Za-z]+")


def read_labels(path: Path, samples: int, name: Callable[[int], str], outputs: int) -> list[frozenset[int]]:
    """The right classes of each of ``samples`` photos; a photo without any does not count.

    The file is a JSON list of 50,000 lists of classes, as "Are we done with ImageNet?" (Beyer et al., 2020) publishes
    them. ``name`` answers the name of a photo, ``outputs`` is the number of the model's classes. Raises ConfigError.
    """
    lists = _read(path)
    if len(lists) != PHOTOS:
        raise ConfigError(
            f"eval.labels={path} has lists for {len(lists):,} photos, and ILSVRC2012_val has {PHOTOS:,}: it takes a "
            "JSON list with a list of classes for each of them, in the order of their names."
        )
    found = []
    for number, classes in enumerate(lists):
        if not isinstance(classes, list) or not all(type(one) is int and 0 <= one < outputs for one in classes):
            raise ConfigError(
                f"eval.labels={path}: entry {number} is {str(classes)[:60]}, and should be a list of numbers of "
                f"classes below {outputs:,}, which the model has."
            )
    for index in range(samples):
        match = _NAME.fullmatch(name(index).rpartition("/")[2])
        if match is None or not 1 <= int(match[1]) <= PHOTOS:
            raise ConfigError(
                f"eval.labels={path} is for the photos of ILSVRC2012_val, which it knows by their names, and "
                f"{name(index)} is not named as they are (ILSVRC2012_val_00000001.JPEG to {PHOTOS:08d})."
            )
        found.append(frozenset(lists[int(match[1]) - 1]))
    if not any(found):
        raise ConfigError(f"eval.labels={path} has no class for any of the {samples:,} photos of the data.")
    return found


def _read(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"eval.labels={path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or lists in lists without end
        raise ConfigError(f"eval.labels={path} is not JSON: {str(error)[:100]}.") from None
    if not isinstance(content, list):
        raise ConfigError(f"eval.labels={path} holds a {type(content).__name__}, and no list of lists of classes.")
    return content
