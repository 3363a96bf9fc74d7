"""Small pictures of photos that are odd, and of a few of each class, without the rotation by EXIF."""

import base64
import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from scripts.inspect.findings import KINDS, by_kind
from scripts.inspect.photo import CannotRead
from scripts.inspect.survey import Survey

MOST_BYTES = 3_400_000
"""Of all pictures of a page together, as text."""

_OF_KIND = 8
_IN_ALL = 240
_MOST_OF_CLASS = 6
_SIDES = (112, 64)
"""Pixels of a picture's long side where there are few classes, and many."""

_SHOWN_KINDS = (
    *("labels differ", "in both splits", "duplicate", "damaged", "rotated", "washed out", "16 bits", "mode", "format"),
    *("frames", "thin", "odd"),
)


class Picture(NamedTuple):
    """A small picture as text for a page's source, and what to write below it."""

    title: str
    words: str
    source: str


def odd(found: Survey) -> Iterator[tuple[str, list[Picture]]]:
    """(title, pictures) of kinds of findings whose photos can be seen."""
    numbers = _numbers(found)
    for kind, findings in by_kind(found.findings).items():
        if kind not in _SHOWN_KINDS:
            continue
        pictures = []
        for finding in findings[:_OF_KIND]:
            name = f"{finding.split}/{finding.photo}" if finding.split else finding.photo
            for one in (name, finding.other) if finding.other else (name,):
                picture = _picture(found, numbers[one], one, finding.what, _SIDES[0])
                pictures += [picture] if picture else []
        if pictures:
            yield KINDS[kind].title, pictures


def of_classes(found: Survey) -> Iterator[tuple[str, list[Picture]]]:
    """(class, pictures) of a few photos of each class, spread over it; of some classes where there are many."""
    if not found.data.splits:
        return
    labels = found.data.splits[0].manifest.labels
    present = np.unique(labels)
    chosen = present[:: max(1, -(-len(present) // 1000))].tolist()
    each = max(1, min(_MOST_OF_CLASS, _IN_ALL // max(1, len(chosen))))
    side = _SIDES[int(len(chosen) > 100)]
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    for label in chosen:
        begin, end = np.searchsorted(sorted_labels, [label, label + 1]).tolist()
        count = min(each, end - begin)
        places = [int(order[begin + (end - begin) * number // count]) for number in range(count)]
        pictures = [_picture(found, place, found.name(place), "", side) for place in places]
        yield found.label(places[0]), [picture for picture in pictures if picture]


def _numbers(found: Survey) -> dict[str, int]:
    wanted = {f"{f.split}/{f.photo}" if f.split else f.photo for f in found.findings} | {
        finding.other for finding in found.findings
    }
    names = ((found.full_name(index), index) for index in range(len(found)))
    return {name: index for name, index in names if name in wanted}


def _picture(found: Survey, index: int, title: str, words: str, side: int) -> Picture | None:
    """None for a photo that cannot be decoded."""
    place = found.place(index)
    try:
        with Image.open(io.BytesIO(place.reader.whole(place.name))) as opened:
            opened.draft(None, (2 * side, 2 * side))
            image = opened.convert("RGB")
    except (CannotRead, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None  # the table of findings has it
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=72, optimize=True)
    return Picture(title, words, "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode())
