"""One photo: what its header says, whether it can be decoded, and what is odd about it."""

import hashlib
import io
from typing import NamedTuple, Protocol

import numpy as np
import xxhash
from PIL import Image

from etl.sample import CorruptSample, decode, native
from scripts.prepare.checks import is_rotated, odd_header
from sources.notices import collect
from sources.walk import APPLE_DOUBLE

HEAD_BYTES = 1 << 16
"""What is read of a photo's beginning where its header is enough."""

TAIL_BYTES = 64
"""And of its end, where a whole file has its format's last mark."""

THIN = 5
_WHITE = 0.5
"""The share of white pixels from which on a photo of 16 bits counts as washed out."""


class CannotRead(Exception):  # noqa: N818  # an answer
    """A file that the disk or the cluster does not give, in words."""


class Reader(Protocol):
    """Where the photos of a split lie; pickles."""

    def ends(self, name: str, size: int) -> tuple[bytes, bytes]:
        """The first HEAD_BYTES or more of a photo, and its last TAIL_BYTES. Raises CannotRead."""

    def whole(self, name: str) -> bytes:
        """All of a photo. Raises CannotRead."""

    def where(self, name: str) -> str:
        """Return where a photo lies, for messages."""


class Facts(NamedTuple):
    """What is known of a photo.

    ``width`` and ``height`` in pixels, and 0 where no header can be read. ``key`` is the same for equal contents, and
    ``pixels`` for equal pixels; 0 where that is not known. ``found``: pairs of a kind of finding and its words.
    """

    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    key: int = 0
    pixels: int = 0
    found: tuple[tuple[str, str], ...] = ()


class _Header(NamedTuple):
    width: int
    height: int
    format: str
    mode: str
    found: tuple[tuple[str, str], ...]


def look(reader: Reader, name: str, size: int, deep: bool) -> Facts:
    """The facts of a photo of ``size`` bytes; a whole decode with ``deep`` and where a header is suspicious."""
    collect()
    try:
        begin, end = (reader.whole(name), b"") if deep else reader.ends(name, size)
        header = _header(name, begin)
        if header is None and len(begin) < size:  # the header may be longer than what was read
            begin, end = reader.whole(name), b""
            header = _header(name, begin)
        if not deep and header and _ends_whole(header, begin, end or begin[-TAIL_BYTES:], size):
            found, pixels = header.found, 0
        else:
            data = begin if len(begin) >= size else reader.whole(name)
            found, pixels = _decoded(data, header)
            found += (("damaged", "libjpeg warns of it"),) * (deep and pixels > 0 and _is_damaged(data))
    except CannotRead as error:
        return Facts(found=(("unreadable", str(error)),))
    said = tuple(("odd", text) for text in collect())
    width, height, form, mode = header[:4] if header else (0, 0, "", "")
    key = xxhash.xxh3_64_intdigest(begin + end + size.to_bytes(8, "little"))
    return Facts(width, height, form, mode, key, pixels if deep else 0, found + said)


def sums(reader: Reader, name: str, pixels: bool) -> str:
    """SHA-256 of a photo's content, or of its size in pixels and its pixels; "" where it cannot be had."""
    try:
        data = reader.whole(name)
        return hashlib.sha256(_raw(decode(data)) if pixels else data).hexdigest()
    except (CannotRead, CorruptSample):
        return ""  # told where it was looked at


def _raw(image: Image.Image) -> bytes:
    return b"%d x %d " % image.size + image.tobytes()


def _header(name: str, data: bytes) -> _Header | None:
    """What a photo's beginning says; None for what Pillow does not open, whatever the reason: decode() says which."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            animated = image.format != "MPO" and getattr(image, "is_animated", False)
            found = [("format" if " named ." in text else "mode", text) for text in odd_header(name, image)]
            if _bits(image, data) > 8:
                found.append(("16 bits", f"{_bits(image, data)} bits, mode {image.mode}"))
            if animated:
                found.append(("frames", f"{image.format} of {getattr(image, 'n_frames', 2)} pictures"))
            if max(image.size) > THIN * min(image.size):
                found.append(("thin", f"{image.width} x {image.height} pixels"))
            found += _rotation(image)
            return _Header(*image.size, image.format or "", image.mode, tuple(found))
    except Exception:  # as in etl.sample.decode, which is asked next
        return None


def _rotation(image: Image.Image) -> list[tuple[str, str]]:
    if image.format == "PNG" and "exif" not in image.info:
        return []  # getexif() would decode it
    try:
        return [("rotated", "rotated by EXIF, which training ignores")] if is_rotated(image) else []
    except Exception as error:  # as broken as that of a header
        return [("odd", f"its EXIF cannot be read: {error}")]


def _bits(image: Image.Image, data: bytes) -> int:
    """Of a value, as far as the header tells."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (8,))  # type: ignore[attr-defined]
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 16 if image.mode.startswith("I") else 32 if image.mode == "F" else 8


def _ends_whole(header: _Header, begin: bytes, end: bytes, size: int) -> bool:
    """Whether the file has its format's last mark, and no reason to look closer. False for formats that have none."""
    if header.found and any(kind == "16 bits" for kind, _ in header.found):
        return False
    if header.format in ("JPEG", "MPO"):
        return b"\xff\xd9" in end
    if header.format == "PNG":
        return b"IEND" in end
    if header.format == "GIF":
        return end.rstrip(b"\0").endswith(b";")
    if header.format == "WEBP":
        return int.from_bytes(begin[4:8], "little") + 8 <= size
    return False


def _decoded(data: bytes, header: _Header | None) -> tuple[tuple[tuple[str, str], ...], int]:
    """What a whole decode by the trainer's own code finds, with the header's findings, and a sum of the pixels."""
    found = header.found if header else ()
    try:
        image = decode(data)
    except CorruptSample as error:
        return (*found, (_kind_of(data, str(error)), str(error))), 0
    except MemoryError:
        return (*found, ("broken", "a photo that needs more memory than this machine has")), 0
    if any(kind == "16 bits" for kind, _ in found):
        white = image.convert("L").histogram()[255] / (image.width * image.height)
        if white > _WHITE:
            found = (*found, ("washed out", f"{100 * white:.0f} % of its pixels are white"))
    return found, xxhash.xxh3_64_intdigest(_raw(image))


def _is_damaged(data: bytes) -> bool:
    """Whether libjpeg warns of a JPEG that Pillow decodes without a word, as far as the native module can tell."""
    module = native()
    shape = module.size(data) if module is not None and b"\xff\xff" not in data else None
    if module is None or shape is None:
        return False
    out = np.empty((8, 8, 3), np.uint8)
    return not module.resample(data, out, (0, 0, *shape), (8, 8), (0, 0, 8, 8), False, False)


def _kind_of(data: bytes, problem: str) -> str:
    if not data:
        return "empty"
    if data.startswith(APPLE_DOUBLE):
        return "leftover"
    return "cut short" if "truncated" in problem else "broken"
