"""The native module: bytes equal to Pillow's, or a clear "not mine"; never other pixels, never a crash."""

import io
import itertools
import os
import pickle
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import cloudpickle
import numpy as np
import pytest
from PIL import Image

import etl
from etl import CorruptSample, Key, Spec, sample, transform
from etl.request import info
from native.fuzz import mutate
from tests.conftest import PROJECT

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "grey")
SPECS = [Spec.train(), Spec.val(), Spec.train(96, interpolation="bicubic"), Spec.val(100, 110, "bicubic")]


@pytest.fixture(scope="module")
def native() -> ModuleType:
    module = sample.native()
    if module is None:
        pytest.skip(
            "imagenet_ais_native is not built, or older than its source: make setup, or IMAGENET_AIS_NATIVE is 0"
        )
    return module


def by_pillow(call: Callable[..., Any], *arguments: Any) -> Any:
    with patch.dict(os.environ, {sample.NATIVE_VARIABLE: "0"}):
        return call(*arguments)


def outcome(*arguments: Any) -> Any:
    """The sample's bytes, or the refusal's type and words."""
    try:
        return transform(*arguments).tobytes()
    except CorruptSample as error:
        return type(error), str(error)


def natively(data: bytes, spec: Spec, key: Key) -> np.ndarray | None:
    out = np.empty((spec.size, spec.size, 3), np.uint8)
    return out if sample._transform_natively(data, spec, sample.random_words(key), out) else None


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse blobs and some noise, so that every pixel and both chroma channels differ from their neighbours'."""
    rng = np.random.default_rng([seed, width, height])
    blobs = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(blobs) + noise, 0, 255).astype(np.uint8))


def encode(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def jpeg(width: int, height: int, sampling: str = "4:2:0", **options: Any) -> bytes:
    """Pillow writes no 4:4:0: a 4:2:2 file with its two lengths and sampling factors exchanged has as many blocks."""
    if sampling == "grey":
        return encode(picture(width, height).convert("L"), **options)
    if sampling != "4:4:0":
        return encode(picture(width, height), subsampling=sampling, **options)
    data = encode(picture(height, width), subsampling="4:2:2", **options)
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + data[at + 2 : at + 4] + data[at : at + 2] + data[at + 4 :].replace(b"\x21", b"\x12", 1)


def changed(data: bytes, marker: int, offset: int, value: int) -> bytes:
    """One byte of the segment of ``marker``, counted from the marker's first byte."""
    at = data.index(bytes([0xFF, marker])) + offset
    return data[:at] + bytes([value]) + data[at + 1 :]


def segment(marker: int, body: bytes, data: bytes | None = None) -> bytes:
    """A photo with one more segment after its first, which is JFIF's without a density."""
    data = data or jpeg(30, 20)
    return data[:20] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + data[20:]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.recipe}-{spec.interpolation}")
@pytest.mark.parametrize("step", [20, pytest.param(1, marks=pytest.mark.long)], ids=["some", "all"])
def test_real_photos_are_made_natively_and_equal(
    native: ModuleType, photos: list[Path], spec: Spec, step: int, seed: int
) -> None:
    for index in range(seed % step, len(photos), step):
        data = photos[index].read_bytes()
        key = Key(seed, 3, index)
        ours = natively(data, spec, key)
        assert ours is not None, photos[index].name
        assert np.array_equal(ours, by_pillow(transform, data, spec, key)), photos[index].name


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("heights", [2, pytest.param(40, marks=pytest.mark.long)], ids=["some", "all"])
def test_photos_of_every_small_size(native: ModuleType, sampling: str, heights: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for width in range(1, 41):
        for height in rng.permutation(np.arange(1, 41))[:heights].tolist():
            data = jpeg(width, height, sampling, restart_marker_blocks=width % 4, quality=90)
            key = Key(seed, width, height)
            for spec in (Spec.train(24), Spec.val(20, 28), Spec.train(9, interpolation="bicubic")):
                ours = natively(data, spec, key)
                assert ours is not None, (width, height)
                assert np.array_equal(ours, by_pillow(transform, data, spec, key)), (width, height, spec)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_crop_has_the_pixels_of_a_full_decode(native: ModuleType, sampling: str) -> None:
    width, height = 69, 51
    data = jpeg(width, height, sampling, quality=95)
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    columns = [(a, b, 20, 27) for a, b in itertools.combinations(range(width + 1), 2)]
    rows = [(30, 37, a, b) for a, b in itertools.combinations(range(height + 1), 2)]
    for left, right, top, bottom in columns + rows:
        length = (right - left, bottom - top)
        out = np.empty((length[1], length[0], 3), np.uint8)
        assert native.resample(data, out, (left, top, *length), length, (0, 0, *length), False, False)
        assert np.array_equal(out, whole[top:bottom, left:right]), (left, right, top, bottom)


@pytest.mark.parametrize("bicubic", [False, True])
@pytest.mark.parametrize("sampling", ["4:2:0", "grey"])
def test_vector_instructions_change_nothing(native: ModuleType, sampling: str, bicubic: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = jpeg(300, 200, sampling)
    for _ in range(60):
        box = (*rng.integers(0, 90, 2).tolist(), *rng.integers(1, 110, 2).tolist())
        full = tuple(rng.integers(1, 200, 2).tolist())
        window = (full[0] // 3, full[1] // 3, full[0] - full[0] // 3, full[1] - full[1] // 3)
        fast, plain = (np.empty((window[3], window[2], 3), np.uint8) for _ in range(2))
        for out, scalar in ((fast, False), (plain, True)):
            assert native.resample(data, out, box, full, window, bicubic, True, scalar)
        assert np.array_equal(fast, plain), (box, full)


def test_a_photo_of_which_little_is_left(native: ModuleType) -> None:
    data = jpeg(3000, 40)  # 150 pixels make one: the taps at the edge reach past the row
    for spec in (Spec.train(20, scale=(1.0, 1.0), ratio=(1 / 16, 16.0)), Spec.val(20, 20)):
        ours = natively(data, spec, Key(0, 0, 0))
        assert ours is not None and np.array_equal(ours, by_pillow(transform, data, spec, Key(0, 0, 0)))


PLAIN = jpeg(30, 20)
FRAME = PLAIN[PLAIN.index(b"\xff\xc0") :][:19]
EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\0"
OTHERS = {
    "nothing": b"",
    "png": b"\x89PNG\r\n\x1a\n",
    "progressive": jpeg(30, 20, progressive=True),
    "cmyk": encode(picture(30, 20).convert("CMYK")),
    "rgb": encode(picture(30, 20), keep_rgb=True),
    "4:1:1": changed(PLAIN, 0xC0, 11, 0x41),
    "grey 2x2": changed(jpeg(30, 20, "grey"), 0xC0, 11, 0x22),
    "12 bits": changed(PLAIN, 0xC0, 4, 12),
    "lossless": changed(PLAIN, 0xC0, 1, 0xC3),
    "arithmetic": changed(PLAIN, 0xC0, 1, 0xC9),
    "no rows": changed(PLAIN, 0xC0, 6, 0),
    "65,300 columns": changed(PLAIN, 0xC0, 7, 255),
    "bomb": changed(changed(PLAIN, 0xC0, 7, 255), 0xC0, 5, 255),
    "two frames": PLAIN.replace(FRAME, FRAME * 2),
    "several pictures": segment(0xE2, b"MPF\0" + bytes(20)),
    "exif that Pillow parses": segment(0xE1, EXIF),
    "short profile": segment(0xE2, b"ICC_PROFILE\0"),
    "short JFIF": segment(0xE0, b"JFIF"),
    "Photoshop past its end": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0\0\0\0\0\x10\0"),
    "Photoshop cut in a name": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "no end": PLAIN[:-2],
    "half": PLAIN[: len(PLAIN) // 2],
    "a table in the scan": PLAIN[:-2] + b"\xff\xdb\0\x03\0\xff\xd9",
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_left_to_pillow(native: ModuleType, name: str) -> None:
    data = OTHERS[name]
    for key in (Key(0, 0, index) for index in range(4)):
        assert natively(data, Spec.train(24), key) is None
        assert outcome(data, Spec.train(24), key) == by_pillow(outcome, data, Spec.train(24), key)


def test_a_decompression_bomb_is_refused_with_its_size(native: ModuleType) -> None:
    with pytest.raises(CorruptSample, match="4264743000 pixels"):
        transform(OTHERS["bomb"], Spec.val())


@pytest.mark.parametrize(
    "data",
    [
        segment(0xE1, EXIF, encode(picture(30, 20), dpi=(72, 72))),
        segment(0xE2, b"ICC_PROFILE\0\x01\x01profile"),
        segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x03abc\0"),
        segment(0xEE, b"Adobe\0\x64\0\0\0\0\x01"),
        segment(0xFE, b"a comment"),
        PLAIN + b"more after the end",
        jpeg(30, 20, restart_marker_blocks=1),
        jpeg(30, 20, optimize=True),
    ],
    ids=["exif", "profile", "Photoshop", "Adobe", "comment", "trailing bytes", "restart markers", "optimised"],
)
def test_what_real_photos_carry_is_handled(native: ModuleType, data: bytes) -> None:
    ours = natively(data, Spec.train(24), Key(0, 0, 0))
    assert ours is not None and np.array_equal(ours, by_pillow(transform, data, Spec.train(24), Key(0, 0, 0)))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.long)], ids=["some", "many"])
def test_damaged_bytes_have_the_same_answer_as_by_pillow(native: ModuleType, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    originals = [jpeg(int(rng.integers(8, 90)), 60, s, restart_marker_blocks=r) for s in SAMPLINGS for r in (0, 2)]
    handled = 0
    for number in range(count):
        data = bytearray(originals[number % len(originals)])
        begin = 2 if rng.random() < 0.3 else data.index(b"\xff\xda") + 14
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(begin, len(data)))] = int(rng.choice([0, 0xFF, 0xD0, 0xD9, rng.integers(256)]))
        if rng.random() < 0.2:
            del data[int(rng.integers(begin, len(data))) :]
        key = Key(seed, 0, number)
        handled += natively(bytes(data), Spec.train(24), key) is not None
        assert outcome(bytes(data), Spec.train(24), key) == by_pillow(outcome, bytes(data), Spec.train(24), key), number
    assert count / 20 < handled < count  # both ways were taken


def test_the_source_has_the_versions_that_the_sample_asks_for() -> None:
    source = (PROJECT / "native/src/module.c").read_text()
    assert re.findall(r"#define (SAMPLE_VERSION|REVISION) (\d+)", source) == [
        ("SAMPLE_VERSION", str(sample.VERSION)),
        ("REVISION", str(sample._NATIVE_REVISION)),
    ]


@pytest.mark.parametrize("count", [3000, pytest.param(60_000, marks=pytest.mark.long)], ids=["some", "many"])
def test_mutated_photos_have_pillows_bytes(native: ModuleType, count: int, seed: int) -> None:
    result = mutate.run(mutate.small_files([], seed), count, seed)
    assert [what for _, what, _ in result.differences] == []
    assert result.answered["all"] > count / 10 and result.files["fill_stuffed"] > count / 10


def test_fill_bytes_in_the_scan_are_left_to_pillow(native: ModuleType) -> None:
    data = encode(picture(160, 120), quality=95, restart_marker_blocks=20)
    scan = mutate.take_apart(data).scan
    for at, pair in ((scan.index(b"\xff\0"), "stuffed zero"), (scan.index(b"\xff\xd1"), "restart"), (-2, "end")):
        filled = data[: len(data) - len(scan)] + scan[:at] + b"\xff" + scan[at:]
        assert native.size(filled) == (160, 120)
        assert natively(filled, Spec.val(48, 56), Key(0, 0, 0)) is None, pair
    after = data + b"more after the end, \xff\xff\0, of all kinds"
    assert natively(after, Spec.val(48, 56), Key(0, 0, 0)) is not None


def test_a_fill_byte_anywhere_is_found(native: ModuleType) -> None:
    data = encode(picture(160, 120), quality=95)  # several of the blocks in which the scan is searched
    start = len(data) - len(mutate.take_apart(data).scan)
    for at in range(start, len(data) - 1, 7):
        filled = data[:at] + b"\xff\xff" + data[at + 2 :]
        assert natively(filled, Spec.val(8, 8), Key(0, 0, 0)) is None, at


def test_threads_do_not_meet(native: ModuleType) -> None:
    data = [jpeg(200 + i, 150, SAMPLINGS[i % 5]) for i in range(16)]
    calls = [(data[i % 16], SPECS[i % 4], Key(0, 0, i)) for i in range(128)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda call: transform(*call), calls))
    for made, call in zip(together, calls, strict=True):
        assert np.array_equal(made, by_pillow(transform, *call))


OWN, LIBJPEG = 1, 2  # resample()'s decoders


def whole_by(native: ModuleType, data: bytes, decoders: int, scalar: bool = False) -> np.ndarray | None:
    """All pixels of a photo, by one of the module's two decoders."""
    size = native.size(data)
    out = np.empty((size[1], size[0], 3), np.uint8)
    return (
        out if native.resample(data, out, (0, 0, *size), size, (0, 0, *size), False, False, scalar, decoders) else None
    )


def noise(width: int, height: int, contrast: int, seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(128 - contrast, 128 + contrast, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("step", [50, pytest.param(1, marks=pytest.mark.long)], ids=["some", "all"])
def test_our_own_decoder_takes_real_photos(
    native: ModuleType, photos: list[Path], scalar: bool, step: int, seed: int
) -> None:
    left = []  # two of the thousand have blocks of which platforms may make different things
    for path in photos[seed % step :: step]:
        made = whole_by(native, path.read_bytes(), OWN, scalar)
        if made is None:
            left.append(path.name)
        else:
            assert np.array_equal(made, np.asarray(Image.open(path).convert("RGB"))), path.name
    assert len(left) <= 2, left


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("count", [40, pytest.param(4000, marks=pytest.mark.long)], ids=["some", "many"])
def test_our_own_decoder_has_pillows_pixels(native: ModuleType, sampling: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(count):
        width, height = rng.integers(1, 8 if number % 4 == 0 else 70, 2).tolist()
        options = {
            "quality": int(rng.choice([5, 30, 75, 95, 100])),
            "restart_marker_blocks": int(rng.choice([0, 0, 1, 3])),
            "optimize": bool(rng.integers(2)),
        }
        data = jpeg(width, height, sampling, **options)
        whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        left, top = int(rng.integers(width)), int(rng.integers(height))
        box = (left, top, int(rng.integers(width - left)) + 1, int(rng.integers(height - top)) + 1)
        for scalar in (False, True):
            made = whole_by(native, data, OWN, scalar)
            assert made is not None and np.array_equal(made, whole), (width, height, options)
            out = np.empty((box[3], box[2], 3), np.uint8)
            assert native.resample(data, out, box, box[2:], (0, 0, *box[2:]), False, False, scalar, OWN)
            assert np.array_equal(out, whole[top : top + box[3], left : left + box[2]]), (width, height, box, options)


def test_blocks_that_end_without_a_code_for_their_end(native: ModuleType, seed: int) -> None:
    """Noise at quality 100: the last coefficient is often not 0, and then the next code is the next block's."""
    for sampling in (0, 2):
        data = encode(noise(120, 90, 90, seed), quality=100, subsampling=sampling, optimize=True)
        for decoders in (OWN, LIBJPEG)[: 2 if native.LIBJPEG_TURBO else 1]:
            made = whole_by(native, data, decoders)
            assert made is not None and np.array_equal(made, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def with_table(data: bytes, index: int, change: Callable[[bytearray], None]) -> bytes:
    """The file with a change of the body of its DHT segment number ``index``."""
    at = [at for at in range(len(data)) if data.startswith(b"\xff\xc4", at)][index]
    body = bytearray(data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")])
    change(body)
    return data[: at + 4] + bytes(body) + data[at + 4 + len(body) :]


def all_ones(body: bytearray) -> None:
    body[1:17] = bytes([2, *[0] * 13, 0, len(body) - 19])


PLAIN_444 = encode(picture(64, 48), subsampling=0, quality=100)
REFUSED_BY_LIBJPEG = {
    "a DC code beyond 15, which nothing uses": with_table(PLAIN_444, 2, lambda body: body.__setitem__(28, 0xDD)),
    "a code of ones": with_table(PLAIN_444, 0, all_ones),
    "no quantization table": PLAIN_444.replace(b"\xff\xdb", b"\xff\xfe"),
}
LEFT_TO_LIBJPEG = {
    "coefficients of which vectors make something else": encode(
        Image.fromarray(np.uint8(255) * (np.random.default_rng(0).random((40, 40)) < 0.5)), quality=100
    ),
    "other marks of the colours": changed(PLAIN_444[:2] + PLAIN_444[20:], 0xC0, 10, 7).replace(
        b"\xff\xda\0\x0c\x03\1", b"\xff\xda\0\x0c\x03\7"
    ),
    "no Huffman tables, which stands for the usual ones": PLAIN_444.replace(b"\xff\xc4", b"\xff\xfe"),
    "a restart marker below the crop": PLAIN_444[:-2] + b"\xff\xd0\xff\xd9",
}


@pytest.mark.parametrize("name", REFUSED_BY_LIBJPEG)
def test_tables_that_libjpeg_refuses_are_refused(native: ModuleType, name: str) -> None:
    data = REFUSED_BY_LIBJPEG[name]
    assert native.size(data) == (64, 48)
    assert whole_by(native, data, OWN) is None and whole_by(native, data, LIBJPEG) is None
    assert outcome(data, Spec.val(24), Key(0, 0, 0)) == by_pillow(outcome, data, Spec.val(24), Key(0, 0, 0))
    assert outcome(data, Spec.val(24), Key(0, 0, 0))[0] is CorruptSample


@pytest.mark.parametrize("name", LEFT_TO_LIBJPEG)
def test_what_our_own_decoder_leaves_to_libjpeg(native: ModuleType, name: str) -> None:
    data = LEFT_TO_LIBJPEG[name]
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert whole_by(native, data, OWN) is None and whole_by(native, data, OWN, True) is None
    by_libjpeg = whole_by(native, data, LIBJPEG)
    assert by_libjpeg is None if not native.LIBJPEG_TURBO else np.array_equal(by_libjpeg, whole)


@pytest.mark.long
def test_a_compiler_alone_makes_the_module(native: ModuleType, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("no C compiler, or no headers of Python")
    sources = sorted(map(str, (PROJECT / "native/src").glob("*.c")))
    flags = [
        "-std=c11",
        "-O0",
        "-ffp-contract=off",
        "-fPIC",
        "-shared",
        '-DVERSION="0"',
        f"-I{sysconfig.get_path('include')}",
    ]
    subprocess.run([compiler, *flags, *sources, "-lm", "-o", tmp_path / "imagenet_ais_native.so"], check=True)
    there = (
        "import sys, imagenet_ais_native as n; from etl import Key, Spec, sample, transform; assert sample.native() is n\n"
        "assert n.LIBJPEG_TURBO == '' and n.__file__.startswith(sys.argv[1])\n"
        "data, out = sys.stdin.buffer.read(), bytearray(64 * 48 * 3)\n"
        "assert n.resample(data, out, (0, 0, 64, 48), (64, 48), (0, 0, 64, 48), False, False)\n"
        "sys.stdout.buffer.write(transform(data, Spec.train(24), Key(0, 0, 1)).tobytes())"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT}"}
    command = [sys.executable, "-c", there, tmp_path]
    made = subprocess.run(command, input=PLAIN_444, capture_output=True, env=environment, cwd=PROJECT)
    assert made.stdout == by_pillow(transform, PLAIN_444, Spec.train(24), Key(0, 0, 1)).tobytes(), made.stderr.decode()


GOOD = {"box": (0, 0, 30, 20), "full": (8, 8), "window": (0, 0, 8, 8)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"box": (0, 0, 31, 20)}, "box is not inside the photo of 30 x 20"),
        ({"box": (-1, 0, 9, 9)}, "box is not inside"),
        ({"box": (0, 0, 0, 5)}, "box is not inside"),
        ({"full": (7, 8)}, "window is not inside full"),
        ({"window": (0, 0, 7, 8)}, "out must have 168 bytes, not 192"),
        ({"full": (70000, 8), "window": (0, 0, 70000, 8)}, "window may have 65500"),
        ({"box": (2**31 - 1, 0, 2**31 - 1, 5)}, "box is not inside"),
    ],
)
def test_rectangles_that_do_not_fit_are_refused(native: ModuleType, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        native.resample(PLAIN, np.empty((8, 8, 3), np.uint8), *(GOOD | change).values(), False, False)


def test_out_must_be_writable_and_contiguous(native: ModuleType) -> None:
    for out in (bytes(192), np.empty((8, 16, 3), np.uint8)[:, ::2]):
        with pytest.raises((TypeError, BufferError, ValueError)):
            native.resample(PLAIN, out, *GOOD.values(), False, False)


def test_it_is_used_unless_it_is_turned_off_or_of_another_version(
    native: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert info()["native"] is True
    assert by_pillow(info)["native"] is False
    for other in (
        SimpleNamespace(SAMPLE_VERSION=sample.VERSION + 1, REVISION=native.REVISION),
        SimpleNamespace(SAMPLE_VERSION=sample.VERSION, REVISION=native.REVISION - 1),
        SimpleNamespace(SAMPLE_VERSION=sample.VERSION),
    ):
        monkeypatch.setitem(sys.modules, "imagenet_ais_native", other)  # type: ignore[arg-type]
        assert sample.native() is None
    monkeypatch.setitem(sys.modules, "imagenet_ais_native", None)  # type: ignore[arg-type]  # not installed
    assert sample.native() is None
    assert transform(PLAIN, Spec.val(24, 24)).shape == (24, 24, 3)


def test_the_code_travels_to_where_the_module_is_absent() -> None:
    sample.native()
    cloudpickle.register_pickle_by_value(etl)
    try:
        call = cloudpickle.dumps((transform, Spec.train(24), Key(0, 0, 1)))
    finally:
        cloudpickle.unregister_pickle_by_value(etl)
    there = (
        "import sys; sys.modules['imagenet_ais_native'] = sys.modules['etl'] = None\n"
        "import pickle; (transform, spec, key), data = pickle.load(sys.stdin.buffer), sys.stdin.buffer.read()\n"
        "sys.stdout.buffer.write(transform(data, spec, key).tobytes())"
    )
    made = subprocess.run([sys.executable, "-c", there], input=call + PLAIN, capture_output=True, cwd=PROJECT)
    assert made.stdout == by_pillow(transform, PLAIN, *pickle.loads(call)[1:]).tobytes(), made.stderr.decode()
