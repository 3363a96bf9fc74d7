"""Which storage node holds an object, told from its name as AIS itself does: no redirect is needed."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from aistore.sdk.utils import get_digest, xoshiro256_hash

_OUT_OF_SERVICE = 1 << 2 | 1 << 3
"""Flags of a node in maintenance, and of one being decommissioned."""


class Placement:
    """The targets of a cluster map, by host and port."""

    def __init__(self, cluster_map: Mapping[str, Any], endpoint: str) -> None:
        """From the JSON of ``/v1/daemon?what=smap``; where that is not shown to us, all is asked of the endpoint."""
        found = cluster_map.get("tmap", {}).values()
        nodes = [node for node in found if not int(node.get("flags") or 0) & _OUT_OF_SERVICE]
        hosts = [urlsplit(node["public_net"]["direct_url"]).netloc for node in nodes]
        self.hosts = tuple(hosts) or (urlsplit(endpoint).netloc,)
        self._digests = [int(node["id_digest"]) for node in nodes] or [0]

    def number_of(self, uname: str) -> int:
        """The place in ``hosts`` of the target of ``uname``, a name with its bucket: ``ais/@#/BUCKET/OBJECT``.

        It has the highest random weight (Thaler and Ravishankar, 1998).
        """
        digest = get_digest(uname)
        weights = [xoshiro256_hash(own ^ digest) for own in self._digests]
        return weights.index(max(weights))
