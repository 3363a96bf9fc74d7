"""All photos of a data set looked at: their facts in arrays, and everything that was found."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scripts.inspect.findings import Finding, in_order
from scripts.inspect.photo import Facts, Reader, look, sums
from scripts.inspect.processes import in_processes
from scripts.inspect.splits import DataSet, ShardSplit, Split
from sources.disk import shown


class Place(NamedTuple):
    """A photo: where it lies, its name and its size in bytes."""

    reader: Reader
    name: str
    size: int


class Survey:
    """The facts of the photos of all splits, one after the other.

    ``sides`` is int32 [n, 2], width and height, 0 where there is no header; ``kinds`` int16 [n], numbers of
    ``formats``, pairs of format and mode.
    """

    def __init__(self, data: DataSet, deep: bool) -> None:
        self.data, self.deep = data, deep
        self.starts = np.cumsum([0, *(len(split.manifest) for split in data.splits)]).tolist()
        count = self.starts[-1]
        self.sides = np.zeros((count, 2), np.int32)
        self.kinds = np.zeros(count, np.int16)
        self.keys = np.zeros((2, count), np.uint64)
        """Of contents, and of pixels."""
        self.formats: list[tuple[str, str]] = []
        self.findings: list[Finding] = []

    def __len__(self) -> int:
        return len(self.kinds)

    def split_of(self, index: int) -> tuple[Split | ShardSplit, int]:
        """The split of a photo, and its place there."""
        number = int(np.searchsorted(self.starts, index, "right")) - 1
        return self.data.splits[number], index - self.starts[number]

    def place(self, index: int) -> Place:
        """Return where a photo lies."""
        split, own = self.split_of(index)
        return Place(*split.photo(own))

    def name(self, index: int) -> str:
        """A photo's name below its split, for people."""
        split, own = self.split_of(index)
        return split.shown(own)

    def label(self, index: int) -> str:
        """The name of a photo's class."""
        split, own = self.split_of(index)
        return shown(split.manifest.classes[int(split.manifest.labels[own])])

    def full_name(self, index: int) -> str:
        """Return a photo's name with that of its split."""
        split = self.split_of(index)[0].name
        return f"{split}/{self.name(index)}" if split else self.name(index)

    def finding(self, kind: str, index: int, what: str, other: str = "") -> Finding:
        """Return a finding about a photo."""
        return Finding(kind, self.split_of(index)[0].name, self.name(index), self.label(index), what, other)

    def take(self, index: int, facts: Facts) -> None:
        """Keep the facts of a photo."""
        kind = (facts.format, facts.mode)
        if kind not in self.formats:
            self.formats.append(kind)
        self.sides[index] = facts.width, facts.height
        self.kinds[index] = self.formats.index(kind)
        self.keys[:, index] = facts.key, facts.pixels
        self.findings += [self.finding(*about[:1], index, *about[1:]) for about in facts.found]


def survey(data: DataSet, deep: bool, workers: int) -> Survey:
    """Look at all photos in several processes. Raises UserError where no cluster answers any more."""
    found = Survey(data, deep)
    facts = in_processes(partial(_look, deep), range(len(found)), found.place, workers, _killed, "photos looked at")
    for index, one in enumerate(facts):
        found.take(index, one)
    for pixels in (False, True) if deep else (False,):
        found.findings += _equal(found, pixels, workers)
    found.findings = in_order(found.findings + data.findings)
    return found


def _equal(found: Survey, pixels: bool, workers: int) -> list[Finding]:
    """Findings for photos of equal content, or of equal pixels and another content."""
    keys = found.keys[int(pixels)]
    sizes = np.concatenate([split.manifest.sizes for split in found.data.splits])
    there = np.flatnonzero((keys != 0) & (sizes > 0))
    if pixels:  # of those of equal content, one stands for all
        there = there[np.unique(found.keys[0][there], return_index=True)[1]]
    candidates = _repeated(there, keys)
    work = partial(_sums, pixels)
    digests = in_processes(work, candidates, found.place, workers, lambda place: "", "photos compared")
    groups: dict[str, list[int]] = {}
    for index, digest in zip(candidates, digests, strict=True):
        groups.setdefault(digest or str(index), []).append(index)
    what = "equal pixels, in another file" if pixels else "equal content"
    return [one for group in groups.values() if len(group) > 1 for one in _of_group(found, sorted(group), what)]


def _of_group(found: Survey, group: Sequence[int], what: str) -> list[Finding]:
    """One finding for each photo of a group but the first."""
    first, labels = group[0], {found.label(index) for index in group}
    findings = []
    for index in group[1:]:
        same_split = found.split_of(index)[0] is found.split_of(first)[0]
        kind = "labels differ" if len(labels) > 1 else "duplicate" if same_split else "in both splits"
        words = what if len(labels) == 1 else f"{what}, labels {', '.join(sorted(labels))}"
        findings.append(found.finding(kind, index, words, found.full_name(first)))
    return findings


def _repeated(there: NDArray[np.int64], keys: NDArray[np.uint64]) -> list[int]:
    """Those of the photos ``there`` whose key another one has, in their order."""
    _, number, counts = np.unique(keys[there], return_inverse=True, return_counts=True)
    repeated: list[int] = there[counts[number] > 1].tolist()
    return sorted(repeated)


def _look(deep: bool, place: Place) -> Facts:
    return look(*place, deep)


def _sums(pixels: bool, place: Place) -> str:
    return sums(place.reader, place.name, pixels)


def _killed(place: Place) -> Facts:
    return Facts(found=(("broken", "the process that read it did not survive it, for a lack of memory perhaps"),))
