"""The table of ImageNet's classes by the devkit's numbers."""

import hashlib

import pytest

from scripts.prepare import archives, checks
from scripts.prepare.archives import devkit_labels


def test_each_class_has_one_number() -> None:
    wnids = archives.wnids_by_id()
    assert len(wnids) == 1001 and wnids[0] == ""
    assert hashlib.sha256("\n".join(sorted(wnids[1:])).encode()).hexdigest() == checks.CLASSES_SHA256


def test_numbers_of_the_first_and_last_validation_photos() -> None:
    """ILSVRC2012_val_00000001.JPEG to 00000005 and 00049996 to 00050000."""
    first = ["n01751748", "n09193705", "n02105855", "n04263257", "n03125729"]
    last = ["n02123394", "n01630670", "n02106166", "n10148035", "n02437616"]
    assert devkit_labels(b"490\n361\n171\n822\n297\n") == first
    assert devkit_labels(b"10\n495\n128\n848\n186\n") == last


@pytest.mark.parametrize("number", [-1, 0, 1001])
def test_a_number_that_no_class_has(number: int) -> None:
    with pytest.raises(ValueError, match=f"it has the label {number}, and ImageNet's labels are 1 to 1,000"):
        devkit_labels(f"1\n{number}\n2\n".encode())


def test_an_altered_table_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "IDS_SHA256", "0")
    with pytest.raises(AssertionError, match="the table of classes was altered"):
        archives.wnids_by_id()
