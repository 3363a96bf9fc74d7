"""The photos that the check trains on: ImageNet's where they are at hand, else made ones, and the data set of them."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks.measure import photo_folder
from etl import Spec
from sources.folder import FolderReader, scan_folder
from sources.jpeg_index import open_index
from sources.samples import SampleDataset
from sources.shared_memory import share

SIZE = 500, 375
"""Width and height in pixels of a made photo: ImageNet's most frequent ones."""
_CLASSES = 8
_DIFFERENT = 125
"""It takes 45 ms to make one."""
_FALL = 0.88
"""Of the amplitude from one octave to the next."""


@contextmanager
def photos(count: int, made: bool = False) -> Iterator[tuple[Path, str]]:
    """(ImageFolder in both splits, what it holds in words): IMAGENET_TRAINER_DATA's photos, or ``count`` made ones."""
    data = os.environ.get("IMAGENET_TRAINER_DATA", "")
    if not made and data and (Path(data) / "imagenet-sample.tar").exists():
        with photo_folder() as root:
            yield root, f"photos of ImageNet, {_sizes(root)}"
    else:
        with TemporaryDirectory() as folder:
            make(Path(folder), count)
            width, height = SIZE
            different = min(count, _DIFFERENT)
            yield Path(folder), f"{different} made photos of {width} x {height} as {_sizes(Path(folder))}"


def make(root: Path, count: int) -> None:
    """``count`` photos in ``root``/train, of which every ``_DIFFERENT``-th has the same pixels, and some in val."""
    contents = []
    for number in range(min(count, _DIFFERENT)):
        buffer = io.BytesIO()
        picture(number).save(buffer, "JPEG", quality=92)
        contents.append(buffer.getvalue())
    for number in range(count):
        path = root / "train" / f"class{number % _CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % _DIFFERENT])
        if number < _CLASSES:
            (root / "val" / path.parent.name).mkdir(parents=True)
            (root / "val" / path.parent.name / path.name).symlink_to(path)


def picture(number: int) -> Image.Image:
    """Noise whose amplitude falls with its frequency, as that of photos does: about 100 KB as a JPEG of quality 92."""
    draw, (width, height) = np.random.default_rng(number), SIZE
    pixels = np.full((height, width, 3), 128, np.float32)
    for octave in range(1, 9):
        grid = draw.integers(0, 256, (min(height, 2**octave), min(width, 2**octave), 3), np.uint8)
        layer = Image.fromarray(grid).resize(SIZE, Image.Resampling.BICUBIC)
        pixels += (np.asarray(layer, np.float32) - 128) * _FALL**octave
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _sizes(root: Path) -> str:
    sizes = [path.stat().st_size for path in (root / "train").rglob("*") if path.is_file()]
    return f"{len(sizes):,} of {sum(sizes) / len(sizes) / 1e3:.0f} KB"


def data_set(root: Path, indexed: bool, workers: int) -> SampleDataset:
    """data=imagefolder of ``root``; with a JPEG index that ``workers`` processes complete ahead, or without one.

    Raises RuntimeError where no index can be had.
    """
    from scripts.make_index import make_index

    manifest = share(scan_folder(root)[0])
    index = None
    if indexed:
        said: list[str] = []
        index = open_index(root, len(manifest), said.append)
        if index is None:
            raise RuntimeError("; ".join(said) or "imagenet_ais_native is not built, or older than the JPEG index")
        names = [(f"train/{manifest.name(number)}", int(size)) for number, size in enumerate(manifest.sizes)]
        make_index(root, index.file, names, workers)
    reader = FolderReader(root / "train", manifest)
    split = index.of(root / "train") if index else None
    return SampleDataset(reader, manifest, Spec.train(), seed=0, index=split)
