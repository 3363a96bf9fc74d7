"""Map-style datasets that answer a whole batch at once: lists of (epoch, index) in, uint8 NHWC images out."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from etl import CorruptSample, Key, Spec, decode, transform
from etl.request import DEFAULT_QUALITY, encode_jpeg
from sources.errors import DataError, ObjectError
from sources.manifest import Manifest
from sources.notices import Notices
from sources.pillow_warnings import collect
from sources.substitutes import Substitution, advice, substitutes


class Counts(NamedTuple):
    """Where the samples of a batch came from, and what it took."""

    local: int = 0
    etl: int = 0
    retries: int = 0
    fallbacks: int = 0
    """Samples made here because the ETL did not answer."""
    audits: int = 0
    """Samples of the ETL that were made here too, and compared."""
    replaced: int = 0
    """Samples in whose place another one was taken (data.on_corrupt=replace)."""
    etl_bytes: int = 0
    object_bytes: int = 0
    opened: int = 0
    """Times that a storage node's breaker opened."""
    odd: int = 0
    """Samples of files that Pillow reads, but warns of."""


class Batch(NamedTuple):
    """``images`` uint8 [n, H, W, 3]; ``labels`` int64 [n]; ``indices`` int64 [n], places in the manifest.

    ``latencies`` are those of its requests (``sources.latency``), ``replaced`` the samples that are others in truth.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    counts: Counts
    latencies: bytes = b""
    replaced: tuple[Substitution, ...] = ()


class BatchDataset(Protocol):
    """What the loader needs of a data source: every source slots in here, and nothing downstream knows which."""

    @property
    def side(self) -> int:
        """Pixels of a sample's side; 0 where all batches lie in memory already, and none is to be made."""
        ...

    def __len__(self) -> int: ...

    def __getitems__(self, keys: list[tuple[int, int]], images: torch.Tensor | None = None) -> Batch:
        """The samples of ``keys``, (epoch, index) each, made in ``images``, uint8 [n, side, side, 3], if it is given.

        Raises DataError that names the sample.
        """
        ...


@runtime_checkable
class Waiting(Protocol):
    """A ``BatchDataset`` that may wait long for a batch."""

    def end(self) -> None:
        """Let no worker that makes a batch wait any more: nobody wants it."""
        ...


class Reader(Protocol):
    """Where the bytes of a sample come from."""

    retries: int
    """Attempts so far that were in vain, and were followed by another one."""

    def read(self, index: int) -> bytes:
        """The bytes of sample ``index``. Raises DataError that names it, CorruptSample for what is not the sample."""
        ...

    def locate(self, index: int) -> str:
        """Where sample ``index`` lies, for messages."""
        ...

    def end(self) -> None:
        """Let no process that has this reader wait any more."""
        ...


class SampleDataset:
    """Samples made here: bytes from ``reader``, pixels by ``etl.transform``."""

    def __init__(
        self,
        reader: Reader,
        manifest: Manifest,
        spec: Spec,
        seed: int,
        wire: str = "raw",
        replace: bool = False,
        notices: Notices | None = None,
    ) -> None:
        self.reader = reader
        self.manifest = manifest
        self.spec = spec
        self.seed = seed
        self.wire = wire
        self.replace = replace
        self.notices = notices
        self._odd = 0

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def side(self) -> int:
        """As ``BatchDataset``."""
        return self.spec.size

    def end(self) -> None:
        """As ``Waiting``."""
        self.reader.end()

    def __getitems__(self, keys: list[tuple[int, int]], images: torch.Tensor | None = None) -> Batch:
        """As ``BatchDataset``."""
        if images is None:
            images = empty_batch(len(keys), self.side)
        self._odd, retries = 0, self.reader.retries
        collect()
        found = [self._fill(row, *key) for row, key in zip(images.numpy(), keys, strict=True)]
        retries = self.reader.retries - retries
        replaced = tuple(substitution for substitution in found if substitution)
        indices = torch.tensor([index for _, index in keys])
        labels = torch.from_numpy(self.manifest.labels[indices.numpy()])
        counts = Counts(local=len(keys), retries=retries, replaced=len(replaced), odd=self._odd)
        return Batch(images, labels, indices, counts, replaced=replaced)

    def _fill(self, row: np.ndarray, epoch: int, index: int) -> Substitution | None:
        """Make a sample, or that which is taken in its place, with the key of the first."""
        reason, by, others = "", index, substitutes(self.manifest, index, self.seed)
        while True:
            try:
                pixels = transform(self.reader.read(by), self.spec, Key(self.seed, epoch, index))
            except CorruptSample as error:
                collect()  # what Pillow has said of this file belongs to no other
                problem = f"{self.reader.locate(by)} is {error}"
                if not self.replace:
                    raise DataError(f"{problem}. {advice(self.spec)}") from None
                reason, other = reason or problem, next(others, None)
                if other is None:
                    raise DataError(f"{problem}, and no other sample of its class can be read.") from None
                by = other
            else:
                row[:] = through_wire(pixels, self.wire)
                self._hear(by)
                return Substitution(epoch, index, by, reason) if reason else None

    def _hear(self, index: int) -> None:
        """What Pillow has said of the file of sample ``index``."""
        said = collect()
        self._odd += bool(said)
        if self.notices:
            for what in said:
                self.notices.odd(self.reader.locate(index), what)


def empty_batch(count: int, side: int) -> torch.Tensor:
    """Memory for ``count`` samples, uint8 [count, side, side, 3]."""
    return torch.empty((count, side, side, 3), dtype=torch.uint8)


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


class SyntheticDataset:
    """Ready-made random pixels and labels: the model's speed without a loader. A batch is a view, never a copy."""

    side = 0

    def __init__(self, length: int, size: int, num_classes: int, batch_size: int, pin_memory: bool) -> None:
        generator = np.random.Generator(np.random.Philox(key=[length, size]))
        images = generator.integers(0, 256, (batch_size, size, size, 3), np.uint8)
        self.length = length
        self.images = torch.from_numpy(images)
        self.labels = torch.from_numpy(generator.integers(0, num_classes, batch_size))
        if pin_memory:
            self.images, self.labels = self.images.pin_memory(), self.labels.pin_memory()

    def __len__(self) -> int:
        return self.length

    def __getitems__(self, keys: list[tuple[int, int]], images: torch.Tensor | None = None) -> Batch:
        """As ``BatchDataset``, of whose ``images`` it has no need."""
        n = len(keys)
        return Batch(self.images[:n], self.labels[:n], torch.tensor([index for _, index in keys]), Counts(local=n))
