"""The manifest of a split: object names, labels, sizes and class names, in the order that gives samples their index."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image, in lower case: torchvision's, without the seconds that importing it takes."""

ARRAYS = ("names", "offsets", "labels", "sizes", "checksums")


@dataclass(frozen=True)
class Manifest:
    """A split of n samples in flat arrays; ``aistore_data.shared`` shares them with loader workers.

    ``names`` is uint8: the UTF-8 names (relative, with ``/``) one after the other; ``offsets`` int64 [n + 1] into it;
    ``labels`` int64 [n], indices into ``classes``; ``sizes`` int64 [n] in bytes; ``checksums`` uint64 [n], digests of
    what the source says of the contents, 0 where it says nothing. Sorted bytewise by name.
    """

    names: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    checksums: NDArray[np.uint64]
    classes: tuple[str, ...]

    @classmethod
    def build(
        cls,
        entries: Iterable[tuple[bytes, int, int]],
        classes: Sequence[str],
        checksums: Mapping[bytes, int] = MappingProxyType({}),
    ) -> "Manifest":
        """From (name, label, size) in any order, and checksums by name; sorts them bytewise by name."""
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

    def to_bytes(self) -> bytes:
        """The manifest as the content of an object: NumPy's npz, without pickles."""
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ARRAYS}
        classes = np.frombuffer(json.dumps(list(self.classes)).encode(), np.uint8)
        np.savez_compressed(buffer, classes=classes, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Manifest":
        """The inverse of ``to_bytes``. Raises ValueError for anything else."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                classes = tuple(json.loads(arrays["classes"].tobytes()))
                return cls(**{name: arrays[name] for name in ARRAYS}, classes=classes)
        except (OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"not a manifest: {error}") from None

    def sha256(self) -> str:
        """Identifies the data set by order, labels and sizes, so a folder and its renamed copy are the same data."""
        digest = hashlib.sha256(b"manifest 1\n")
        for array in (self.labels, self.sizes):
            digest.update(array.astype("<i8").tobytes())
        return digest.hexdigest()


def checksum_digest(text: str | None) -> int:
    """A 64-bit number that stands for a checksum of whatever kind, as AIS words it; 0 for none."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") if text else 0
