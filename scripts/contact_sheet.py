"""A contact sheet: photos as a model saw them, and what it took them for."""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sources.errors import ConfigError, UserError
from sources.text import visible

_SIDE, _LINE, _GAP = 176, 17, 10
"""Pixels: of a photo's side, of a line of text, and between photos."""

_ROWS = 3
"""Answers below each photo."""

_INK, _FAINT, _BAR = (30, 30, 30), (110, 110, 110), (188, 212, 240)

_SUFFIXES = (".png", ".jpg", ".jpeg")

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Cell:
    """One photo of a contact sheet."""

    pixels: np.ndarray
    """uint8 [H, W, 3]."""
    name: str
    answers: Sequence[tuple[str, float]]
    """Class and share, the largest first."""


def require_sheet(path: Path, replace: bool) -> None:
    """Raise ConfigError for a file that cannot be a sheet, or is there and not to be replaced."""
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--sheet {path} must end in {', '.join(_SUFFIXES)}.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is not a folder: make it, or name another place for --sheet.")
    if os.path.lexists(path) and not replace:
        raise ConfigError(f"{path} exists already: name another file for --sheet, or add --replace.")


def draw_sheet(cells: Sequence[Cell], title: str) -> Image.Image:
    """The sheet, about as wide as high."""
    width, height = _SIDE + _GAP, _SIDE + (_ROWS + 1) * _LINE + 2 * _GAP
    columns = max(3, min(len(cells), round((len(cells) * height / width) ** 0.5)))
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + 3 * _GAP + _LINE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    _write(draw, font, (_GAP, _GAP), title, _INK, sheet.width - 2 * _GAP)
    for number, cell in enumerate(cells):
        left, top = _GAP + number % columns * width, 2 * _GAP + _LINE + number // columns * height
        sheet.paste(Image.fromarray(cell.pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), (left, top))
        top += _SIDE + 2
        _write(draw, font, (left, top), cell.name, _FAINT, _SIDE)
        for row, (name, share) in enumerate(cell.answers[:_ROWS], start=1):
            at = left, top + row * _LINE
            draw.rectangle((*at, left + round(share * _SIDE), at[1] + _LINE - 2), fill=_BAR)
            percent = f"{100 * share:.0f} %"
            room = _SIDE - draw.textlength(percent, font) - 8
            _write(draw, font, (left + 2, at[1]), name, _INK, room)
            draw.text((left + _SIDE - draw.textlength(percent, font) - 2, at[1]), percent, _INK, font)
    return sheet


def write_sheet(path: Path, cells: Sequence[Cell], title: str) -> None:
    """Write the sheet whole or not at all. Raises UserError where it cannot be written."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        draw_sheet(cells, title).save(temporary)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}. Name another place.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _write(
    draw: ImageDraw.ImageDraw, font: Font, at: tuple[float, float], text: str, ink: tuple[int, int, int], room: float
) -> None:
    """A line of text, cut to ``room`` pixels."""
    text = visible(text, "")
    if isinstance(font, ImageFont.ImageFont):  # a Pillow without FreeType has letters of Latin-1 alone
        text = text.encode("latin-1", "replace").decode("latin-1")
    whole, text = text, text[: int(room / 3)]  # few letters are narrower than 3 pixels
    while text and draw.textlength(text if text == whole else f"{text}..", font) > room:
        text = text[:-1]
    draw.text(at, text if text == whole else f"{text}..", ink, font)
