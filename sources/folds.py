"""Which samples of one folder are held out for the validation: those whose names have certain hashes.

A sample's hash is BLAKE2b of its name below the folder of the classes (bytewise, with ``/``), of which the first 8
bytes are a number from 0 to 2**64 - 1, the most significant first. Nothing else decides: no seed, no order, no other
file. So a sample stays where it is when others are added or removed.
"""

import hashlib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sources.errors import ConfigError
from sources.manifest import Manifest

_WHOLE = 1 << 64


@dataclass(frozen=True)
class HeldOut:
    """A share of the samples, or fold K of N as the text K/N; the names are those of the options."""

    val_split: float = 0.0
    fold: str = ""

    def __bool__(self) -> bool:
        return self.val_split > 0 or self.fold != ""

    def __str__(self) -> str:
        return f"data.fold={self.fold}" if self.fold else f"data.val_split={self.val_split:g}"

    @property
    def hashes(self) -> tuple[int, int]:
        """The first hash of the validation, and the first one behind it. Raises ConfigError.

        The N folds are N ranges, one after the other; a share is the beginning of the first.
        """
        if not self.fold:
            return 0, round(self.val_split * _WHOLE)
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", self.fold)
        number, of = (int(match[1]), int(match[2])) if match else (0, 0)
        if not (of >= 2 and number < of):
            raise ConfigError(
                f"data.fold takes K/N, such as 0/5 to 4/5 for the five folds of N = 5, and not {self.fold!r}."
            )
        return number * _WHOLE // of, (number + 1) * _WHOLE // of

    def check(self) -> None:
        """Raise ConfigError for what contradicts itself."""
        if self.val_split and self.fold:
            raise ConfigError(
                f"data.val_split={self.val_split:g} and data.fold={self.fold} exclude each other: data.fold=0/N holds "
                "out one sample in N already."
            )
        assert self.hashes

    def parts(
        self, whole: Manifest, where: str, say: Callable[[str], None], with_train: bool = True, skip: int = 0
    ) -> tuple[Manifest, Manifest]:
        """The training and the validation samples of ``whole``, which lies at ``where``.

        ``skip``: bytes of each name that lie before those of the class folder. Without ``with_train`` the first
        manifest is empty. ``say`` hears how many samples are held out, and warnings. Raises ConfigError where that is
        none, or leaves a class without a sample to train on.
        """
        begin, end = self.hashes
        held_out = np.fromiter((begin <= place < end for place in _places(whole, skip)), np.bool_, len(whole))
        train, val = whole.part(~held_out), whole.part(held_out)
        if not len(val):
            raise ConfigError(f"{self} holds out none of the {len(whole):,} samples of {where}: {self._instead}.")
        if with_train:
            self._check_training(whole, train, where)
        lacking = np.flatnonzero(whole.counts() * (val.counts() == 0))
        if lacking.size:
            say(
                f"warning: {self} holds out no sample of {lacking.size:,} of the {len(whole.classes):,} classes, like "
                f"{whole.classes[lacking[0]]}: they are trained on and never validated"
            )
        say(f"{self}: {len(val):,} of the {len(whole):,} samples of {where} are the validation, by their names' hashes")
        return (train if with_train else whole.part(np.zeros_like(held_out))), val

    def _check_training(self, whole: Manifest, train: Manifest, where: str) -> None:
        if not len(train):
            raise ConfigError(f"{self} leaves none of the {len(whole):,} samples of {where} to train on: choose less.")
        before = whole.counts()
        lost = np.flatnonzero(before * (train.counts() == 0))
        if lost.size:
            more = f" (and {lost.size - 1:,} more classes)" if lost.size > 1 else ""
            raise ConfigError(
                f"{self} leaves the class {whole.classes[lost[0]]} of {where}{more} without a sample to train on: all "
                f"{before[lost[0]]:,} are the validation by their names. Add photos to it, or {self._instead}."
            )

    @property
    def _instead(self) -> str:
        return "choose fewer folds, or use data.val_split" if self.fold else "choose another share, or use data.fold"


def _places(manifest: Manifest, skip: int) -> NDArray[np.uint64]:
    """The hash of each name, uint64 [n]."""
    names, offsets = manifest.names.tobytes(), manifest.offsets.tolist()
    digests = (
        hashlib.blake2b(names[start + skip : end], digest_size=8).digest() for start, end in itertools.pairwise(offsets)
    )
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
