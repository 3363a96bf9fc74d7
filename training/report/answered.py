"""Photos of a validation beside what the model answers, and one picture of several of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sources.text import visible

_COLUMNS = 4
_MARGIN = 6
_TEXT = 13
"""Height of a letter in pixels; a line of text takes three more."""
_NARROWEST = 200
"""A photo is enlarged by whole factors until it is about this wide, so that its caption has room."""
_RIGHT, _WRONG = (14, 107, 40), (176, 24, 24)
"""Colours of a right and of a wrong answer; the caption names both classes as well."""


@dataclass(frozen=True)
class Answered:
    """A photo as the model sees it, uint8 [H, W, 3], its class, and the model's answer with its probability."""

    photo: NDArray[np.uint8]
    truth: str
    answer: str
    probability: float
    right: bool

    @property
    def lines(self) -> tuple[str, str]:
        """What a caption says: the class, and the answer."""
        return (
            f"true: {visible(self.truth, keep='')}",
            f"predicted: {visible(self.answer, keep='')} ({self.probability:.2f})",
        )

    @property
    def caption(self) -> str:
        """The lines of the caption as one."""
        return ", ".join(self.lines)


def sheet(photos: Sequence[Answered]) -> NDArray[np.uint8]:
    """One picture, uint8 [H, W, 3], of photos of one size with their captions."""
    height, width = photos[0].photo.shape[:2]
    factor = max(1, round(_NARROWEST / width))
    height, width = factor * height, factor * width
    columns = min(_COLUMNS, len(photos))
    cell = width + _MARGIN, height + 2 * (_TEXT + 3) + 2 * _MARGIN
    size = columns * cell[0] + _MARGIN, -(-len(photos) // columns) * cell[1] + _MARGIN
    picture = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(_TEXT)
    for number, one in enumerate(photos):
        left, top = _MARGIN + number % columns * cell[0], _MARGIN + number // columns * cell[1]
        photo = Image.fromarray(one.photo).resize((width, height), Image.Resampling.NEAREST)
        picture.paste(photo, (left, top))
        for line, text in enumerate(one.lines):
            at = left, top + height + _MARGIN // 2 + line * (_TEXT + 3)
            colour = "black" if line == 0 else _RIGHT if one.right else _WRONG
            draw.text(at, _shortened(draw, text, font, width), fill=colour, font=font)
    return np.asarray(picture)


def _shortened(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, w: int) -> str:
    """The text, with an ellipsis before its last word (the probability, or the class's end) if it is wider than w."""
    if draw.textlength(text, font) <= w:
        return text
    begin, space, last = text.rpartition(" ")
    tail = f"… {last}" if space and last.startswith("(") else "…"
    begin = begin if tail != "…" else text
    while begin and draw.textlength(begin + tail, font) > w:
        begin = begin[:-1]
    return begin + tail
