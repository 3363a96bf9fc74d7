"""A manifest in a bucket, where others may write: whatever is wrong with it, it is said once and made anew."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from aistore_data.bucket.listing import _HASH, read_manifest
from aistore_data.bucket.store import Entry
from sources.errors import ObjectError
from sources.manifest import Manifest

NAMES = [f"train/{folder}/{number}.jpg" for folder in ("ant", "bee") for number in range(5)]


class Bucket:
    """As much of an ``ObjectStore`` as a listing needs, with what is put into it."""

    uri = "ais://b"
    is_cloud = False

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def list(self, prefix: str) -> Iterator[Entry]:
        return iter([Entry(name, 7, name) for name in NAMES])

    def put(self, name: str, content: bytes) -> None:
        self.objects[name] = content

    def get(self, name: str, most: int) -> bytes:
        if name not in self.objects:
            raise ObjectError(404, "does not exist")
        return self.objects[name]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[[Bucket, list[str]], Manifest]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def call(bucket: Bucket, said: list[str]) -> Manifest:
        return read_manifest(bucket, "train/", say=said.append)  # type: ignore[arg-type]

    return call


def members(good: Manifest) -> dict[str, Any]:
    arrays = {name: getattr(good, name) for name in ("names", "offsets", "labels", "sizes", "checksums")}
    return arrays | {"classes": np.frombuffer(json.dumps(list(good.classes)).encode(), np.uint8)}


def classes(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda arrays: arrays | {"classes": np.frombuffer(text, np.uint8)}


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arrays: arrays | {name: change(arrays[name].copy())}


WRONG: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "label-negative": changed("labels", lambda a: a - 1),
    "label-too-large": changed("labels", lambda a: a + 99),
    "label-text": changed("labels", lambda a: a.astype("U3")),
    "label-float": changed("labels", lambda a: a.astype(np.float64)),
    "label-2d": changed("labels", lambda a: a.reshape(-1, 1)),
    "label-big-endian": changed("labels", lambda a: a.astype(">i8")),
    "label-short": changed("labels", lambda a: a[:-1]),
    "labels-swapped": changed("labels", lambda a: 1 - a),
    "offsets-short": changed("offsets", lambda a: a[:-1]),
    "offsets-long": changed("offsets", lambda a: np.append(a, a[-1] + 5)),
    "offsets-beyond": changed("offsets", lambda a: a * 2),
    "offsets-back": changed("offsets", lambda a: a[::-1].copy()),
    "offsets-same": changed("offsets", lambda a: np.zeros_like(a)),
    "offsets-other": changed("offsets", lambda a: np.r_[a[0], a[1] + 1, a[2:]]),
    "names-other": changed("names", lambda a: a[::-1].copy()),
    "names-32-bit": changed("names", lambda a: a.astype(np.int32)),
    "sizes-negative": changed("sizes", lambda a: -a),
    "sizes-other": changed("sizes", lambda a: a + 1),
    "checksums-other": changed("checksums", lambda a: a + 1),
    "checksums-signed": changed("checksums", lambda a: a.astype(np.int64)),
    "objects": changed("labels", lambda a: np.array([{}] * len(a), object)),
    "no-labels": lambda arrays: {name: array for name, array in arrays.items() if name != "labels"},
    "one-more": lambda arrays: arrays | {"more": arrays["labels"]},
    "classes-number": classes(5),
    "classes-nested": classes([[1]]),
    "classes-numbers": classes([1, 2]),
    "classes-twice": classes(["ant", "ant"]),
    "classes-too-few": classes(["ant"]),
    "classes-renamed": classes(["bee", "ant"]),
    "classes-map": classes({"ant": 0, "bee": 1}),
    "classes-no-json": classes(b"["),
    "classes-deep": classes(b"[" * 100_000),
    "bomb": lambda arrays: arrays | {"labels": np.zeros(40_000_000 // 8, np.int64)},
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_manifest_is_made_anew(read: Callable[..., Manifest], kind: str) -> None:
    bucket, said = Bucket(), list[str]()
    good = read(bucket, said)
    path = next(iter(bucket.objects))
    content = bucket.objects[path]
    assert not said and read(bucket, said).labels.tolist() == [0] * 5 + [1] * 5 and not said
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **WRONG[kind](members(good)))
    bucket.objects[path] = content[:_HASH] + buffer.getvalue()
    again = read(bucket, said)
    assert again.labels.tolist() == good.labels.tolist() and again.classes == good.classes
    assert [again.name(index) for index in range(10)] == NAMES and again.sizes.tolist() == [7] * 10
    assert len(said) == 1 and said[0].endswith("made anew") and "\n" not in said[0]
    assert read(bucket, said).sha256() == good.sha256() and len(said) == 1  # the one that was made is kept


def forged(shape: str, descr: str = "<i8", size: int = 80) -> bytes:
    """An npz whose labels claim a shape."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(size)


@pytest.mark.parametrize(
    "labels",
    [
        *(forged("(1000000000000,)"), forged("(-1,)"), forged("(10, 1)"), forged("()"), forged("(10,)", size=79)),
        *(forged("(10,)", "|O"), forged("'x'"), forged("(" * 60), forged("(10,)", size=88), b"", b"\x93NUMPY\x02\x00"),
    ],
)
def test_what_is_no_manifest_is_refused(labels: bytes) -> None:
    good = Manifest.build([(name.encode(), number // 5, 7) for number, name in enumerate(NAMES)], ("ant", "bee"))
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good.to_bytes())) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, labels if name == "labels.npy" else source.read(name))
    with pytest.raises(ValueError, match="labels"):
        Manifest.from_bytes(buffer.getvalue())
