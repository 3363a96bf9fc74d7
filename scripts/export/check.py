"""The exported file beside the model that it was made of, on photos: how far their logits are apart."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from etl import CorruptSample, Spec, transform
from scripts.export.format import Logits, of_module
from sources.errors import ConfigError, UserError
from sources.manifest import IMG_EXTENSIONS
from sources.progress_bar import Progress
from training.config.files import load_file
from training.model.trained import Trained
from training.run_dir.files import is_run_directory

BOUND = 1e-4
"""Largest difference of logits that is rounding, as a share of the largest logit, or of 1 where that is smaller.

Float32 has 24 bits, and a program may add up in any order: networks of this size differ by some 1e-6.
"""

_COMMITTED = Path(__file__).resolve().parents[2] / "training" / "state" / "photo.jpeg"
_BATCH = 8


@dataclass(frozen=True)
class Comparison:
    """What the check of an export has found."""

    photos: int
    source: str
    """Whose photos, in words."""
    largest: float
    """Difference of two logits; NaN where a logit is."""
    bound: float
    agree: int
    """Photos with the same top-1."""

    @property
    def holds(self) -> bool:
        """Whether the file computes what the model does, but for rounding."""
        return self.largest <= self.bound

    def __str__(self) -> str:
        return (
            f"largest difference of logits {self.largest:.2g} (bound {self.bound:.2g}), top-1 equal for {self.agree:,} "
            f"of {self.photos:,}, on {self.source}"
        )


def compare(trained: Trained, exported: Logits, images: torch.Tensor, source: str, share: float = BOUND) -> Comparison:
    """Run both on images uint8 [n, H, W, 3], in batches of several sizes. Raises UserError where the file cannot."""
    reference = of_module(trained, trained.bundle.module)
    count, largest, highest = len(images), 0.0, 0.0
    equal: list[bool] = []
    if count == 1:  # a graph with a batch of fixed size would not be noticed
        images = torch.cat([images, images.flip(2)])
    with Progress("photos compared", len(images)) as progress:
        for begin, batch in _batches(images):
            with torch.inference_mode():
                ours = reference(batch)
                try:
                    theirs = exported(batch)
                except Exception as error:  # of whichever program runs it
                    what = str(error).strip().splitlines() or [type(error).__name__]
                    raise UserError(f"the exported file cannot run on {len(batch)} images: {what[-1][:200]}") from None
            if theirs.shape != ours.shape:
                raise UserError(f"the exported file answers {list(theirs.shape)} for logits of {list(ours.shape)}.")
            difference = float((ours - theirs).abs().max())
            largest = difference if difference != difference else max(largest, difference)
            highest = max(highest, float(ours.abs().max()))
            equal[begin:] = (ours.argmax(1) == theirs.argmax(1)).tolist()
            progress.add(begin + len(batch) - progress.done)
            if largest != largest:
                break
    return Comparison(count, source, largest, share * max(1.0, highest), sum(equal[:count]))


def _batches(images: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(number of the first, images): the first one alone, and then all of them, eight at a time."""
    yield 0, images[:1]
    yield from ((begin, images[begin : begin + _BATCH]) for begin in range(0, len(images), _BATCH))


def photos_below(folder: Path) -> list[Path]:
    """The files below a folder that count as images, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())


def choose_photos(what: Path, folder: Path | None, most: int) -> tuple[list[Path], str]:
    """Up to ``most`` photos, spread evenly, and whose they are in words.

    Those of ``folder``, else of the validation split of the run ``what``, else the one that lies in this project.
    Raises ConfigError for a folder without photos.
    """
    if folder is not None:
        found = photos_below(folder)
        if not found:
            raise ConfigError(f"--photos {folder} holds no photos ({', '.join(IMG_EXTENSIONS)}).")
        return spread(found, most), f"photos of {folder}"
    root = _data_root(what)
    found = photos_below(root / "val") if root else []
    if found:
        return spread(found, most), "photos of the run's validation split"
    return [_COMMITTED], "the one photo that lies in this project (give more by --photos FOLDER)"


def _data_root(what: Path) -> Path | None:
    """The folder of data of a run, or of a checkpoint's run, if it is one and the run can be read."""
    run = next((path for path in (what, what.absolute().parent.parent) if is_run_directory(path)), None)
    if run is None:
        return None
    try:
        data = load_file(run / "config.yaml").get("data", {})
    except (ConfigError, OSError):
        return None
    root = data.get("root") or data.get("embedded_root") if isinstance(data, dict) else None
    return Path(root) if isinstance(root, str) and root else None


def spread(items: Sequence[Path], most: int) -> list[Path]:
    """At most so many of them, at equal distances."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def read_photo(path: Path, spec: Spec) -> torch.Tensor:
    """The sample uint8 [H, W, 3] that a validation makes of a photo. Raises UserError for a file that is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, which is not read
            return torch.from_numpy(transform(path.read_bytes(), spec))
    except CorruptSample as error:
        raise UserError(f"{path} is {error}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
