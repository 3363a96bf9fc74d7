"""NumPy's npz from a place that others may write to: the arrays that are expected, bounded, and nothing else."""

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00([\x00-\xff]{2})"
    rb"(\{'descr': '([<>|=][a-zA-Z]\d{1,3})', 'fortran_order': False, 'shape': \((\d{1,12}),\), \} *\n)"
)
"""Before the values of a one-dimensional array, in format 1.0: its own length, their type, how many there are."""


def read_npz(content: bytes, types: Mapping[str, type], most: int) -> dict[str, NDArray[Any]]:
    """The one-dimensional arrays of ``types``, by their names, which together unpack to ``most`` bytes at most.

    Raises ValueError for anything else, before it is unpacked.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sorted(member.filename for member in members) != sorted(f"{name}.npy" for name in types):
                raise ValueError(f"it does not hold {', '.join(types)}, each once")
            if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
                raise ValueError("it is packed in an unusual way")
            if sum(member.file_size for member in members) > most:
                raise ValueError(f"it unpacks to more than {most:,} bytes")
            return {name: _array(archive.read(f"{name}.npy"), name, kind) for name, kind in types.items()}
    except (OSError, EOFError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"it is damaged: {error}") from None


def _array(data: bytes, name: str, kind: type) -> NDArray[Any]:
    dtype = np.dtype(kind)
    match = _HEADER.match(data)
    if match is None or int.from_bytes(match[1], "little") != len(match[2]):
        raise ValueError(f"{name} is no list as NumPy writes it")
    if match[3].decode() != dtype.str:
        raise ValueError(f"{name} is of type {match[3].decode()}, not {dtype.str}")
    if int(match[4]) * dtype.itemsize != len(data) - match.end():
        raise ValueError(f"{name} has not the {int(match[4]):,} values that it claims")
    return np.frombuffer(data, dtype, offset=match.end()).copy()
