"""Weights from a file that any program wrote: read without running code that the file may name.

``torch.load(weights_only=True)`` comes first. Many programs put their arguments beside the weights, which it refuses;
then a second reader takes the tensors and leaves everything else as an ``Inert`` object, which does nothing. A file of
safetensors has a reader of its own.
"""

import json
import math
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch

from sources.errors import ConfigError
from sources.text import visible
from training.run_dir.torch_files import damage, is_archive

_MAX_HEADER = 100_000_000
"""Bytes of the JSON of a safetensors file, as the format has it."""

_SAFETENSORS = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    "BOOL": torch.bool,
}


class Inert:
    """Stands for an object of a class that is not imported. It takes whatever the file does to it and does nothing."""

    named = ""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __setitem__(self, _: object, __: object) -> None:
        pass

    def __getattr__(self, _: str) -> "Inert":
        """``append``, ``add``, ``__setstate__`` and whatever else is called of it."""
        return self

    def __call__(self, *_: object, **__: object) -> "Inert":
        """Accept any call that a pickle makes, and do nothing."""
        return self


# Functions of our own around torch's, so that a file cannot set attributes of torch's.
_KNOWN: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    "_codecs.encode": lambda text, *_: text.encode("latin-1"),
    "torch._utils._rebuild_tensor": lambda *a: torch._utils._rebuild_tensor(*a),  # type: ignore[no-untyped-call]
    "torch._utils._rebuild_tensor_v2": lambda *a: torch._utils._rebuild_tensor_v2(*a),  # type: ignore[no-untyped-call]
    "torch._utils._rebuild_tensor_v3": lambda *a: torch._utils._rebuild_tensor_v3(*a),  # type: ignore[no-untyped-call]
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
}


class _TensorUnpickler(pickle.Unpickler):
    """Imports nothing: what is not in ``_KNOWN`` becomes a class of ``Inert`` objects."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _KNOWN:
            return _KNOWN[full]
        dtype = getattr(torch, name, None) if module == "torch" else None
        return dtype if isinstance(dtype, torch.dtype) else type("Inert", (Inert,), {"named": full})


_TENSORS_ALONE = SimpleNamespace(
    __name__="tensors alone",
    Unpickler=_TensorUnpickler,
    load=lambda file, **options: _TensorUnpickler(file, **options).load(),
)


def read_file(path: Path) -> Any:
    """What ``torch.save`` or safetensors wrote into a file, tensors on the CPU. Raises ConfigError with a sentence."""
    problem = _what_else(path)
    if problem:
        raise ConfigError(f"model.weights={path} {problem}")
    try:
        if is_safetensors(path):
            return read_safetensors(path)
        if is_archive(path) and (found := damage(path)):
            raise ValueError(found)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storage classes and pickle protocols
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_TENSORS_ALONE)
    except Exception as error:  # whatever zip and pickle readers raise for files of others
        reason = visible((str(error).strip().splitlines() or [""])[0])[:200]
        advice_of_torch = "weights_only" in reason or "torch.load" in reason
        raise ConfigError(
            f"model.weights={path} is cut off, damaged, or no file of weights ({path.stat().st_size:,} bytes): compare "
            "its size and hash with the original's, and copy or download it again. "
            f"({type(error).__name__}{'' if advice_of_torch or not reason else f': {reason}'})"
        ) from None


def _what_else(path: Path) -> str:
    """The end of a sentence for a file that is no file of weights, or one of a kind that is not read; else empty."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        return f"cannot be read: {error.strerror}."
    start = head.lstrip().lower()
    if not head:
        return "is an empty file: copy or download it again."
    if head.startswith(b"version https://git-lfs"):
        return "is a pointer of git-lfs, not the file itself: run git lfs pull in its checkout."
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a page of a web site, as a download leaves that was refused: download the file itself."
    if head.startswith(b"\x89HDF"):
        return "is a file of HDF5, as Keras writes: weights of torch are needed, torch.save(model.state_dict(), PATH)."
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "is compressed: unpack it first."
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it and give the file of weights in it."
    if head.startswith(b"PK"):
        return _what_else_in_zip(path)
    if len(start) > 8 and not is_safetensors(path) and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "is a text file, not weights that torch.save or safetensors wrote."
    return ""


def _what_else_in_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return ""  # torch's reader says what is wrong with it
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "is a program of TorchScript, which is not run: in the program that wrote it, save the weights alone with "
            "torch.save(model.state_dict(), PATH)."
        )
    if not any(name.endswith("data.pkl") for name in names):
        return "is a zip archive, but none that torch.save wrote: unpack it and give the file of weights in it."
    return ""


def is_safetensors(path: Path) -> bool:
    """Whether a file is named so or begins so. Raises OSError."""
    with open(path, "rb") as file:
        head = file.read(9)
    named = path.suffix == ".safetensors"
    return named or (head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= _MAX_HEADER)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file: eight bytes of length, JSON, data. Raises ValueError for one that is not well-formed."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        header, start = _header(file, size)
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            dtype, shape, begin, end = _entry(name, entry, size - start)
            file.seek(start + begin)
            data = bytearray(file.read(end - begin))
            flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            tensors[name] = flat.reshape(shape)  # raises where the file has become shorter
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The texts that a file of safetensors holds beside its tensors. Raises ValueError as ``read_safetensors``."""
    with open(path, "rb") as file:
        found = _header(file, path.stat().st_size)[0].get("__metadata__", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("its metadata are not texts")
    return found


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The JSON that a file of ``size`` bytes begins with, and where the data begin. Raises ValueError."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_MAX_HEADER, size - 8):
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
    header = json.loads(file.read(length).decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    return header, 8 + length


def _entry(name: str, entry: Any, available: int) -> tuple[torch.dtype, list[int], int, int]:
    """(dtype, shape, first byte, end) of a tensor in the header, checked against the ``available`` bytes of data."""
    try:
        dtype, shape, (begin, end) = _SAFETENSORS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        whole = isinstance(shape, list) and all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        if whole and begin <= end <= available and math.prod(shape) * dtype.itemsize == end - begin:
            return dtype, shape, begin, end
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError(f"{name} is {entry}, which is not a tensor within {available:,} bytes of data")
