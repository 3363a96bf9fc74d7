"""The fingerprint of a stream: what it notices, and what it does not depend on."""

import hashlib
import struct

import numpy as np
import pytest
import torch

from sources.batch import Batch, Counts
from training.loader.fingerprint import SampleFingerprint, codes_in_order, format_fingerprint, total_over_ranks


def batch(order: list[int], seed: int = 0, begin: int = 0) -> Batch:
    """Samples whose pixels and labels depend on their index alone."""
    images = [np.random.default_rng([seed, index]).integers(0, 256, (6, 6, 3), np.uint8) for index in order]
    labels = torch.tensor([index % 3 for index in order])
    counts, positions = Counts(local=len(order)), range(begin, begin + len(order))
    return Batch(torch.from_numpy(np.stack(images)), labels, torch.tensor(order), counts, positions=positions)


def take(mode: str, order: list[int], begin: int = 0) -> tuple[int, list[list[int]]]:
    stream = SampleFingerprint(mode)
    stream.add(batch(order, begin=begin))
    total, codes = stream.take()
    return total, codes.tolist()


ORDER = [5, 3, 8, 1, 0, 7, 2, 6]


def test_the_sum_is_as_documented() -> None:
    pixels, labels = batch(ORDER).images.numpy(), batch(ORDER).labels.tolist()
    expected, codes = 0, []
    for position, (index, label) in enumerate(zip(ORDER, labels, strict=True), 12):
        content = struct.pack("<qqq", position, index, label) + (
            pixels[position - 12].tobytes() if position == 16 else b""
        )
        digest = hashlib.sha256(content).digest()[:16]
        expected += int.from_bytes(digest, "little")
        codes.append(list(digest[:2]))
    assert take("sampled", ORDER, 12) == (expected % 2**128, codes)
    assert len(format_fingerprint(expected % 2**128)) == 32


def test_it_does_not_depend_on_how_samples_are_spread() -> None:
    whole, codes = take("full", ORDER)
    parts = [take("full", ORDER[begin : begin + 2], begin) for begin in (4, 0, 6, 2)]
    assert sum(total for total, _ in parts) % 2**128 == whole
    assert [code for begin in (1, 3, 0, 2) for code in parts[begin][1]] == codes
    assert total_over_ranks(whole) == whole
    in_order = codes_in_order(torch.tensor(codes, dtype=torch.uint8), 4)
    assert in_order is not None and in_order.tolist() == codes


@pytest.mark.parametrize("mode", ["sampled", "full"])
def test_order_index_label_and_pixels_count(mode: str) -> None:
    expected, _ = take(mode, ORDER)
    swapped = [ORDER[1], ORDER[0], *ORDER[2:]]
    assert take(mode, swapped)[0] != expected
    for row, noticed in ((0, True), (1, mode == "full")):
        for field in ("pixels", "label", "index"):
            changed, stream = batch(ORDER), SampleFingerprint(mode)
            tensor = {"pixels": changed.images[row, 2, 2], "label": changed.labels[row], "index": changed.indices[row]}[
                field
            ]
            tensor += 1
            stream.add(changed)
            assert (stream.take()[0] != expected) == (noticed or field != "pixels")


def test_off_costs_nothing() -> None:
    stream = SampleFingerprint("off")
    stream.add(batch([1, 2]))
    assert not stream.enabled
    assert stream.take()[0] == 0


def test_a_code_is_never_that_of_the_unknown() -> None:
    stream = SampleFingerprint("sampled")
    images = torch.zeros((20000, 1, 1, 3), dtype=torch.uint8)
    numbers = torch.arange(1, 20001)
    for begin in range(0, 200000, 20000):
        stream.add(Batch(images, numbers, numbers, Counts(), positions=range(begin, begin + 20000)))
    assert stream.take()[1].any(1).all()
