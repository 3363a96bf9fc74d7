"""The decoded photos that an ETL's pods keep: asked at the start of a run, and at its end."""

import io
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from aistore_data.bucket.photos import read_photo, some_objects
from aistore_data.client.access import object_path, printable
from aistore_data.client.http_reader import HttpReader
from aistore_data.dataset.policy import Remote, uname
from sources.batch import Counts
from sources.decoded import CacheReport, average_bytes, share
from sources.errors import ClusterError, ObjectError

_NAMES = 10_000
"""Objects among which one is looked for on every target."""

_LOOKED_AT = 16
"""Objects of which the size in pixels is read, to tell how many there is room for."""

_INFO_BYTES = 1 << 16


@dataclass(frozen=True)
class PodFacts:
    """What a pod tells of the decoded photos that it keeps; sizes in bytes. ``problem``: why no more, or ""."""

    photos: int = 0
    size: int = 0
    limit: int = 0
    hits: int = 0
    problem: str = ""

    @classmethod
    def of(cls, answer: bytes) -> "PodFacts":
        """Read what an ETL answers to wire=info."""
        try:
            facts: dict[str, Any] = json.loads(answer)["cache"]
            photos, size, limit, hits = (int(facts.get(name, 0)) for name in ("photos", "bytes", "limit", "hits"))
            return cls(photos, size, limit, hits, printable(str(facts["problem"])))
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(problem="it was started without IMAGENET_AIS_CACHE_GB")


class PodCaches:
    """The caches of the pods of the ETL that ``remote`` names, by target; read first when a run begins."""

    def __init__(self, remote: Remote) -> None:
        self._remote, self._reader = remote, HttpReader(remote.access)
        names = some_objects(remote.manifest, _NAMES)
        numbers = remote.placement.numbers_of([uname(remote.uri) + name for name in names])
        hosts = remote.placement.hosts
        self._names = {hosts[number]: name for number, name in zip(numbers, names, strict=True)}
        self._begun = self._ask()

    def _ask(self) -> dict[str, PodFacts]:
        return {host: self._facts(name) for host, name in self._names.items()}

    def _facts(self, name: str) -> PodFacts:
        path = object_path(self._remote.uri, name, etl_name=self._remote.etl_name, etl_args='{"wire":"info"}')
        try:
            return PodFacts.of(self._reader.get(path, _INFO_BYTES))
        except (ObjectError, OSError, ClusterError) as error:
            return PodFacts(problem=f"it does not answer: {error}")

    def beginning(self) -> list[str]:
        """The sentences at the start of a run: how many photos there is room for, and who keeps none."""
        etl, total, found = self._remote.etl_name, len(self._remote.manifest), self._begun.values()
        limit = sum(facts.limit for facts in found)
        said = []
        if limit:
            room = min(1.0, limit / (total * self._average_bytes()))
            said = [
                f"ETL {etl} keeps decoded photos: {_pods(sum(facts.limit > 0 for facts in found))} may take "
                f"{limit / 1e9:,.3g} GB together, which is room for {share(room, 1)} of the {total:,} training photos, "
                f"and {_have(sum(facts.photos for facts in found), sum(facts.size for facts in found))}"
            ]
        return said + [f"ETL {etl} {sentence}" for sentence in _problems(self._begun)]

    def _average_bytes(self) -> float:
        manifest, photos = self._remote.manifest, []
        for index in np.linspace(0, len(manifest) - 1, min(len(manifest), _LOOKED_AT)).astype(int).tolist():
            try:
                photos.append(io.BytesIO(read_photo(self._reader, self._remote.uri, manifest, index)))
            except (ObjectError, OSError):  # training will say so
                continue
        return average_bytes(photos)

    def report(self, counts: Counts) -> CacheReport:
        """At the end of a run: of the samples since it began, or went on."""
        found, hits = self._ask(), 0
        for host, facts in found.items():
            before = self._begun[host].hits
            hits += facts.hits - before if facts.hits >= before else facts.hits  # a new pod counts from 0
        hits = min(hits, counts.etl)  # others may use the ETL
        held = _have(sum(facts.photos for facts in found.values()), sum(facts.size for facts in found.values()))
        sentence = (
            f"decoded photos: {hits:,} of the {counts.etl:,} samples of ETLs ({share(hits, counts.etl)}) were made "
            f"from them since this run began or went on; the pods {held}"
        )
        return CacheReport(hits, "; ".join([sentence, *_problems(found)]))


def _problems(found: dict[str, PodFacts]) -> list[str]:
    hosts = defaultdict(list)
    for host, facts in found.items():
        if facts.problem:
            what = "keeps no more decoded photos" if facts.photos else "keeps no decoded photos"
            hosts[f"{what}: {facts.problem}"].append(host)
    return [f"on {', '.join(where)} {what}" for what, where in hosts.items()]


def _pods(count: int) -> str:
    return f"its {count} pods" if count > 1 else "its pod"


def _have(photos: int, size: int) -> str:
    return f"have {photos:,} in {size / 1e9:,.1f} GB"
