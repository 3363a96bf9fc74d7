"""The manifest of a split that lies in tar shards: what a manifest has, and where in which shard each sample lies.

It is one image: a header and flat arrays of the narrowest types, in a file that keeps it or in memory. So it is mapped
and not read, and all processes of a machine share its pages.
"""

import io
import json
import mmap
import os
from collections.abc import Sequence
from multiprocessing import reduction
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from sources.manifest import Manifest
from sources.shards.columns import Columns

_MAGIC = b"imagenet-ais shards 2\n\0\0"
_ALIGNMENT = 64
_MOST_HEADER = 1 << 30


class Shard(NamedTuple):
    """A shard as it was read: its path below the manifest's folder, its bytes, and what tells it from a later one.

    ``stamp`` is a file's time of change in ns, or of an object in a bucket a number made of its checksum, 0 for none.
    """

    name: str
    size: int
    stamp: int


class Place(NamedTuple):
    """Where a photo lies: the path of its shard and its bytes, where it begins there, its bytes, and two checksums.

    ``header_sum`` is what the tar header before it says of itself, ``crc32`` that of the photo, 0 if nobody knows it.
    """

    path: str
    shard_size: int
    offset: int
    size: int
    header_sum: int
    crc32: int


class Mapped:
    """The ``size`` bytes of an open file, to be read; a process that is given them maps the same pages.

    The file need not have a name any more.
    """

    def __init__(self, fd: Any) -> None:
        """Takes over ``fd``: a descriptor, or one that another process sends. Raises OSError or ValueError."""
        self._fd = fd if isinstance(fd, int) else fd.detach()
        self.size = os.fstat(self._fd).st_size
        self.buffer = mmap.mmap(self._fd, self.size, prot=mmap.PROT_READ)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)  # the arrays made of the buffer keep that alive

    def __reduce__(self) -> tuple[Any, ...]:
        return Mapped, (reduction.DupFd(self._fd),)  # type: ignore[attr-defined]


class ShardManifest(Manifest):
    """A manifest whose samples lie in the ``shards`` of ``folder``, in the order of ``Columns.ordered``."""

    def __init__(self, image: Mapped, folder: Path, classes: tuple[str, ...]) -> None:
        """Raises ValueError for an image that is damaged, cut off, or of another version."""
        header, at = _header(image)
        arrays: dict[str, NDArray[Any]] = {}
        try:
            for name, kind, length in header["arrays"]:
                dtype = np.dtype(kind)
                if dtype.kind not in "iu":
                    raise ValueError("its arrays are not integers")
                arrays[name] = np.ndarray(length, dtype, image.buffer, at)
                at += _rounded(arrays[name].nbytes)
            self.columns = Columns(**arrays)
            self.shards = tuple(Shard(*row) for row in header["shards"])
            self._digests = str(header["sha256"]), str(header["xxh3"])
            self._counts = np.array(header["counts"], np.int64)
        except (TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"its header is damaged: {error}") from None
        _, starts, labels, sizes = self.columns[:4]
        if {len(column) for column in self.columns[2:]} != {len(starts) - 1}:
            raise ValueError("its lists are not of the same length")
        none = np.broadcast_to(np.uint64(0), len(labels))
        super().__init__(self.columns.names, starts, labels, sizes, none, classes)
        self.folder = folder
        self._parts = image, folder, classes

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardManifest, self._parts

    def place(self, index: int) -> Place:
        """Where sample ``index`` lies."""
        _, _, _, sizes, shard, offsets_in, header_sums, crc32 = self.columns
        number, *others = (int(column[index]) for column in (shard, offsets_in, sizes, header_sums, crc32))
        return Place(f"{self.folder}/{self.shards[number].name}", self.shards[number].size, *others)

    def shard_of(self, index: int) -> Shard:
        """The shard in which sample ``index`` lies."""
        return self.shards[int(self.columns.shard[index])]

    def to_bytes(self) -> bytes:
        """The image, which ``of_bytes`` takes; without the names of the classes."""
        return bytes(self._parts[0].buffer)

    def sha256(self) -> str:
        """As ``Manifest``; kept, since those of a hundred million samples take seconds."""
        return self._digests[0]

    def counts(self) -> NDArray[np.int64]:
        """As ``Manifest``; kept as well."""
        return np.pad(self._counts, (0, max(0, len(self.classes) - len(self._counts))))

    def part(self, chosen: NDArray[np.bool_]) -> "ShardManifest":
        """As ``Manifest``."""
        return in_memory(self.columns.chosen(np.flatnonzero(chosen)), self.shards, self.folder, self.classes)

    def named(self, classes: tuple[str, ...]) -> "ShardManifest":
        """The same samples, whose classes have these names."""
        return ShardManifest(self._parts[0], self.folder, classes)

    def relabelled(self, numbers: NDArray[np.int64], classes: tuple[str, ...]) -> "ShardManifest":
        """The same samples, each with the label ``numbers[label]``, in a new order of the classes."""
        columns = self.columns._replace(labels=numbers[self.columns.labels])
        return in_memory(columns, self.shards, self.folder, classes)

    def used(self) -> list[Shard]:
        """The shards that hold samples of this manifest, which may be a part."""
        is_used = np.zeros(len(self.shards), np.bool_)
        is_used[self.columns.shard] = True
        return [self.shards[number] for number in np.flatnonzero(is_used).tolist()]

    def problem(self) -> str:
        """What shows that the image is not as it was written; "" if nothing does. Reads all of it."""
        image = self._parts[0]
        with memoryview(image.buffer) as whole:
            begin = _header(image)[1]
            if xxhash.xxh3_64_hexdigest(whole[begin:]) != self._digests[1]:
                return "its checksum is wrong"
        names, starts, labels = self.columns[:3]
        if int(starts[0]) != 0 or int(starts[-1]) != len(names) or not bool((starts[1:] > starts[:-1]).all()):
            return "its names are not one after the other"
        if labels.min(initial=0) < 0 or not np.array_equal(np.bincount(labels), self._counts):
            return "it has other labels than it counts"
        if len(self) and int(self.columns.shard.max()) >= len(self.shards):
            return "it names shards that there are not"
        return ""


def of_bytes(content: bytes, folder: Path, classes: tuple[str, ...]) -> ShardManifest:
    """The inverse of ``ShardManifest.to_bytes``. Raises ValueError for anything else."""
    fd = os.memfd_create("imagenet-ais")
    with open(os.dup(fd), "wb") as file:
        file.write(content or b"\0")
    return ShardManifest(Mapped(fd), folder, classes)


def in_memory(columns: Columns, shards: Sequence[Shard], folder: Path, classes: tuple[str, ...]) -> ShardManifest:
    """A manifest whose image has no file of its own."""
    fd = os.memfd_create("imagenet-ais")
    with open(os.dup(fd), "wb") as file:
        write_image(file, columns, shards)
    return ShardManifest(Mapped(fd), folder, classes)


def write_image(file: IO[bytes], columns: Columns, shards: Sequence[Shard]) -> None:
    """The image of samples in their order."""
    plain = Manifest(*columns[:4], np.zeros(0, np.uint64), ())
    arrays = {name: _narrow(name, column) for name, column in columns._asdict().items()}
    digest = xxhash.xxh3_64()
    for array in arrays.values():
        digest.update(array.data)
        digest.update(_padding(array.nbytes))
    header = json.dumps(
        {
            "arrays": [[name, array.dtype.str, len(array)] for name, array in arrays.items()],
            "shards": shards,
            "counts": np.bincount(columns.labels).tolist(),
            "sha256": plain.sha256(),
            "xxh3": digest.hexdigest(),
        }
    ).encode()
    begin = _MAGIC + len(header).to_bytes(8, "little") + header
    file.write(begin + _padding(len(begin)))
    for array in arrays.values():
        file.write(array.data)
        file.write(_padding(array.nbytes))


def _header(image: Mapped) -> tuple[dict[str, Any], int]:
    """What the header says, and the byte where the arrays begin. Raises ValueError."""
    begin = len(_MAGIC) + 8
    file = io.BytesIO(image.buffer[:begin])
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it is of another version, or something else")
    length = int.from_bytes(file.read(8), "little")
    if length > min(_MOST_HEADER, image.size):
        raise ValueError("it is cut off")
    try:
        header = json.loads(image.buffer[begin : begin + length])
    except RecursionError:
        header = None
    if not isinstance(header, dict):
        raise ValueError("its header is damaged")
    return header, _rounded(begin + length)


def _narrow(name: str, column: NDArray[Any]) -> NDArray[Any]:
    """In the smallest type that holds all values; labels have a sign, as torch's numbers have."""
    most = int(column.max(initial=0))
    if name == "labels":
        kind: Any = np.int16 if most < 1 << 15 else np.int32
    else:
        kind = np.min_scalar_type(most)
    return np.ascontiguousarray(column, kind)


def _rounded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _padding(size: int) -> bytes:
    return bytes(_rounded(size) - size)
