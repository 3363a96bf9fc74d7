"""Generated scenes that a small network learns by halves: 30 classes, few photos of each, and much that tells nothing.

A class is a shape, a texture and a family of colours: none of them alone tells it. Place, size, rotation, light, the
tint of the light, background, other shapes, things that hide a part, blur and noise vary, and say nothing about it. So
a network that learns its training photos by heart fails, and what makes photos more varied helps.
"""

import colorsys
import json
import math
import shutil
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SHAPES = ("cross", "crescent", "ring", "star", "triangle")
TEXTURES = ("checked", "spotted", "striped")
COLOURS = {"warm": (-0.04, 0.16), "cool": (0.42, 0.68)}
"""Hues from and to, in turns."""

CLASSES = [f"{colour}_{texture}_{shape}" for shape, texture, colour in product(SHAPES, TEXTURES, COLOURS)]
VERSION = 1
_STAMP = "scenes.json"

Pixels = NDArray[np.float32]


def scene(rng: np.random.Generator, name: str) -> Image.Image:
    """One RGB photo of 200 to 320 pixels of a class."""
    colour, texture, shape = name.split("_")
    long_side, aspect = int(rng.integers(200, 321)), rng.uniform(0.7, 1.0)
    width, height = long_side, int(long_side * aspect)
    if rng.random() < 0.4:
        width, height = height, width
    short = min(width, height)
    picture = _background(rng, width, height)
    for _ in range(int(rng.integers(1, 5))):  # other things, behind it
        _paste(rng, picture, "square" if rng.random() < 0.5 else "disc", _any_paint(rng, width, height), 0.07, 0.16)
    radius = short * rng.uniform(0.3, 0.47)
    x, y = (rng.uniform(0.9 * radius, side - 0.9 * radius) for side in (width, height))
    paint = _paint(rng, texture, COLOURS[colour], width, height, radius)
    picture.paste(paint, mask=_mask(shape, (width, height), (x, y), radius, rng.uniform(0, math.tau)))
    for _ in range(int(rng.integers(0, 2))):  # and before it
        _paste(rng, picture, "square", _any_paint(rng, width, height), 0.04, 0.09)
    return _lit(rng, picture)


def write(root: Path, per_class: dict[str, int]) -> None:
    """An ImageFolder, ``root/SPLIT/CLASS/*.jpg``, the same at every call; nothing where it is there already."""
    content = {"version": VERSION, **per_class}
    stamp = root / _STAMP
    if stamp.exists() and json.loads(stamp.read_text()) == content:
        return
    partial = root.with_name(f"{root.name}.partial")
    for old in (partial, root):
        shutil.rmtree(old, ignore_errors=True)
    for split_number, (split, count) in enumerate(per_class.items()):
        for class_number, name in enumerate(CLASSES):
            (partial / split / name).mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng([VERSION, split_number, class_number, number])
                scene(rng, name).save(partial / split / name / f"{number:04d}.jpg", quality=int(rng.integers(75, 95)))
    (partial / _STAMP).write_text(json.dumps(content))
    partial.rename(root)


def _paste(
    rng: np.random.Generator, picture: Image.Image, shape: str, paint: Image.Image, least: float, most: float
) -> None:
    """A thing that says nothing about the class; its radius is a share of the picture's short side."""
    place = tuple(rng.uniform(0, side) for side in picture.size)
    radius = min(picture.size) * rng.uniform(least, most)
    picture.paste(paint, mask=_mask(shape, picture.size, place, radius, rng.uniform(0, math.tau)))


def _mask(shape: str, size: tuple[int, int], place: tuple[float, ...], radius: float, angle: float) -> Image.Image:
    """White where the shape is, turned by ``angle`` radians."""
    mask = Image.new("L", size, 0)
    pen, (x, y) = ImageDraw.Draw(mask), place

    def disc(at_x: float, at_y: float, of: float, fill: int) -> None:
        pen.ellipse((at_x - of, at_y - of, at_x + of, at_y + of), fill=fill)

    if shape in ("disc", "ring", "crescent"):
        disc(x, y, radius, 255)
        if shape == "ring":
            disc(x, y, 0.55 * radius, 0)
        elif shape == "crescent":
            disc(x + 0.45 * radius * math.cos(angle), y + 0.45 * radius * math.sin(angle), 0.75 * radius, 0)
    else:
        cos, sin = radius * math.cos(angle), radius * math.sin(angle)
        pen.polygon([(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in _corners(shape)], fill=255)
    return mask.filter(ImageFilter.GaussianBlur(0.8))


def _corners(shape: str) -> list[tuple[float, float]]:
    """Of a polygon in the unit circle."""

    def spikes(count: int, inner: float) -> list[tuple[float, float]]:
        radii = [1.0 if number % 2 == 0 else inner for number in range(2 * count)]
        return [(r * math.sin(math.pi * n / count), -r * math.cos(math.pi * n / count)) for n, r in enumerate(radii)]

    if shape == "star":
        return spikes(5, 0.42)
    if shape == "triangle":
        return [(math.sin(math.tau * n / 3), -math.cos(math.tau * n / 3)) for n in range(3)]
    if shape == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    arm = 0.3
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    return [(px * c - py * s, px * s + py * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for px, py in quarter]


def _any_paint(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    texture = str(rng.choice((*TEXTURES, "plain")))
    return _paint(rng, texture, (0.0, 1.0), width, height, min(width, height) * rng.uniform(0.1, 0.4))


def _paint(
    rng: np.random.Generator, texture: str, hues: tuple[float, float], width: int, height: int, radius: float
) -> Image.Image:
    """A texture of two tones of one family of colours, turned by a random angle."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, math.tau), radius * rng.uniform(0.35, 0.6)
    u = (x * math.cos(angle) + y * math.sin(angle)) * math.tau / period
    v = (y * math.cos(angle) - x * math.sin(angle)) * math.tau / period
    patterns = {
        "checked": np.sin(u) * np.sin(v) > 0,
        "spotted": np.sin(u) + np.sin(v) > 0.5,
        "striped": np.sin(u) > 0,
        "plain": np.zeros_like(u, bool),
    }
    one, other = (
        np.array(colorsys.hsv_to_rgb(rng.uniform(*hues) % 1.0, rng.uniform(0.35, 1.0), value)) * 255
        for value in (rng.uniform(0.25, 0.5), rng.uniform(0.7, 1.0))
    )
    return Image.fromarray(np.where(patterns[texture][..., None], one, other).astype(np.uint8))


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Colours that change slowly, over coarser and finer blobs."""
    layers: Pixels = np.full((height, width, 3), rng.integers(60, 190, 3), np.float32)
    for cells, contrast in ((2, 45), (5, 25), (18, 12)):
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        blobs = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        layers += contrast * (blobs / 127.5 - 1)
    return Image.fromarray(layers.clip(0, 255).astype(np.uint8))


def _lit(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Under a light that comes from a side and has a tint, as a camera sees it that is not quite in focus."""
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2.0)))
    pixels: Pixels = np.asarray(picture, np.float32) / 255
    height, width = pixels.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = rng.uniform(0, math.tau)
    light = rng.uniform(0.65, 1.15) + rng.uniform(0, 0.3) * (x * math.cos(angle) + y * math.sin(angle))
    tint = rng.uniform(0.8, 1.2, 3).astype(np.float32)
    pixels = (pixels ** np.float32(rng.uniform(0.7, 1.4))) * light[..., None] * tint
    pixels += rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(0.01, 0.03))
    return Image.fromarray((255 * pixels).clip(0, 255).astype(np.uint8))
