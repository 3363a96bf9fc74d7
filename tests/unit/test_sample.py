"""The sample: committed vectors, its distribution, and what it refuses."""

import hashlib
import io
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from etl import CorruptSample, Key, Spec, transform
from etl.crop import _LOGARITHMS, _REMEMBERED, center_crop, horizontal_flip, random_resized_crop_box, resized_shape
from etl.fixed_point import exp2_q32, log2_q32
from etl.resize import resize, resize_window
from etl.sample import NATIVE_VARIABLE, random_words
from etl.spec import VERSION
from tests.conftest import PROJECT

VECTORS = Path(__file__).parent / "vectors"
EXPECTED: dict[str, Any] = json.loads((VECTORS / "sample.json").read_text())
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def test_philox_is_the_published_one() -> None:
    # Known answers of Random123's philox4x64-10 for counter and key 0; NumPy counts up before the first block.
    generator = np.random.Philox(key=[0, 0], counter=[2**64 - 1] * 4)
    assert [f"{word:016x}" for word in generator.random_raw(4).tolist()] == [
        "16554d9eca36314c", "db20fe9d672d0fdc", "d7e772cee186176b", "7e68b68aec7ba23b",
    ]  # fmt: skip


def test_words_and_boxes_equal_the_committed_vectors() -> None:
    assert EXPECTED["version"] == VERSION
    for vector in EXPECTED["words"]:
        words = random_words(Key(*vector["key"]))
        assert [f"{word:016x}" for word in words[:9]] == vector["words"]
        assert horizontal_flip(words) == vector["flip"]
    for vector in EXPECTED["boxes"]:
        box = random_resized_crop_box(*vector["size"], SCALE, RATIO, random_words(Key(*vector["key"])))
        assert list(box) == vector["box"], vector


@pytest.mark.parametrize("variable", ["0", "1"], ids=["pillow", "native"])  # the latter where it is built
@pytest.mark.parametrize("vector", EXPECTED["samples"], ids=lambda v: f"{v['image']}-{v['spec']['recipe']}")
def test_samples_equal_the_committed_vectors(
    vector: dict[str, Any], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NATIVE_VARIABLE, variable)
    spec = Spec(**{k: tuple(v) if isinstance(v, list) else v for k, v in vector["spec"].items()})
    sample = transform((VECTORS / vector["image"]).read_bytes(), spec, Key(*vector["key"]))
    assert sample.shape == (spec.size, spec.size, 3)
    assert sample.dtype == np.uint8
    assert sample.flags.c_contiguous and sample.flags.writeable
    assert hashlib.sha256(sample.tobytes()).hexdigest() == vector["sha256"]


def test_fixed_point_logarithm_and_power_are_close_to_the_real_ones() -> None:
    for value in (1 / 16, 0.3, 0.75, 1.0, 4 / 3, 2.0, 15.9):
        assert abs(log2_q32(round(value * 2**32)) / 2**32 - math.log2(value)) < 2e-9
    for exponent in (-4.0, -0.415, -1e-9, 0.0, 0.415, 3.99):
        assert exp2_q32(round(exponent * 2**32)) / 2**32 == pytest.approx(2**exponent, rel=2e-9)


def test_boxes_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    image = torch.empty(3, 375, 500)
    count = 4000
    theirs = np.array([RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(count)])
    ours = np.array([random_resized_crop_box(500, 375, SCALE, RATIO, random_words(Key(5, 0, i))) for i in range(count)])
    for column in range(4):  # two-sample Kolmogorov-Smirnov statistic; 0.0436 is its 0.1 % quantile for 2 x 4,000
        values = np.sort(np.concatenate([theirs[:, column], ours[:, column]]))
        cdf = [np.searchsorted(np.sort(x[:, column]), values, side="right") / count for x in (theirs, ours)]
        assert np.abs(cdf[0] - cdf[1]).max() < 0.0436
    assert abs(np.mean([horizontal_flip(random_words(Key(5, 0, i))) for i in range(count)]) - 0.5) < 0.026


def test_no_crop_fits_falls_back_to_the_central_one() -> None:
    wide = random_resized_crop_box(1000, 3, (0.9, 1.0), RATIO, random_words(Key(0, 0, 0)))
    assert wide == (0, 498, 3, 4)
    tall = random_resized_crop_box(3, 1000, (0.9, 1.0), RATIO, random_words(Key(0, 0, 0)))
    assert tall == (498, 0, 4, 3)


def test_every_part_of_the_key_matters() -> None:
    data = (VECTORS / "rgb444.jpg").read_bytes()
    keys = [Key(0, 0, 0), Key(1, 0, 0), Key(0, 1, 0), Key(0, 0, 1), Key(0, 0, 0, 1)]
    assert len({transform(data, Spec.train(), key).tobytes() for key in keys}) == len(keys)


def test_resize_rounds_as_torchvision() -> None:
    from torchvision.transforms.functional import _compute_resized_output_size

    for width, height in [(500, 375), (375, 500), (333, 500), (1, 999), (640, 427), (256, 256)]:
        theirs = _compute_resized_output_size((height, width), [256])
        assert resized_shape(width, height, 256) == (theirs[1], theirs[0])


@pytest.mark.parametrize(
    "data",
    [b"", b"GIF89a", b"this is a text, not a photo", (VECTORS / "rgb444.jpg").read_bytes()[:5000]],
    ids=["empty", "header-only", "text", "truncated"],
)
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptSample, match="image") as caught:
        transform(data, Spec.val())
    assert "BytesIO" not in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (CorruptSample, str(caught.value))


def test_modes_become_rgb_as_in_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets.folder import pil_loader

    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16"):
        image = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)) if mode == "I;16" else None
        image = image or Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3))
        path = tmp_path / f"{mode.replace(';', '')}.tif"
        (image if mode == "I;16" else image.convert(mode)).save(path)
        ours = transform(path.read_bytes(), Spec.val(64, 64))
        assert np.array_equal(ours, np.asarray(pil_loader(str(path)))), mode


def test_exif_orientation_is_ignored() -> None:
    image = Image.new("RGB", (64, 64))
    image.paste((255, 0, 0), (0, 0, 64, 32))
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert transform(buffer.getvalue(), Spec.val(64, 64))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Spec.train(0),
        lambda: Spec.train(scale=(0.5, 0.1)),
        lambda: Spec.train(scale=(0.0, 1.0)),
        lambda: Spec.train(ratio=(0.0, 1.0)),
        lambda: Spec.train(interpolation="nearest"),  # type: ignore[arg-type]
        lambda: Spec.val(size=256, resize=224),
        lambda: Spec("test", 224),  # type: ignore[arg-type]
        lambda: Key(-1, 0, 0),
        lambda: Key(0, 0, 1.5),  # type: ignore[arg-type]
        lambda: Key(0, 2**63, 0),
        lambda: transform(b"", Spec.train()),
    ],
)
def test_specs_and_keys_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises(ValueError):
        make()


HUGE = 10**5000


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Spec.train(scale=(0.08, 10**400)),
            "scale must be two numbers that a float can hold, not .0.08, 10000",
        ),
        (lambda: Spec.train(ratio=(10**400, 10**400)), "ratio must be two numbers that a float can hold"),
        (
            lambda: Spec.train(scale=(HUGE, 1.0)),
            "scale must be two numbers that a float can hold, not a number of thou",
        ),
        (lambda: Spec.train(scale=(math.nan, 1.0)), "scale must be two shares .* not .nan, 1.0."),
        (lambda: Spec.train(scale=(0.1, math.inf)), "scale must be two shares .* not .0.1, inf."),
        (lambda: Spec.train(scale=(-0.1, 1.0)), "scale must be two shares"),
        (lambda: Spec.train(ratio=(4 / 3, 3 / 4)), "ratio must be width / height"),
        (lambda: Spec.train(ratio=(math.nan, math.nan)), "ratio must be width / height"),
        (lambda: Spec.train(ratio=(5e-324, 1.0)), "ratio must be width / height"),
        (lambda: Spec.train(scale=(0.1,)), "scale must be two numbers, low and high, not .0.1,."),  # type: ignore[arg-type]
        (lambda: Spec.train(scale=(0.1, 0.2, 0.3)), "scale must be two numbers"),  # type: ignore[arg-type]
        (lambda: Spec.train(scale="12"), "scale must be two numbers, low and high, not '12'"),  # type: ignore[arg-type]
        (lambda: Spec.train(scale=None), "scale must be two numbers"),  # type: ignore[arg-type]
        (lambda: Spec.train(scale=(True, True)), "scale must be two numbers"),
        (lambda: Spec.train(ratio=("a", 1)), "ratio must be two numbers"),  # type: ignore[arg-type]
        (lambda: Spec("train", 224, scale=(HUGE, 1), ratio=(1, 1)), "scale must be two numbers"),
        (lambda: Spec.train(224.5), "size must be a whole number of pixels, not 224.5"),  # type: ignore[arg-type]
        (lambda: Spec.train(True), "size must be a whole number of pixels, not True"),
        (lambda: Spec.train("224"), "size must be a whole number of pixels, not '224'"),  # type: ignore[arg-type]
        (lambda: Spec.train(HUGE), "size must be from 1 to 4096 pixels, not a number of thousands of digits"),
        (lambda: Spec.val(4097), "size must be from 1 to 4096 pixels, not 4097"),
        (lambda: Spec.val(224, 8193), "resize must be from size .224. to 8192 pixels, not 8193"),
        (lambda: Spec.val(224, math.inf), "resize must be a whole number"),  # type: ignore[arg-type]
        (lambda: Spec.val(224, HUGE), "resize must be from size"),
        (lambda: Spec.val(interpolation=[]), "interpolation must be one of"),  # type: ignore[arg-type]
        (lambda: Spec([], 224), "recipe must be train or val"),  # type: ignore[arg-type]
        (lambda: Spec("val", 224, 256, version=HUGE), "this code makes samples of version 1"),
        (lambda: Key(HUGE, 0, 0), "Key.seed must be an integer from 0 to 2..63 - 1, not a number of thousands of dig"),
        (lambda: Key(0, 0, 2**63), "Key.index must be an integer from 0 to 2..63 - 1, not 9223372036854775808"),
        (lambda: Key(0, 0, 0, -1), "Key.view must be"),
        (lambda: Key(0, True, 0), "Key.epoch must be"),
    ],
)
def test_an_absurd_value_is_named_in_a_sentence(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_the_smallest_crops_that_a_spec_allows_are_made() -> None:
    for scale in ((5e-324, 5e-324), (1e-9, 1e-9), (1.0, 1.0)):
        for ratio in ((1 / 16, 1 / 16), (16.0, 16.0)):
            spec = Spec.train(8, scale=scale, ratio=ratio)
            assert transform((VECTORS / "rgb444.jpg").read_bytes(), spec, Key(2**63 - 1, 2**63 - 1, 2**63 - 1)).any()


def test_logarithms_of_many_ratios_are_not_kept() -> None:
    words = random_words(Key(0, 0, 0))
    first = random_resized_crop_box(100, 100, SCALE, RATIO, words)
    for number in range(3 * _REMEMBERED):
        random_resized_crop_box(100, 100, SCALE, (0.5, 1 + number / 1000), words)
        assert len(_LOGARITHMS) <= _REMEMBERED
    assert random_resized_crop_box(100, 100, SCALE, RATIO, words) == first


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.long)], ids=["some", "many"])
def test_a_window_alone_has_the_bytes_of_pillows_two_passes(interpolation: Any, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        width, height = np.exp(rng.uniform(0, 5.5, 2)).astype(int).tolist()
        size = int(rng.integers(1, 60))
        spec = Spec.val(size, size + int(rng.integers(0, 40)), interpolation)
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        full = resized_shape(width, height, spec.resize)
        for whole, start in ((full, center_crop(*full, size)), ((size, size), (0, 0))):
            ours, pillows = (
                make(image, whole, start, spec.size, spec.interpolation) for make in (resize_window, resize)
            )
            assert ours.tobytes() == pillows.tobytes(), (image.size, whole, start, spec)


STRIPS = """
import io, resource, sys
from PIL import Image
from etl import Key, Spec, transform
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for shape in ((1, 65500), (65500, 1), (1, 800_000), (2_000_000, 1), (65500, 7)):
    image = Image.linear_gradient("L").resize(shape)
    for kind in ("PNG", "JPEG") if max(shape) <= 65500 else ("PNG",):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        for spec in (Spec.val(), Spec.val(64, 1000, "bicubic"), Spec.train(64)):
            pixels = transform(buffer.getvalue(), spec, Key(0, 0, 0))
            assert pixels.shape == (spec.size, spec.size, 3) and pixels.max() > 100, (shape, kind, spec)
"""


def test_strips_take_no_gigabyte() -> None:
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", STRIPS], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_vector_pictures_are_untouched() -> None:
    from tests.unit.vectors.make import images

    digest = hashlib.sha256(b"".join(path.read_bytes() for path in images().values())).hexdigest()
    assert digest.startswith("6067b243285842fc")


@pytest.mark.parametrize("spec", [Spec.train(32), Spec.val(32, 40)])
@pytest.mark.parametrize("kind", ["rgb420", "progressive"])
def test_a_sample_is_made_in_given_memory(spec: Spec, kind: str) -> None:
    data, key = (VECTORS / f"{kind}.jpg").read_bytes(), Key(1, 2, 3)
    rows = np.full((3, 32, 32, 3), 7, np.uint8)
    made = transform(data, spec, key, rows[1])
    assert np.shares_memory(made, rows) and np.array_equal(rows[1], transform(data, spec, key))
    assert (rows[[0, 2]] == 7).all()
    for wrong in (rows, rows[0, :31], rows[0].astype(np.int8), np.zeros((32, 32, 6), np.uint8)[..., ::2]):
        with pytest.raises(ValueError, match="out must be uint8"):
            transform(data, spec, key, wrong)
