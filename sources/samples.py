"""Samples that are made here: of the bytes of files, or ready-made of random pixels."""

import itertools
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from etl import CorruptSample, Key, Spec, decode, transform
from etl.request import DEFAULT_QUALITY, encode_jpeg
from sources.batch import Counts, Filled, Keys
from sources.errors import DataError, ObjectError
from sources.manifest import Manifest
from sources.notices import Notices, collect
from sources.source import Source, Specs
from sources.substitutes import Substitution, advice, substitutes


class Reader(Protocol):
    """Where the bytes of photos come from, such as ``sources.folder.FolderReader``."""

    retries: int
    """Attempts that faults have cost."""

    def read(self, index: int) -> bytes:
        """The photo of sample ``index``. Raises CorruptSample or DataError."""
        ...

    def locate(self, index: int) -> str:
        """Where it lies, for messages."""
        ...

    def end(self) -> None:
        """Let no process that has this reader wait any more."""
        ...


@dataclass(eq=False)
class SampleDataset(Source):
    """Samples made here: bytes from ``reader``, pixels by ``etl.transform``."""

    reader: Reader
    manifest: Manifest
    spec: InitVar[Spec | Specs]
    seed: int
    wire: str = "raw"
    replace: bool = False
    notices: Notices | None = None
    made_here: bool = field(default=True, init=False)

    def __post_init__(self, spec: Spec | Specs) -> None:
        self.specs = Specs.of(spec)
        self._odd = 0

    def __len__(self) -> int:
        return len(self.manifest)

    def locate(self, index: int) -> str:
        """As ``Source``."""
        return self.reader.locate(index)

    def end(self) -> None:
        """As ``Source``."""
        self.reader.end()

    def fill(self, keys: Keys, rows: NDArray[np.uint8]) -> Filled:
        """As ``Source``."""
        self._odd, retries = 0, self.reader.retries
        collect()
        found = [self._fill(row, *key) for row, key in zip(rows, keys, strict=True)]
        retries = self.reader.retries - retries
        replaced = tuple(substitution for substitution in found if substitution)
        counts = Counts(local=len(keys), retries=retries, replaced=len(replaced), odd=self._odd)
        labels = self.manifest.labels[[key[1] for key in keys]].astype(np.int64, copy=False)
        return Filled(labels, counts, replaced=replaced)

    def _fill(self, row: NDArray[np.uint8], epoch: int, index: int, view: int = 0) -> Substitution | None:
        """Make a sample, or that which is taken in its place, with the key of the first."""
        spec, reason, problem = self.specs.at(epoch), "", ""
        for by in itertools.chain([index], substitutes(self.manifest, index, self.seed)):
            try:
                make(row, self.reader.read(by), spec, Key(self.seed, epoch, index, view), self.wire)
            except CorruptSample as error:
                collect()  # what Pillow has said of this file belongs to no other
                problem = f"{self.locate(by)} is {error}"
                if not self.replace:
                    raise DataError(f"{problem}. {advice(spec)}") from None
                reason = reason or problem
            else:
                self._odd += heard(self.locate, by, self.notices)
                return Substitution(epoch, index, by, reason) if reason else None
        raise DataError(f"{problem}, and no other sample of its class can be read.")


class SyntheticDataset(Source):
    """One batch of random pixels and labels for each side, again and again: the model's speed without a loader.

    Memory that holds it already is left as it is.
    """

    made_here = True

    def __init__(self, length: int, spec: Spec | Specs, num_classes: int, batch_size: int) -> None:
        self.specs = Specs.of(spec)
        self.length = length
        self.batches: dict[int, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
        """(images, labels) by the side of the images."""
        for size in self.specs.sides:
            generator = np.random.Generator(np.random.Philox(key=[length, size]))
            images = generator.integers(0, 256, (batch_size, size, size, 3), np.uint8)
            self.batches[size] = images, generator.integers(0, num_classes, batch_size)

    def __len__(self) -> int:
        return self.length

    def locate(self, index: int) -> str:
        """As ``Source``."""
        return f"synthetic sample {index}"

    def fill(self, keys: Keys, rows: NDArray[np.uint8]) -> Filled:
        """As ``Source``."""
        images, labels = self.batches[rows.shape[1]]
        images, labels = images[: len(keys)], labels[: len(keys)]
        if not (np.array_equal(rows[0], images[0]) and np.array_equal(rows[-1], images[-1])):
            rows[:] = images
        return Filled(labels, Counts(local=len(keys)))


def make(row: NDArray[np.uint8], data: bytes, spec: Spec, key: Key, wire: str) -> None:
    """Make a sample in ``row`` as it arrives over a wire format; errors as ``transform``."""
    transform(data, spec, key, row)
    if wire != "raw":
        row[:] = through_wire(row, wire)


def heard(locate: Callable[[int], str], index: int, notices: Notices | None) -> bool:
    """Whether Pillow has said anything of sample ``index``, which was just made; ``notices`` are told what."""
    said = collect()
    if notices:
        for what in said:
            notices.odd(locate(index), what)
    return bool(said)


def through_wire(pixels: np.ndarray, wire: str) -> np.ndarray:
    """What arrives of uint8 [H, W, 3] over a wire format: ``jpeg`` loses the same everywhere, ``raw`` nothing."""
    return pixels if wire == "raw" else np.asarray(decode(encode_jpeg(pixels, DEFAULT_QUALITY)))


def from_wire(data: bytes, spec: Spec) -> np.ndarray:
    """Pixels uint8 [spec.size, spec.size, 3] from an ETL's JPEG. Raises ObjectError for anything else."""
    try:
        pixels = np.asarray(decode(data))
    except CorruptSample as error:
        raise ObjectError(200, f"the ETL answered {error}") from None
    if pixels.shape != (spec.size, spec.size, 3):
        raise ObjectError(200, f"the ETL answered an image of {pixels.shape[:2]}, not of {spec.size} pixels")
    return pixels
