"""The index of a JPEG: with it and without it the same bytes, and of another file it is not used."""

import io
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from etl import sample
from native.fuzz.mutate import turned

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "grey")
BOXES = [(0, 0, 203, 187), (60, 70, 120, 110), (190, 180, 13, 7), (0, 120, 50, 60), (101, 3, 40, 150)]


@pytest.fixture(scope="module")
def native() -> ModuleType:
    module = sample.native()
    if module is None or not hasattr(module, "make_index"):
        pytest.skip("imagenet_ais_native is not built, or older than its source: make setup")
    return module


def jpeg(sampling: str, **options: object) -> bytes:
    width, height = (187, 203) if sampling == "4:4:0" else (203, 187)
    blobs = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8))
    picture = blobs.resize((width, height)).convert("L" if sampling == "grey" else "RGB")
    if sampling != "grey":
        options["subsampling"] = "4:2:2" if sampling == "4:4:0" else sampling
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=93, **options)
    return turned(buffer.getvalue()) if sampling == "4:4:0" else buffer.getvalue()


def both(
    native: ModuleType, data: bytes, index: bytes | None, box: tuple[int, ...], step: int = 0, scalar: bool = False
) -> tuple[str, object]:
    """(fault, made) of a sample, whose bytes are those without an index."""
    expected, out = np.zeros((2, 32, 32, 3), np.uint8)
    arguments = box, (32, 32), (0, 0, 32, 32), False, True
    done = native.resample(data, expected, *arguments)
    found, fault, made = native.resample_indexed(data, out, *arguments, index, step, scalar)
    assert found == done
    assert not done or np.array_equal(out, expected)
    return fault, made


@pytest.mark.parametrize("restarts", [0, 5])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_with_and_without_an_index_the_bytes_are_the_same(native: ModuleType, sampling: str, restarts: int) -> None:
    data = jpeg(sampling, restart_marker_blocks=restarts)
    for step in (1, 3, 16, 1000):
        index = native.make_index(data, step)
        for box in BOXES:
            for scalar in (False, True):
                assert both(native, data, index, box, scalar=scalar) == ("", None)
            assert both(native, data, None, box, step) == ("missing", index)


def test_an_index_that_is_not_of_the_file_is_not_used(native: ModuleType) -> None:
    data, other = jpeg("4:2:0"), jpeg("4:4:4")
    index = native.make_index(data)
    assert both(native, other, index, BOXES[1], 16) == ("of another file", native.make_index(other))
    for length in (0, 3, 41):
        assert both(native, data, index[:length], BOXES[1])[0] == "cut short"
    assert both(native, data, index[:-1], BOXES[1])[0] == "damaged"
    assert both(native, data, b"jix\2" + index[4:], BOXES[1])[0] == "of another version, or no index"
    for at in range(4, len(index), 7):
        changed = index[:at] + bytes([index[at] ^ 16]) + index[at + 1 :]
        assert both(native, data, changed, BOXES[1])[0] == "damaged"


def test_damage_above_the_crop_makes_an_index_useless(native: ModuleType) -> None:
    data = jpeg("4:2:0")
    index, scan = native.make_index(data), data.index(b"\xff\xda") + 14
    for at in range(scan, len(data) - 2, 97):
        changed = data[:at] + bytes([data[at] ^ 8]) + data[at + 1 :]
        assert both(native, changed, index, (0, 150, 203, 37))[0] in ("of another file", "damaged")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"GIF89a" + data, "no baseline JPEG that the decoder takes"),
        (lambda data: data[:-2], "damaged, or ends in an unusual way"),
        (lambda data: data[:-400] + b"\xff\xd9", "damaged, or ends in an unusual way"),
        (lambda data: data[:-2] + bytes(9) + b"\xff\xd9", "damaged, or ends in an unusual way"),
    ],
)
def test_only_a_sound_file_gets_an_index(native: ModuleType, change: object, reason: str) -> None:
    assert native.make_index(change(jpeg("4:2:0"))) == reason  # type: ignore[operator]


def test_the_hash_is_xxh64(native: ModuleType) -> None:
    assert native.content_hash(b"") == 0xEF46DB3751D8E999
    assert native.content_hash(b"abc") == 0x44BC2CF5AD770999
    assert native.content_hash(b"Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1
