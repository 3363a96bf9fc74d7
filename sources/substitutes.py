"""Substitutes for samples that cannot be read: other samples of the class, the same ones in every run."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from etl.spec import Spec
from sources.manifest import Manifest
from sources.randomness import SUBSTITUTES, stream


class Substitution(NamedTuple):
    """A sample (its place in the manifest) that was replaced by another one, and why."""

    epoch: int
    sample: int
    by: int
    reason: str


def substitutes(manifest: Manifest, index: int, seed: int) -> Iterator[int]:
    """The other samples of the class of ``index``, in an order that (seed, index) decides: Philox's, as epochs have."""
    others = np.flatnonzero(manifest.labels == manifest.labels[index])
    others = others[others != index]
    keys = stream(seed, SUBSTITUTES, (0, index, 0)).random_raw(len(others))
    yield from others[np.argsort(keys, kind="stable")].tolist()


def advice(spec: Spec) -> str:
    """What helps against a file that is no sample: validation counts every sample, so none of it is replaced."""
    changed = "A run that has begun goes on with the data so changed by allow_changes=true."
    if spec.recipe == "val":
        return (
            "Replace the file or remove it: every validation sample counts, so data.on_corrupt=replace is for training "
            f"samples alone. {changed}"
        )
    return f"Replace the file or remove it, or use data.on_corrupt=replace, then start again. {changed}"
