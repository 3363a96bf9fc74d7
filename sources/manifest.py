"""The manifest of a split: object names, labels, sizes and class names, in the order that gives samples their index."""

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image, in lower case: torchvision's, without the seconds that importing it takes."""

TYPES: Mapping[str, type] = MappingProxyType(
    {"names": np.uint8, "offsets": np.int64, "labels": np.int64, "sizes": np.int64, "checksums": np.uint64}
)
"""The types of a manifest's arrays."""

ARRAYS = tuple(TYPES)

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00([\x00-\xff]{2})"
    rb"(\{'descr': '([<>|=][a-zA-Z]\d{1,3})', 'fortran_order': False, 'shape': \((\d{1,12}),\), \} *\n)"
)
"""The header of a one-dimensional array of NumPy's: its own length, the type and the number of the values."""


@dataclass(frozen=True)
class Manifest:
    """A split of n samples in flat arrays; ``sources.shared_memory`` shares them with loader workers.

    ``names`` is uint8: the UTF-8 names (relative, with ``/``) one after the other; ``offsets`` int64 [n + 1] into it;
    ``labels`` int64 [n], indices into ``classes``; ``sizes`` int64 [n] in bytes; ``checksums`` uint64 [n], digests of
    what the source says of the contents, 0 where it says nothing. Sorted bytewise by name.

    Where a sample may have several classes, or none, labels are indices into ``sets``, bool [sets, classes].
    """

    names: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.uint64]
    classes: tuple[str, ...]
    sets: NDArray[np.bool_] | None = None

    @classmethod
    def build(
        cls,
        entries: Iterable[tuple[bytes, int, int]],
        classes: Sequence[str],
        checksums: Mapping[bytes, int] = MappingProxyType({}),
    ) -> "Manifest":
        """Build it from (name, label, size) in any order, and checksums by name; sorts them bytewise by name."""
        rows = sorted(entries)
        lengths = np.fromiter((len(name) for name, _, _ in rows), np.int64, len(rows))
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(
            names=np.frombuffer(b"".join(name for name, _, _ in rows), np.uint8),
            offsets=offsets,
            labels=np.fromiter((label for _, label, _ in rows), np.int64, len(rows)),
            sizes=np.fromiter((size for _, _, size in rows), np.int64, len(rows)),
            checksums=np.fromiter((checksums.get(name, 0) for name, _, _ in rows), np.uint64, len(rows)),
            classes=tuple(classes),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The name of sample ``index``, relative to the split's folder or prefix."""
        start, end = self.offsets[index : index + 2].tolist()
        return self.names[start:end].tobytes().decode("utf-8", "surrogateescape")

    def names_of(self, indices: NDArray[np.int64]) -> list[str]:
        """Return the names of many samples."""
        starts, ends = self.offsets[indices].tolist(), self.offsets[indices + 1].tolist()
        names = self.names.data
        return [str(names[start:end], "utf-8", "surrogateescape") for start, end in zip(starts, ends, strict=True)]

    def part(self, chosen: NDArray[np.bool_]) -> "Manifest":
        """The samples where ``chosen``, bool [n], is true, in their order, with all the classes."""
        lengths = np.diff(self.offsets)
        offsets = np.zeros(int(np.count_nonzero(chosen)) + 1, np.int64)
        np.cumsum(lengths[chosen], out=offsets[1:])
        numbers = {name: getattr(self, name)[chosen] for name in ("labels", "sizes", "checksums")}
        names = self.names[np.repeat(chosen, lengths)]
        return Manifest(names, offsets, **numbers, classes=self.classes, sets=self.sets)

    def counts(self) -> NDArray[np.int64]:
        """How many samples each class has, int64 [classes]."""
        if self.sets is None:
            return np.bincount(self.labels, minlength=len(self.classes))
        return np.bincount(self.labels, minlength=len(self.sets)) @ self.sets

    def to_bytes(self) -> bytes:
        """The manifest as the content of an object: NumPy's npz, without pickles."""
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ARRAYS}
        classes = np.frombuffer(json.dumps(list(self.classes)).encode(), np.uint8)
        np.savez_compressed(buffer, classes=classes, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, most: int = 1 << 32) -> "Manifest":
        """The inverse of ``to_bytes``. Raises ValueError for anything else, or what unpacks to over ``most`` bytes."""
        types = {"classes": np.uint8, **TYPES}
        arrays = _read_npz(content, types, most)
        manifest = cls(classes=class_names(arrays.pop("classes").tobytes()), **arrays)
        if problem := manifest.problem():
            raise ValueError(problem)
        return manifest

    def problem(self) -> str:
        """What contradicts itself; "" if nothing does."""
        n, offsets = len(self.labels), self.offsets
        if not len(offsets) - 1 == len(self.sizes) == len(self.checksums) == n:
            return "its lists are not of the same length"
        if offsets[0] != 0 or offsets[-1] != len(self.names) or bool((np.diff(offsets) <= 0).any()):
            return "its names are not one after the other"
        if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            return "it has labels of classes that there are not"
        if n and self.sizes.min() < 0:
            return "it has negative sizes"
        return "" if len(set(self.classes)) == len(self.classes) else "it has a class twice"

    def sha256(self) -> str:
        """Identifies the data set by order, labels and sizes, so a folder and its renamed copy are the same data."""
        digest = hashlib.sha256(b"manifest 1\n")
        for array in (self.labels, self.sizes):
            digest.update(array.astype("<i8").tobytes())
        if self.sets is not None:
            digest.update(b"sets" + np.array(self.sets.shape, "<i8").tobytes() + np.packbits(self.sets).tobytes())
        return digest.hexdigest()


def class_names(content: bytes) -> tuple[str, ...]:
    """The names in a list in JSON. Raises ValueError for anything else."""
    try:
        names = json.loads(content)
    except RecursionError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its classes are not a list of names")
    return tuple(names)


def checksum_digest(text: str | None) -> int:
    """A 64-bit number that stands for a checksum of whatever kind, as AIS words it; 0 for none."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") if text else 0


def _read_npz(content: bytes, types: Mapping[str, type], most: int) -> dict[str, NDArray[Any]]:
    """The one-dimensional arrays of ``types``, by their names, which together unpack to ``most`` bytes at most.

    Others may have written ``content``. Raises ValueError for anything else, before it is unpacked.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sorted(member.filename for member in members) != sorted(f"{name}.npy" for name in types):
                raise ValueError(f"it does not hold {', '.join(types)}, each once")
            if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
                raise ValueError("it is packed in an unusual way")
            if sum(member.file_size for member in members) > most:
                raise ValueError(f"it unpacks to more than {most:,} bytes")
            return {name: _array(archive.read(f"{name}.npy"), name, kind) for name, kind in types.items()}
    except (OSError, EOFError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"it is damaged: {error}") from None


def _array(data: bytes, name: str, kind: type) -> NDArray[Any]:
    dtype = np.dtype(kind)
    match = _HEADER.match(data)
    if match is None or int.from_bytes(match[1], "little") != len(match[2]):
        raise ValueError(f"{name} is not a list as NumPy writes it")
    if match[3].decode() != dtype.str:
        raise ValueError(f"{name} is of type {match[3].decode()}, not {dtype.str}")
    if int(match[4]) * dtype.itemsize != len(data) - match.end():
        raise ValueError(f"{name} has not the {int(match[4]):,} values that it claims")
    return np.frombuffer(data, dtype, offset=match.end()).copy()
