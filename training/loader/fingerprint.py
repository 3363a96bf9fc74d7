"""The stream of samples that a model consumed, as one number for an epoch and two bytes for each sample.

A sample's hash is SHA-256 over its position in the epoch, its index and its label (int64, little-endian) and, where it
is taken, its pixels (uint8 HWC): the first 16 bytes as a little-endian integer. An epoch's fingerprint is the sum of
these integers modulo 2**128. A sum does not care how the samples were spread over processes or when the run was
interrupted, and it is all that a checkpoint has to hold. The last two bytes of each hash are the sample's code, which
tells where two runs part; 0 stands for a sample that is not known.
"""

import hashlib
import struct

import numpy as np
import torch

from sources.batch import Batch
from training.processes.collectives import gather_objects, gather_on_main

PIXELS_OF_ONE_IN = {"off": 0, "sampled": 16, "full": 1}
"""How often the pixels are part of a sample's hash: where the position is a multiple of this. 0: no hashes at all."""

_HEAD = struct.Struct("<qqq")


class SampleFingerprint:
    """Collects the hashes of the samples that one process consumed."""

    def __init__(self, mode: str) -> None:
        self._one_in = PIXELS_OF_ONE_IN[mode]
        self.enabled = self._one_in > 0
        """Whether there will be a fingerprint."""
        self._total = 0
        self._codes: list[int] = []

    def add(self, batch: Batch) -> None:
        """Hash the samples of a batch that lies in CPU memory."""
        if not self.enabled:
            return
        pixels = batch.images.numpy()
        columns = zip(batch.positions, batch.indices.tolist(), batch.labels.tolist(), strict=True)
        for row, (position, index, label) in enumerate(columns):
            digest = hashlib.sha256(_HEAD.pack(position, index, label))
            if position % self._one_in == 0:
                digest.update(pixels[row])
            value = int.from_bytes(digest.digest()[:16], "little")
            self._total += value
            self._codes.append((value & 0xFFFF) or 1)

    def take(self) -> tuple[int, torch.Tensor]:
        """(sum of the hashes, their codes uint8 [samples, 2]) since the last call."""
        codes = torch.from_numpy(np.array(self._codes, "<u2").view(np.uint8).reshape(-1, 2))
        total, self._total, self._codes = self._total % (1 << 128), 0, []
        return total, codes


def total_over_ranks(total: int) -> int:
    """The sum of an integer over all processes, modulo 2**128."""
    return sum(gather_objects(total)) % (1 << 128)


def codes_in_order(codes: torch.Tensor, share: int) -> torch.Tensor | None:
    """On rank 0 the codes of all processes in the order of the stream, uint8 [samples, 2]; None elsewhere.

    ``share``: samples of a global batch that a process has.
    """
    parts = gather_on_main(codes)
    return None if parts is None else torch.stack([part.view(-1, share, 2) for part in parts], 1).view(-1, 2)


def format_fingerprint(total: int) -> str:
    """An epoch's fingerprint as 32 hexadecimal digits."""
    return f"{total:032x}"
