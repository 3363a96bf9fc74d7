"""Samples of a bucket: made by the cluster's ETL, or here from the objects' bytes, as ``policy`` has it."""

import re
from collections import Counter
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from aistore_data.bucket.photos import object_of, objects_of, read_photo
from aistore_data.client.access import Access
from aistore_data.client.fetch import Fetcher
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.placement import Placement, splitmix64
from aistore_data.dataset.policy import RAW_TIMEOUT_S, Remote, Sample, SamplePolicy, etl_paths, uname
from aistore_data.etls.asking import EtlPaths
from etl.spec import Spec
from sources.batch import Counts, Filled, Keys
from sources.errors import DataError, ObjectError
from sources.manifest import Manifest
from sources.notices import collect
from sources.source import Source, Specs
from sources.substitutes import Substitution

_UNSAFE = re.compile(r"[?#]|%(?![0-9A-Fa-f]{2})")
"""Characters of an object's name for which AIS asks the ETL for another name, so such samples are made here."""


class RemoteDataset(Source):
    """A split of a bucket as a ``Source``."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.specs = Specs.of(remote.spec)
        self.made_here = not remote.etl_name or remote.local_share > 0
        self._fetcher: Fetcher[Sample] | None = None
        self._paths: dict[Spec, EtlPaths] = {}
        self._bucket = uname(remote.uri)
        self._unaudited = 0
        self._trusted = True  # whether all samples that were handed out came after a good audit, or with one

    def __reduce__(self) -> tuple[type, tuple[Remote]]:
        return RemoteDataset, (self.remote,)

    def __len__(self) -> int:
        return len(self.remote.manifest)

    def locate(self, index: int) -> str:
        """Implement ``Source.locate``."""
        return self.remote.locate(index)

    def fill(self, keys: Keys, rows: NDArray[np.uint8]) -> Filled:
        """As ``Source``. Raises DataError that names the object, UnreachableError when patience is over."""
        remote, spec = self.remote, self.specs.at(keys[0][0])
        indices = np.array([key[1] for key in keys], np.int64)
        names = objects_of(remote.manifest, indices.tolist())
        nodes = remote.placement.numbers_of([self._bucket + name for name in names])
        samples = self._samples(rows, keys, names, nodes)
        collect()
        last = self._to_be_audited(samples)
        policy = self._policy(spec)
        policy.run([sample for sample in samples if sample is not last])
        if last:
            policy.run([last])
        self._audit(samples, last, policy)
        replaced = tuple(
            Substitution(s.epoch, s.index, s.source_index, s.reason) for s in samples if s.source_index != s.index
        )
        policy.counts["replaced"] = len(replaced)
        labels = remote.manifest.labels[indices].astype(np.int64, copy=False)
        return Filled(labels, Counts(**policy.counts), policy.latencies.to_bytes(), replaced)

    def _samples(self, rows: Any, keys: Keys, names: list[str], nodes: list[int]) -> list[Sample]:
        remote, hosts = self.remote, self.remote.placement.hosts
        usual: Literal["etl", "local"] = "etl" if remote.etl_name else "local"
        unusual = remote.local_share > 0 or not remote.in_parts.isdisjoint(names) or _UNSAFE.search("\n".join(names))
        looked_at = usual == "etl" and unusual
        samples = []
        for row, key, name, node in zip(rows, keys, names, nodes, strict=True):
            epoch, index, view = (*key, 0)[:3]
            here = looked_at and (self._is_made_here(epoch, index) or name in remote.in_parts or _UNSAFE.search(name))
            samples.append(Sample(row, epoch, index, name, node, hosts[node], "local" if here else usual, view))
        return samples

    def _is_made_here(self, epoch: int, index: int) -> bool:
        """Whether (epoch, index) belongs to the share that is: SplitMix64 of the two."""
        share = self.remote.local_share
        return share > 0 and int(splitmix64(np.array([(epoch << 40) + index], np.uint64))[0]) < share * 2**64

    def _policy(self, spec: Spec) -> SamplePolicy:
        self._fetcher = self._fetcher or Fetcher(self.remote.access, hosts=self.remote.placement.hosts)
        if spec not in self._paths:
            self._paths[spec] = etl_paths(self.remote, spec)
        return SamplePolicy(self.remote, self._fetcher, self._paths[spec], spec)

    def _to_be_audited(self, samples: list[Sample]) -> Sample | None:
        """Any sample of the batch, to be asked for when all others have come, and audited; None: not this time."""
        candidates = [sample for sample in samples if sample.stage == "etl"]
        every = self.remote.audit_every
        if every == 0 or not candidates or self._unaudited + len(candidates) < every:
            return None
        first = candidates[0]
        drawn = splitmix64(np.array([(first.epoch << 40) + first.index], np.uint64) ^ np.uint64(self.remote.seed))
        return candidates[int(drawn[0] % np.uint64(len(candidates)))]

    def _audit(self, samples: list[Sample], last: Sample | None, policy: SamplePolicy) -> None:
        """Now and then one of the ETL's samples is made here too, and compared: somebody may have replaced the ETL.

        It is the ``last`` one that was asked for; where every batch is audited, no altered pixel is handed out.
        Answers in other samples' rows are not what it is for: their proofs show them, each at once. Of an ETL without
        proofs, an audited batch of n samples with w in wrong rows is found with a probability of w/n.
        Raises DataError if some may have been altered.
        """
        remote = self.remote
        made_there = [sample for sample in samples if sample.stage == "etl"]
        if not made_there or remote.audit_every == 0:
            return
        self._unaudited += len(made_there)
        if self._unaudited < remote.audit_every:
            self._trusted = False
            return
        known = last if last in made_there else made_there[-1]
        row = np.empty_like(known.row)
        again = Sample(row, known.epoch, known.index, known.name, known.node, known.host, "local", known.view)
        before = policy.counts.copy()
        policy.run([again])
        policy.counts = before | Counter(audits=1)
        if np.array_equal(row, known.row) or again.source_index != known.index:
            self._unaudited, self._trusted = 0, True
            return
        remote.breakers.ban()
        if not self._trusted:
            raise DataError(
                f"ETL {remote.etl_name} makes other pixels of {self.locate(known.index)} than this machine: "
                f"somebody has replaced it. Samples since the last audit, up to {self._unaudited} of each loader "
                "worker, may be wrong: start again from a checkpoint before that, with data.transform=client or an "
                "ETL of another name."
            )
        for sample in made_there:
            sample.stage, sample.tries = "local", 0
        policy.counts["etl"] = policy.counts["etl_bytes"] = 0
        policy.run(made_there)


def serves_directly(access: Access, uri: str, manifest: Manifest, placement: Placement) -> bool:
    """Whether the node that should hold a sample gives it without a redirect: with AuthN, AIStore 5.0's does not."""
    node = placement.hosts[placement.numbers_of([uname(uri) + object_of(manifest, 0)])[0]]
    there = replace(access, endpoint=f"{urlsplit(access.endpoint).scheme}://{node}", read_timeout_s=RAW_TIMEOUT_S)
    try:
        read_photo(HttpReader(there), uri, manifest, 0)
    except (ObjectError, OSError):
        return False
    return True
