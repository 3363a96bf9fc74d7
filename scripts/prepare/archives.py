"""ImageNet's own archives: the tar of tars with the training photos, the tar with the validation photos, the devkit.

The photos are found by the tars' headers, which are 512 bytes for each, and read later where they lie.
"""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO, NamedTuple

from aistore_data.upload.items import Photo, Split
from sources.errors import ConfigError, DataError, UserError
from sources.manifest import IMG_EXTENSIONS
from sources.progress_bar import Progress
from sources.shards.members import DAMAGED, Headers

IDS_SHA256 = "930a31901625f2149f8bab016254025ad225daf9efafa3f00011daf6f5f919f9"
"""The SHA-256 of the classes in the order of the devkit's numbers, one in a line."""

GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"

DEVKIT_BYTES = 64 << 20
"""The most bytes of the unpacked devkit: ImageNet's has 3 MB."""


@contextmanager
def reading(path: str | Path, kind: type[UserError] = ConfigError) -> Iterator[None]:
    """Raises ``kind``, in the system's words, for a file that cannot be read."""
    try:
        yield
    except OSError as error:
        raise kind(f"{path} cannot be read: {error.strerror}.") from None


class Slice(NamedTuple):
    """Bytes within an archive that is not compressed."""

    path: str
    offset: int
    size: int
    unit: None = None

    def read(self) -> bytes:
        """Return the bytes of the member. Raises DataError."""
        with reading(self.path, DataError), open(self.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), self.size, self.offset)
        if len(data) < self.size:
            raise cut_short(self.path)
        return data


def cut_short(path: str) -> DataError:
    """The error for an archive without its end."""
    return DataError(f"{path} is cut short: it ends in the middle of a file. Download or copy it again.")


def index_archives(train: str, val: str, devkit: str) -> list[Split]:
    """Both splits, by headers alone. Raises DataError for archives that are damaged or do not belong together."""
    labels = read_devkit(devkit)
    with Progress("photos found") as progress:
        photos = list(_training_photos(train, progress))
        val_photos = [(name, place) for name, place in _members(val) if _is_photo(name)]
        progress.add(len(val_photos))
    classes = tuple(sorted({wnid for wnid, _, _ in photos}))
    numbers = {wnid: number for number, wnid in enumerate(classes)}
    if len(val_photos) != len(labels):
        raise DataError(
            f"{val} holds {len(val_photos):,} photos and {devkit} {len(labels):,} labels: they do not belong together."
        )
    # The devkit numbers the validation photos in the order of their names.
    wnid_of = dict(zip(sorted(name for name, _ in val_photos), labels, strict=True))
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise DataError(
            f"{devkit} names the class {unknown[0]}, which {train} does not have: they do not belong together."
        )
    found = {"train/": photos, "val/": [(wnid_of[name], name, place) for name, place in val_photos]}
    return [
        Split(prefix, classes, [Photo(f"{wnid}/{name}", numbers[wnid], at.size, at) for wnid, name, at in some])
        for prefix, some in found.items()
    ]


def _training_photos(path: str, progress: Progress) -> Iterator[tuple[str, str, Slice]]:
    """(wnid, file name, place) of each photo of a tar that holds a tar for each class."""
    for name, whole in _members(path):
        wnid, _, kind = name.rpartition(".")
        if kind != "tar" or not wnid:
            raise DataError(f"{path} holds {name}: it must hold a tar for each class, like n01440764.tar, alone.")
        count = 0
        for photo, place in _members(path, whole.offset, whole.offset + whole.size):
            if _is_photo(photo):
                yield wnid, photo, place
                count += 1
        if count == 0:
            raise DataError(f"{name} in {path} holds no photos.")
        progress.add(count)


def _members(path: str, start: int = 0, end: int | None = None) -> Iterator[tuple[str, Slice]]:
    """(file name, place) of the files of the tar that ``path`` holds from ``start`` to ``end``."""
    try:
        with reading(path), Headers(path) as file:
            whole = os.fstat(file.fileno()).st_size
            if end is not None and end > whole:
                raise cut_short(path)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # headers lie 100 KB apart
            file.seek(start)
            yield from _read_members(path, file, whole if end is None else end)
    except DAMAGED as error:
        if "unexpected end of data" in str(error):
            raise cut_short(path) from None
        raise DataError(f"{path} is not a tar, or a damaged one: {error}.") from None


def _read_members(path: str, file: BinaryIO, end: int) -> Iterator[tuple[str, Slice]]:
    with tarfile.open(fileobj=file, mode="r:", errorlevel=2) as tar:
        for member in tar:
            if member.size < 0 or member.issparse():
                raise tarfile.ReadError(f"{member.name!r} is of a kind that this command does not read")
            if member.offset_data + member.size > end:
                raise cut_short(path)
            if member.isreg():
                yield os.path.basename(member.name), Slice(path, member.offset_data, member.size)
            tar.members = []  # type: ignore[attr-defined]  # else it remembers all of them
        file.seek(tar.offset)
        if len(file.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:  # a whole tar ends with blocks of zeros
            raise cut_short(path)


def _is_photo(name: str) -> bool:
    """Whether a member is one; what macOS's tar keeps beside a photo has its name after ``._``."""
    return name.lower().endswith(IMG_EXTENSIONS) and not name.startswith("._")


def read_devkit(path: str | Path) -> list[str]:
    """The wnids of the validation photos in the order of their names; of the archive, or the folder that it unpacks to.

    Raises DataError for what is no devkit, ConfigError for what cannot be read.
    """
    try:
        if Path(path).is_dir():
            return devkit_labels((Path(path) / GROUND_TRUTH).read_bytes())
        with gzip.open(path) as packed:
            content = packed.read(DEVKIT_BYTES + 1)
        if len(content) > DEVKIT_BYTES:
            raise ValueError(f"it unpacks to more than {DEVKIT_BYTES:,} bytes, and ImageNet's to 3 million")
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                if not 0 <= member.size <= len(content) or member.issparse():
                    raise ValueError(f"{member.name!r} is larger than the archive")
                if member.name.endswith(f"/{GROUND_TRUTH}") and (file := tar.extractfile(member)):
                    return devkit_labels(file.read())
    except (gzip.BadGzipFile, *DAMAGED) as error:
        raise DataError(f"{path} cannot be read as ImageNet's devkit: {error}. Download it again.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    raise DataError(f"{path} has no {GROUND_TRUTH}: it is not ILSVRC2012_devkit_t12.tar.gz.")


def devkit_labels(ground_truth: bytes) -> list[str]:
    """As ``read_devkit``, of its file. Raises ValueError."""
    wnids = wnids_by_id()
    numbers = [int(line) for line in ground_truth.split()]
    if wrong := [number for number in numbers if not 0 < number < len(wnids)]:
        raise ValueError(f"it has the label {wrong[0]}, and ImageNet's labels are 1 to {len(wnids) - 1:,}")
    return [wnids[number] for number in numbers]


def wnids_by_id() -> list[str]:
    """The class of each of the devkit's numbers, which begin with 1: the first item is an empty text.

    1 is the class n02119789, a kit fox. ``ilsvrc2012_ids.txt`` holds for each number, from 1 to 1,000, the place of its
    class among the sorted ones, from 1 as well. It agrees with the names of all 50,000 validation photos as torch7's
    examples sort them into folders, and with two lists that others have read from the devkit's meta.mat.
    """
    wnids = (files("training.model") / "imagenet_wnids.txt").read_text(encoding="ascii").split()
    places = Path(__file__).with_name("ilsvrc2012_ids.txt").read_text(encoding="ascii").split()
    classes = [wnids[int(place) - 1] for place in places]
    assert hashlib.sha256("\n".join(classes).encode()).hexdigest() == IDS_SHA256, "the table of classes was altered"
    return ["", *classes]


def kind_of(path: Path) -> str:
    """``train``, ``val`` or ``devkit``: what an archive is by its first member; "" if it is none of these."""
    with reading(path), open(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            return "devkit"
    try:
        first = next((name for name, _ in _members(str(path))), "")
    except DataError:
        return ""
    return "train" if first.endswith(".tar") else "val" if _is_photo(first) else ""
