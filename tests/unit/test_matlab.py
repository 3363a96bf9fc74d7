"""The devkit's meta.mat, as far as it is read. The file is scipy's (see ``tests.support.downloads``)."""

import struct
import zlib

import pytest

from scripts.prepare.matlab import read_synsets
from tests.support.downloads import BY_ID, META


def unpacked() -> bytes:
    """The same file without compression: what MATLAB's ``save -v6`` would write."""
    data, at, whole = META.read_bytes(), 128, b""
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert kind == 15
        whole += zlib.decompress(data[at + 8 : at + 8 + size])
        at += 8 + size
    return data[:128] + whole


def test_leaves_by_id() -> None:
    expected = dict(enumerate(BY_ID, 1))
    assert read_synsets(META.read_bytes()) == expected
    assert read_synsets(unpacked()) == expected


def test_what_is_no_such_file() -> None:
    data = unpacked()
    for wrong, message in (
        (b"", "no little-endian MAT file"),
        (data[:126] + b"MI" + data[128:], "no little-endian MAT file"),
        (data[:128], "no variable 'synsets'"),
        (data[:-100], "cut short"),
        (META.read_bytes()[:-100], "cut short"),
        (data.replace(b"num_children", b"num_chicken_"), "num_children"),
    ):
        with pytest.raises(ValueError, match=message):
            read_synsets(wrong)
