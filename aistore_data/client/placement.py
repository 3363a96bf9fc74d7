"""Which storage node holds an object, told from its name as AIS itself does: no redirect is needed."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from aistore.sdk.utils import get_digest
from numpy.typing import NDArray

_OUT_OF_SERVICE = 1 << 2 | 1 << 3
"""Flags of a node in maintenance, and of one being decommissioned."""


class Placement:
    """The targets of a cluster map, by host and port."""

    def __init__(self, cluster_map: Mapping[str, Any], endpoint: str) -> None:
        """Read the JSON of ``/v1/daemon?what=smap``; if we may not see that, every request goes to the endpoint."""
        found = cluster_map.get("tmap", {}).values()
        nodes = [node for node in found if not int(node.get("flags") or 0) & _OUT_OF_SERVICE]
        hosts = [urlsplit(node["public_net"]["direct_url"]).netloc for node in nodes]
        self.hosts = tuple(hosts) or (urlsplit(endpoint).netloc,)
        self._digests = np.array([int(node["id_digest"]) for node in nodes] or [0], np.uint64)

    def numbers_of(self, unames: Sequence[str]) -> list[int]:
        """The places in ``hosts`` of the targets of names with their bucket: ``ais/@#/BUCKET/OBJECT``.

        A name's target has the highest random weight (Thaler and Ravishankar, 1998).
        """
        if len(self.hosts) == 1:
            return [0] * len(unames)
        digests = np.array([get_digest(uname) for uname in unames], np.uint64)
        z = splitmix64(splitmix64(digests[:, None] ^ self._digests)) * np.uint64(5)
        weights = (z << np.uint64(7) | z >> np.uint64(57)) * np.uint64(9)  # the SDK's xoshiro256_hash
        places: list[int] = weights.argmax(axis=1).tolist()
        return places


def splitmix64(seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The first number of SplitMix64 for each of many seeds (Steele, Lea and Flood, 2014)."""
    z = seeds + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
