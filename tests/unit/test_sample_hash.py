"""The fingerprints of what makes samples and of what the ETLs run."""

from pathlib import Path

import numpy as np
import pytest

import etl.sample
from etl import code
from training.state import environment as sample_hash

SHA256 = "ed1f2de5279f0fad1cfda7d29538d90c4300654337af81150ecde3cbe515d311"

AUGMENTED = "01c33ec3ee76c2edb9d15a709d85809e3af6f612edef28496efd24d4e7b07686"
"""With the policies."""


def test_what_makes_samples_is_what_it_was() -> None:
    """It is recorded in checkpoints: whoever changes it makes every run of a former version refuse to go on."""
    assert sample_hash.samples_sha256() == SHA256
    assert sample_hash.samples_sha256(True) == AUGMENTED


def test_it_is_the_same_without_the_native_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etl.sample, "native", lambda: None)
    assert sample_hash.samples_sha256.__wrapped__() == SHA256
    assert sample_hash.samples_sha256.__wrapped__(True) == AUGMENTED


def test_other_pixels_are_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = sample_hash.transform
    monkeypatch.setattr(sample_hash, "transform", lambda *arguments: transform(*arguments) ^ np.uint8(1))
    assert sample_hash.samples_sha256.__wrapped__() != SHA256


def test_other_policies_count_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(out: np.ndarray, *arguments: object) -> None:
        out ^= 1

    monkeypatch.setattr(etl.sample, "apply", apply)
    assert sample_hash.samples_sha256.__wrapped__() == SHA256
    assert sample_hash.samples_sha256.__wrapped__(True) != AUGMENTED


def test_the_code_of_the_etls_is_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that is updated under a running process changes nothing of it."""
    before = code.code_sha256()
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"another version")
    assert code.code_sha256() == before
