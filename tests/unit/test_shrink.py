"""Photos made smaller."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.shrink import shrink, shrunk_size


def picture(size: tuple[int, int], mode: str = "RGB", kind: str = "JPEG", **options: object) -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"),
    [((500, 375), (341, 256)), ((375, 500), (256, 341)), ((257, 2570), (256, 2560)), ((1000, 1000), (256, 256))],
)
def test_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shrunk_size(*size, 256) == expected
    with Image.open(io.BytesIO(shrink(picture(size), 256, 90))) as image:
        assert (image.size, image.format) == (expected, "JPEG")


def test_what_stays_as_it_is() -> None:
    whole = picture((300, 400))
    for data in (
        picture((256, 900)),
        picture((900, 256), kind="PNG"),
        whole[:-500],
        whole[:100],
        b"17",
        b'["cat", "dog"]',
        b"",
    ):
        assert shrink(data, 256, 90) == data


@pytest.mark.parametrize(
    ("mode", "kind", "expected"),
    [("L", "JPEG", "L"), ("CMYK", "JPEG", "RGB"), ("RGBA", "PNG", "RGB"), ("P", "PNG", "RGB"), ("RGB", "WEBP", "RGB")],
)
def test_modes(mode: str, kind: str, expected: str) -> None:
    with Image.open(io.BytesIO(shrink(picture((400, 300), mode, kind), 128, 90))) as image:
        assert (image.mode, image.format) == (expected, "JPEG")


def test_pixels_are_lanczos_and_exif_does_not_turn_them() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = picture((400, 300), exif=exif)
    with Image.open(io.BytesIO(data)) as image, Image.open(io.BytesIO(shrink(data, 150, 95))) as shrunk:
        expected = image.convert("RGB").resize((200, 300), Image.Resampling.LANCZOS)
        expected = expected.resize((200, 150), Image.Resampling.LANCZOS)
        assert not shrunk.getexif() and not shrunk.info.get("icc_profile")
        difference = np.abs(np.asarray(shrunk, int) - np.asarray(expected, int))
    assert difference.mean() < 2.0


def test_a_lower_quality_is_smaller(photos: list[Path]) -> None:
    data = photos[3].read_bytes()
    sizes = [len(shrink(data, 200, quality)) for quality in (95, 85, 60)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] < len(data)
    assert shrink(data, 200, 85) == shrink(data, 200, 85)
