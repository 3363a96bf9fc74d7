"""Writes the policies' vectors: ``python -m tests.unit.vectors.policies``, only when AUGMENT_VERSION changes.

Everything but the native module is imported as it is, so that another Pillow can be asked, too.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from etl.operations import AUGMENT_VERSION, BILINEAR, NEAREST, Operation, apply
from etl.policies import _NAMES, _NAMES_OF_TIMM, level_of_timm
from etl.sample import operations, random_words, transform
from etl.spec import Key, Spec
from etl.strengths import _SCALES, three_augment, timm_operation, torchvision_operation

HERE = Path(__file__).parent
SIZE = 61
SPECS = {
    "ta_wide": Spec.train(64, augment="ta_wide"),
    "ta_wide bilinear": Spec.train(64, augment="ta_wide", augment_interpolation="bilinear"),
    "ra": Spec.train(64, augment="ra"),
    "ra 10 of 23": Spec.train(48, augment="ra", augment_ops=10, augment_magnitude=23, augment_interpolation="bilinear"),
    "aa": Spec.train(64, augment="aa"),
    "3a jitter": Spec.train(64, augment="3a", jitter=0.3),
    "ra_timm": Spec.train(64, augment="ra_timm", augment_interpolation="bilinear"),
    "ra_timm 6": Spec.train(64, augment="ra_timm", augment_magnitude=6),
    "jitter": Spec.train(64, jitter=0.4),
}


def picture() -> np.ndarray:
    """A gradient under noise: uint8 [61, 61, 3]."""
    noise = np.random.Philox(key=[1, 2]).random_raw(SIZE * SIZE * 3).reshape(SIZE, SIZE, 3) >> np.uint64(58)
    y, x = np.mgrid[:SIZE, :SIZE]
    ramp = np.stack([3 * x, 2 * y + x, 190 - x - 2 * y], axis=2)
    return (noise.astype(np.int64) + ramp).astype(np.uint8)


def named_operations() -> Iterator[tuple[str, Operation]]:
    """Every operation with every strength, by the name of a vector that several of them share."""
    for bits, how in ((NEAREST, "nearest"), (BILINEAR, "bilinear")):
        for policy, scale in _SCALES.items():
            for name in (*_NAMES, "invert"):
                for k in range(scale.last + 1):
                    for sign in (1, -1):
                        operation = torchvision_operation(policy, name, k, sign, SIZE, bits)
                        if operation is not None:
                            yield f"{policy} {name} {how}", operation
        for name in _NAMES_OF_TIMM:
            for part in range(0, 256, 5):
                for sign in (1, -1):
                    yield f"ra_timm {name} {how}", timm_operation(name, level_of_timm(part, 9), sign, SIZE, bits)
    for kind in range(3):
        for k in range(64):
            yield f"3a {kind}", three_augment(kind, k)


def operation_vectors(module: ModuleType | None) -> dict[str, str]:
    """SHA-256 of the pixels by vector, made by ``module`` or by NumPy and Pillow."""
    digests: dict[str, Any] = {}
    before, seen = picture(), set()
    for name, operation in named_operations():
        if (name, operation) in seen:
            continue
        seen.add((name, operation))
        out = before.copy()
        apply(out, [operation], module)
        digests.setdefault(name, hashlib.sha256()).update(out.tobytes())
    return {name: digest.hexdigest() for name, digest in digests.items()}


def sample_vectors() -> dict[str, list[Any]]:
    """By spec: of twelve keys the names of the operations, and the SHA-256 of the sample."""
    data = (HERE / "rgb444.jpg").read_bytes()
    made: dict[str, list[Any]] = {}
    for name, spec in SPECS.items():
        for index in range(12):
            key = Key(4, 2, index)
            drawn = [operation for operation, _ in operations(spec, random_words(key, 65))]
            made.setdefault(name, []).append([drawn, hashlib.sha256(transform(data, spec, key).tobytes()).hexdigest()])
    return made


def vectors() -> dict[str, Any]:
    """All of them, by NumPy and Pillow as far as the operations are concerned."""
    return {"version": AUGMENT_VERSION, "operations": operation_vectors(None), "samples": sample_vectors()}


if __name__ == "__main__":
    (HERE / "policies.json").write_text(json.dumps(vectors(), indent=1) + "\n")
