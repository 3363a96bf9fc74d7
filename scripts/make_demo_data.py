"""Make a small image data set to try the trainer with: ``python -m scripts.make_demo_data data/demo``.

Eight classes, four shapes in two textures: neither shape nor texture alone tells a class. Sizes, aspect ratios,
colours, positions, rotations and backgrounds vary like photos'. An ImageFolder of JPEGs, the same at every call.
"""

import argparse
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SHAPES = ("cross", "disc", "ring", "triangle")
TEXTURES = ("spotted", "striped")
VERSION = 1


def draw(rng: np.random.Generator, shape: str, texture: str) -> Image.Image:
    """One RGB picture of a textured shape before a blurred background."""
    long_side, aspect = int(rng.integers(320, 640)), rng.uniform(0.65, 1.0)
    width, height = long_side, int(long_side * aspect)
    if rng.random() < 0.4:
        width, height = height, width
    radius = min(width, height) * rng.uniform(0.34, 0.47)
    x = width / 2 + rng.uniform(-0.5, 0.5) * (width - 2 * radius)
    y = height / 2 + rng.uniform(-0.5, 0.5) * (height - 2 * radius)
    mask = _mask(shape, width, height, x, y, radius, rng.uniform(-0.25, 0.25))
    picture = _background(rng, width, height)
    picture.paste(_texture(rng, texture, width, height, radius), mask=mask.filter(ImageFilter.GaussianBlur(0.7)))
    noise = rng.standard_normal((height, width, 3), np.float32) * rng.uniform(2, 7)
    return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def _mask(shape: str, width: int, height: int, x: float, y: float, radius: float, angle: float) -> Image.Image:
    """White where the shape is, turned by ``angle`` radians around (x, y)."""
    mask = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(mask)
    if shape in ("disc", "ring"):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if shape == "ring":
            hole = 0.5 * radius
            pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=0)
        return mask
    if shape == "triangle":
        corners = [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)]
    else:
        arm = 0.3
        quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
        corners = [
            (px * c - py * s, px * s + py * c) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1)) for px, py in quarter
        ]
    cos, sin = radius * math.cos(angle), radius * math.sin(angle)
    pen.polygon([(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in corners], fill=255)
    return mask


def _texture(rng: np.random.Generator, texture: str, width: int, height: int, radius: float) -> Image.Image:
    """Two contrasting colours in stripes or spots, turned by a random angle."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, math.pi), radius * rng.uniform(0.3, 0.42)
    u = (x * math.cos(angle) + y * math.sin(angle)) * 2 * math.pi / period
    v = (y * math.cos(angle) - x * math.sin(angle)) * 2 * math.pi / period
    pattern = np.sin(u) > 0 if texture == "striped" else np.sin(u) + np.sin(v) > 0.35
    dark, light = rng.integers(0, 70, 3), rng.integers(190, 256, 3)
    if rng.random() < 0.5:
        dark, light = light, dark
    return Image.fromarray(np.where(pattern[..., None], light, dark).astype(np.uint8))


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A muted colour that changes slowly, over coarser and finer blobs."""
    layers = np.full((height, width, 3), rng.integers(70, 186, 3), np.float32)
    for cells, contrast in ((2, 30), (6, 15), (24, 6)):
        small = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        blobs = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        layers += contrast * (blobs / 127.5 - 1)
    return Image.fromarray(layers.clip(0, 255).astype(np.uint8))


def write(root: Path, per_class: dict[str, int]) -> int:
    """Write ``root/SPLIT/CLASS/*.jpg``; answers the number of images."""
    for split_number, (split, count) in enumerate(per_class.items()):
        for class_number, (shape, texture) in enumerate((s, t) for s in SHAPES for t in TEXTURES):
            folder = root / split / f"{texture}_{shape}"
            folder.mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng([VERSION, split_number, class_number, number])
                quality = int(rng.integers(80, 96))
                draw(rng, shape, texture).save(folder / f"{number:04d}.jpg", quality=quality)
    return sum(per_class.values()) * len(SHAPES) * len(TEXTURES)


def main() -> int:
    """The command line; what is there already is kept if it is complete."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder to make; it must not exist, or be a former result")
    parser.add_argument("--train", type=int, default=48, help="training images in each class (default 48)")
    parser.add_argument("--val", type=int, default=20, help="validation images in each class (default 20)")
    args = parser.parse_args()
    stamp = args.root / "demo-data.json"
    content = {"version": VERSION, "train": args.train, "val": args.val}
    if stamp.exists() and json.loads(stamp.read_text()) == content:
        print(f"{args.root} exists already")
        return 0
    if args.root.exists() and not stamp.exists():
        print(f"error: {args.root} exists and is not a demo data set: name another folder.", file=sys.stderr)
        return 2
    partial = args.root.with_name(args.root.name + ".partial")
    for old in (partial, args.root):
        shutil.rmtree(old, ignore_errors=True)
    images = write(partial, {"train": args.train, "val": args.val})
    (partial / stamp.name).write_text(json.dumps(content))
    partial.rename(args.root)
    print(f"{args.root}: {images} images in {len(SHAPES) * len(TEXTURES)} classes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
