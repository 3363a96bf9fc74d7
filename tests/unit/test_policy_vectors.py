"""The policies' committed vectors, whoever makes the pixels: NumPy and Pillow, another Pillow, the native module."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from etl import Key, Spec, sample, transform
from etl.operations import _OPERATIONS, AUGMENT_VERSION, BILINEAR, NEAREST, apply
from etl.sample import NATIVE_VARIABLE
from etl.spec import AUGMENTS
from tests.conftest import PROJECT
from tests.unit.vectors.policies import HERE, operation_vectors, picture, sample_vectors, vectors

EXPECTED = json.loads((HERE / "policies.json").read_text())


@pytest.fixture(scope="module")
def native() -> ModuleType:
    module = sample.native()
    if module is None or getattr(module, "AUGMENT_VERSION", 0) != AUGMENT_VERSION:
        pytest.skip("the native module is not built, or older than the policies: make setup")
    return module


def test_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NATIVE_VARIABLE, "0")
    assert vectors() == EXPECTED


def test_vectors_natively(native: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NATIVE_VARIABLE, "1")
    assert operation_vectors(native) == EXPECTED["operations"]
    assert sample_vectors() == EXPECTED["samples"]

    def scalar(name: str) -> Callable[..., None]:
        return lambda out, *arguments: getattr(native, name)(out, *arguments, True)

    plain = SimpleNamespace(AUGMENT_VERSION=AUGMENT_VERSION, **{name: scalar(name) for name in _OPERATIONS})
    assert operation_vectors(plain) == EXPECTED["operations"]  # type: ignore[arg-type]


def test_vectors_under_another_pillow() -> None:
    other = PROJECT / "build" / "pillow-12"
    if not other.is_dir():
        pytest.skip("needs a second Pillow in build/pillow-12: make test puts it there")
    code = "import json, PIL; from tests.unit.vectors.policies import vectors; print(json.dumps([PIL.__version__, vectors()]))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(other), str(PROJECT)]), NATIVE_VARIABLE: "0"}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    version, made = json.loads(process.stdout)
    assert version.startswith("12.") and made == EXPECTED


def test_a_native_module_without_policies_makes_the_crop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data, key = (HERE / "rgb444.jpg").read_bytes(), Key(4, 2, 0)
    spec = Spec.train(64, augment="ta_wide", augment_interpolation="bilinear", jitter=0.3)
    expected = transform(data, spec, key)

    def resample(data: bytes, out: np.ndarray, *arguments: object) -> bool:
        with monkeypatch.context() as patch:
            patch.setenv(NATIVE_VARIABLE, "0")
            out[...] = transform(data, Spec.train(64), key)
        return True

    former = SimpleNamespace(SAMPLE_VERSION=1, REVISION=2, size=lambda data: (323, 241), resample=resample)
    for module in (former, SimpleNamespace(**vars(former), AUGMENT_VERSION=AUGMENT_VERSION + 1)):
        monkeypatch.setitem(sys.modules, "imagenet_ais_native", module)
        monkeypatch.setenv(NATIVE_VARIABLE, "1")
        assert sample.native() is module
        assert np.array_equal(transform(data, spec, key), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, 64, 224])
def test_natively_at_every_size(native: ModuleType, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (HERE / "rgb420.jpg").read_bytes()
    for augment in AUGMENTS:
        for index in range(12):
            spec = Spec.train(size, augment=augment, augment_interpolation="bilinear", jitter=0.4 * (index % 2))
            made = []
            for variable in ("0", "1"):
                monkeypatch.setenv(NATIVE_VARIABLE, variable)
                made.append(transform(data, spec, Key(1, index, size)))
            assert np.array_equal(*made), (augment, index)


def test_any_geometry_natively(native: ModuleType, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(200):
        height, width = rng.integers(1, 40, 2)
        bits = int(rng.choice([NEAREST, BILINEAR]))
        matrix = (rng.normal(0, 1.2, 6) * (1 << bits)).astype(int)
        matrix[2::3] = rng.integers(-10 << bits, 50 << bits, 2)
        if rng.random() < 0.5:  # a row is moved as it is
            matrix[0], matrix[3] = 1 << bits, 0
        if rng.random() < 0.3:  # by whole pixels
            matrix[2::3] = (1 << bits - 1) + (rng.integers(-9, 9, 2) << bits)
        operation = "affine", (tuple(matrix.tolist()), bits, (124, 116, 104))
        expected = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        made = expected.copy()
        apply(made, [operation], native)
        apply(expected, [operation], None)
        assert np.array_equal(made, expected), (height, width, operation)


def test_the_native_source_is_of_this_version() -> None:
    source = (PROJECT / "native/src/augment_module.h").read_text()
    assert re.findall(r"#define AUGMENT_VERSION (\d+)", source) == [str(AUGMENT_VERSION)]


def test_native_operations_refuse_what_is_no_image(native: ModuleType) -> None:
    matrix = (1 << 16, 0, 1 << 15, 0, 1 << 16, 1 << 15)
    for out in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.uint16)):
        with pytest.raises(ValueError, match="uint8"):
            native.equalize(out)
    with pytest.raises((BufferError, ValueError)):
        native.equalize(np.zeros((4, 8, 3), np.uint8)[:, ::2])
    with pytest.raises((BufferError, ValueError)):
        native.equalize(bytes(48))
    image = picture()
    for call in (
        lambda: native.affine(image, matrix, 17, (0, 0, 0)),
        lambda: native.affine(image, (1 << 40, *matrix[1:]), 16, (0, 0, 0)),
        lambda: native.affine(image, matrix, 16, (0, 0, 256)),
        lambda: native.table(image, bytes(255)),
        lambda: native.blur(image, 100.0, 5),
        lambda: native.blur(image, float("nan"), 5),
        lambda: native.blur(image, 0.5, 1 << 25),
    ):
        with pytest.raises(ValueError):
            call()
    before = picture()
    apply(before, [], native)
    assert np.array_equal(before, picture())
