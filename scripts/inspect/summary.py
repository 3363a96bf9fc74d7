"""What was found in figures and in whole sentences."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etl.sample import native
from scripts.inspect.findings import KINDS, NOTE, STOP, WARNING, Finding, by_kind
from scripts.inspect.survey import Survey
from sources.disk import shown

USUAL_SIDE = 224
_NAMED = 3


@dataclass(frozen=True)
class Counts:
    """How many photos each class has in each split: split → int64 [classes]."""

    classes: tuple[str, ...]
    by_split: dict[str, NDArray[np.int64]]

    @classmethod
    def of(cls, found: Survey) -> "Counts":
        """Of all that was looked at."""
        names = tuple(map(shown, found.data.classes))
        splits = found.data.splits
        return cls(names, {s.name: np.bincount(s.manifest.labels, minlength=len(names)) for s in splits})

    def sentences(self) -> Iterator[str]:
        """Yield a sentence for each split."""
        for split, counts in self.by_split.items():
            where = f"{split} holds" if split else "It holds"
            there = counts[counts > 0]
            if not len(there):
                yield f"{where} no photos."
                continue
            low, high = int(there.min()), int(there.max())
            if low == high:
                yield f"{where} {_photos(counts.sum())} of {_classes(len(there))}, {low:,} of each."
                continue
            smallest, largest = (self.classes[int(np.flatnonzero(counts == n)[0])] for n in (low, high))
            times = f", {high / low:.1f} times as many" if high > 1.2 * low else ""
            yield (
                f"{where} {_photos(counts.sum())} of {_classes(len(there))}: the smallest class is {smallest} with "
                f"{low:,}, and the largest is {largest} with {high:,}{times}."
            )


@dataclass(frozen=True)
class Sizes:
    """Width, height and bytes of the photos whose headers can be read: int [n] each."""

    width: NDArray[np.int32]
    height: NDArray[np.int32]
    size: NDArray[np.int64]

    @classmethod
    def of(cls, found: Survey) -> "Sizes":
        """Of all that was looked at."""
        known = found.sides[:, 0] > 0
        sizes = np.concatenate([split.manifest.sizes for split in found.data.splits])
        return cls(found.sides[known, 0], found.sides[known, 1], sizes[known])

    @property
    def ratio(self) -> NDArray[np.float64]:
        """Return width divided by height, float64 [n]."""
        return self.width / self.height

    def sentences(self) -> Iterator[str]:
        """Yield sentences about the sizes."""
        if not len(self.width):
            return
        area = self.width.astype(np.int64) * self.height
        places = [int(area.argmin()), int(np.argsort(area, kind="stable")[len(area) // 2]), int(area.argmax())]
        least, middle, most = (f"{self.width[place]} x {self.height[place]}" for place in places)
        yield f"By area, the smallest photo has {least} pixels, the median one {middle}, and the largest {most}."
        yield (
            f"Width by height goes from {self.ratio.min():.2f} to {self.ratio.max():.2f} with a median of "
            f"{np.median(self.ratio):.2f}; a file has {np.median(self.size) / 1000:,.1f} kB in the median and "
            f"{self.size.max() / 1000:,.1f} kB at most."
        )
        small = int((np.minimum(self.width, self.height) < USUAL_SIDE).sum())
        if small:
            yield (
                f"{_photos(small)} {_have(small)} a short side below {USUAL_SIDE} pixels, and a model for "
                f"{USUAL_SIDE} pixels sees them enlarged."
            )


def formats(found: Survey) -> dict[str, int]:
    """Photos by format and mode, the most frequent first."""
    counts = np.bincount(found.kinds[found.sides[:, 0] > 0], minlength=len(found.formats)).tolist()
    named = {f"{form} {mode}": count for (form, mode), count in zip(found.formats, counts, strict=True) if count}
    return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))


def verdict(findings: list[Finding]) -> str:
    """Say whether training would stop."""
    stops = by_kind([finding for finding in findings if finding.level == STOP])
    if not stops:
        return "Training would not stop on this data."
    listed = ", ".join(f"{KINDS[kind].title.lower()} ({len(found):,})" for kind, found in stops.items())
    return f"Training would stop on this data: {listed}."


def reach(deep: bool) -> str:
    """What was read, and so what can have been found."""
    if deep and native() is None:
        return (
            "Every photo was read and decoded whole. JPEGs that libjpeg decodes although their data are damaged are "
            "found only where the native module is built (make setup)."
        )
    if deep:
        return "Every photo was read and decoded whole, so damage anywhere in a file was found."
    return (
        "Headers and ends of the files were read, and whole files where these are suspicious or equal. Damage in the "
        "middle of a file and equal pixels in different files are found by --deep alone."
    )


def kind_sentences(findings: list[Finding]) -> Iterator[tuple[str, str]]:
    """(level, sentences) for each kind that was found."""
    for kind, some in by_kind(findings).items():
        first, about = some[0], KINDS[kind]
        if not first.photo:
            told = "; ".join(finding.what.removesuffix(".") for finding in some[:_NAMED])
            more = f"; and {len(some) - _NAMED:,} more" if len(some) > _NAMED else ""
            yield about.level, f"{about.title}: {told}{more}. {first.trainer}"
            continue
        place = f"{first.split}/{first.photo}" if first.split else first.photo
        equals = f"; it equals {first.other}" if first.other else ""
        what = first.what.removesuffix(".")
        yield about.level, f"{about.title}: {len(some):,}, like {place} ({what}{equals}). {first.trainer}"


def told(found: Survey, counts: Counts, sizes: Sizes) -> Iterator[str]:
    """The whole summary, a paragraph a line."""
    yield f"{found.data.where}: {_photos(len(found))} in {_classes(len(counts.classes))}."
    yield from counts.sentences()
    yield from sizes.sentences()
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in formats(found).items())
    if kinds:
        yield f"Formats and modes: {kinds}."
    yield reach(found.deep)
    words = {STOP: "error", WARNING: "warning", NOTE: "note"}
    yield from (f"{words[level]}: {sentence}" for level, sentence in kind_sentences(found.findings))
    yield verdict(found.findings)


def _photos(count: int) -> str:
    return f"{count:,} photo{'s' if count != 1 else ''}"


def _classes(count: int) -> str:
    return f"{count:,} class{'es' if count != 1 else ''}"


def _have(count: int) -> str:
    return "have" if count != 1 else "has"
