"""The sample: committed vectors, its distribution, and what it refuses."""

import hashlib
import io
import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from etl import CorruptSample, Key, Spec, transform
from etl.sample import (
    NATIVE_VARIABLE,
    VERSION,
    _exp2_q32,
    _log2_q32,
    horizontal_flip,
    random_resized_crop_box,
    random_words,
    resized_shape,
)

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
        assert abs(_log2_q32(round(value * 2**32)) / 2**32 - math.log2(value)) < 2e-9
    for exponent in (-4.0, -0.415, -1e-9, 0.0, 0.415, 3.99):
        assert _exp2_q32(round(exponent * 2**32)) / 2**32 == pytest.approx(2**exponent, rel=2e-9)


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


def test_the_vector_pictures_are_untouched() -> None:
    from tests.unit.vectors.make import images

    digest = hashlib.sha256(b"".join(path.read_bytes() for path in images().values())).hexdigest()
    assert digest.startswith("6067b243285842fc")
