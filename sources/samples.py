"""Samples that are made here: of the bytes of files, or ready-made of random pixels."""

import itertools
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from etl import CorruptSample, Key, Spec, decode, transform
from etl.decoded_cache import DecodedCache
from etl.decoded_sample import keep, sample_from_cache
from etl.jpeg_index import Entry
from etl.request import DEFAULT_QUALITY, encode_jpeg
from sources.batch import Counts, Filled, Keys
from sources.disk import shown
from sources.errors import DataError, ObjectError
from sources.jpeg_index import SplitIndex
from sources.manifest import Manifest
from sources.notices import Notices, collect
from sources.source import Source, Specs
from sources.substitutes import Substitution, advice, substitutes


class Reader(Protocol):
    """A reader of the bytes of photos, such as ``sources.folder.FolderReader``."""

    retries: int
    """Attempts that faults have cost."""

    @property
    def manifest(self) -> Manifest:
        """Return the manifest of its samples."""
        ...

    def read(self, index: int) -> bytes:
        """The photo of sample ``index``. Raises CorruptSample or DataError."""
        ...

    def content_key(self, index: int) -> bytes | None:
        """16 bytes that no other content has, for decoded photos that are kept; None where that cannot be told."""
        ...

    def locate(self, index: int) -> str:
        """Say where sample ``index`` lies, for messages."""
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
    index: SplitIndex | None = None
    cache: DecodedCache | None = None
    made_here: bool = field(default=True, init=False)

    def __post_init__(self, spec: Spec | Specs) -> None:
        self.specs = Specs.of(spec)
        self._odd = self._cached = 0

    def __len__(self) -> int:
        return len(self.manifest)

    def locate(self, index: int) -> str:
        """Implement ``Source.locate``."""
        return self.reader.locate(index)

    def end(self) -> None:
        """Implement ``Source.end``."""
        self.reader.end()

    def fill(self, keys: Keys, rows: NDArray[np.uint8]) -> Filled:
        """Implement ``Source.fill``."""
        self._odd, self._cached, retries = 0, 0, self.reader.retries
        collect()
        found = [self._fill(row, *key) for row, key in zip(rows, keys, strict=True)]
        retries = self.reader.retries - retries
        replaced = tuple(substitution for substitution in found if substitution)
        self._tell_index()
        counts = Counts(len(keys), retries=retries, replaced=len(replaced), odd=self._odd, cache=self._cached)
        labels = self.manifest.labels[[key[1] for key in keys]].astype(np.int64, copy=False)
        return Filled(labels, counts, replaced=replaced)

    def _tell_index(self) -> None:
        if self.index and self.index.file.problem and self.notices:
            self.notices.says(
                f"no more entries are written to the JPEG index {shown(self.index.file.path)}: "
                f"{self.index.file.problem}. The run goes on, and decodes the other photos from their beginning"
            )

    def _fill(self, row: NDArray[np.uint8], epoch: int, index: int, view: int = 0) -> Substitution | None:
        """Make a sample, or that which is taken in its place, with the key of the first."""
        spec, reason, problem = self.specs.at(epoch), "", ""
        for by in itertools.chain([index], substitutes(self.manifest, index, self.seed)):
            try:
                self._make(row, by, spec, Key(self.seed, epoch, index, view))
            except CorruptSample as error:
                collect()  # what Pillow has said of this file belongs to no other
                problem = f"{self.locate(by)} is {error}"
                if not self.replace:
                    raise DataError(f"{problem}. {advice(spec)}") from None
                reason = reason or problem
            else:
                return Substitution(epoch, index, by, reason) if reason else None
        raise DataError(f"{problem}, and no other sample of its class can be read.")

    def _make(self, row: NDArray[np.uint8], by: int, spec: Spec, key: Key) -> None:
        """Make the sample of photo ``by``, from the decoded one if that is kept. Raises CorruptSample."""
        photo_key = self.reader.content_key(by) if self.cache else None
        if self.cache and photo_key and sample_from_cache(self.cache, photo_key, spec, key, row):
            self._cached += 1
            if self.wire != "raw":
                row[:] = through_wire(row, self.wire)
            return
        data = self.reader.read(by)
        make(row, data, spec, key, self.wire, self.index.entry(self.manifest.name(by)) if self.index else None)
        odd = heard(self.locate, by, self.notices)
        self._odd += odd
        # An odd photo is told of each time that it is read. The second key: that the first is of what was read.
        if self.cache and photo_key and not odd and not self.cache.full and self.reader.content_key(by) == photo_key:
            keep(self.cache, photo_key, data)
            collect()
            if self.cache.problem and self.notices:
                self.notices.says(
                    f"no more decoded photos are kept in {shown(self.cache.folder)}: {self.cache.problem}. The run "
                    "goes on, and decodes the others each time"
                )


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
        """Implement ``Source.locate``."""
        return f"synthetic sample {index}"

    def fill(self, keys: Keys, rows: NDArray[np.uint8]) -> Filled:
        """Implement ``Source.fill``."""
        images, labels = self.batches[rows.shape[1]]
        images, labels = images[: len(keys)], labels[: len(keys)]
        if not (np.array_equal(rows[0], images[0]) and np.array_equal(rows[-1], images[-1])):
            rows[:] = images
        return Filled(labels, Counts(local=len(keys)))


def make(row: NDArray[np.uint8], data: bytes, spec: Spec, key: Key, wire: str, entry: Entry | None = None) -> None:
    """Make a sample in ``row`` as it arrives over a wire format; ``entry`` and errors as ``transform``."""
    transform(data, spec, key, row, entry)
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
