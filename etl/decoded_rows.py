"""How the rows of a decoded photo lie on a disk, each with a check.

A row is RGB, padded by zeros to 8 bytes, and 8 bytes of check. That begins with the photo's seed and the row's place,
so a row of another photo, or of another place, has another one.
"""

from typing import NamedTuple

import numpy as np


class Photo(NamedTuple):
    """Where a photo lies, its size in pixels, and what the checks of its rows begin with."""

    offset: int
    width: int
    height: int
    seed: int

    @classmethod
    def of(cls, key: bytes, offset: int, width: int, height: int) -> "Photo":
        """The photo of a key of 16 bytes; the seed depends on key and size, so that no other photo has its checks."""
        own = int.from_bytes(key[8:], "little")
        return cls(offset, width, height, (own + (width << 48) + (height << 32)) % (1 << 64))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row with its check."""
        return row_bytes(self.width)


def row_bytes(width: int) -> int:
    """Bytes of a row of ``width`` pixels with its check."""
    return 8 * (-(-3 * width // 8) + 1)


def packed(pixels: np.ndarray, seed: int) -> np.ndarray:
    """The rows of a photo, uint8 [height, width, 3], with their checks: uint64 [height, words]."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, row_bytes(width) // 8), "<u8")
    rows.view(np.uint8)[:, : 3 * width] = pixels.reshape(height, 3 * width)
    rows[:, -1] = _checks(rows, seed)
    return rows


def unpacked(rows: memoryview, photo: Photo) -> np.ndarray | None:
    """All pixels of a photo from all its rows, uint8 [height, width, 3]; None where one is damaged."""
    words = np.frombuffer(rows, "<u8").reshape(photo.height, -1)
    if not np.array_equal(words[:, -1], _checks(words, photo.seed)):
        return None
    return words.view(np.uint8)[:, : 3 * photo.width].reshape(photo.height, photo.width, 3)


def _checks(rows: np.ndarray, seed: int) -> np.ndarray:
    """Of each row: the sum of its words, and the sum of all partial sums, as ``native/src/kept.c`` adds them up."""
    content, count = rows[:, :-1], rows.shape[1] - 1
    seeds = np.arange(len(rows), dtype=np.uint64) + np.array(seed, np.uint64)
    total = seeds + content.sum(1, dtype=np.uint64)
    sums = seeds * np.uint64(count) + content @ np.arange(count, 0, -1, dtype=np.uint64)
    checks: np.ndarray = total ^ (sums << np.uint64(32) | sums >> np.uint64(32))
    return checks
