"""Samples of a bucket: made by the cluster's ETL, or here from the objects' bytes; whatever fails, the same samples.

What becomes of a sample is one of these: the ETL makes it; the ETL fails, is late or is known to be broken, and it is
made here of the object's bytes; they cannot be had either, and it is waited for, up to ``patience_s``.
"""

import re
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, quote_plus

import numpy as np
import torch

from aistore_data.breaker import Breakers
from aistore_data.bucket_uri import parse_bucket
from aistore_data.cluster import cluster_map, why
from aistore_data.connection import Get
from aistore_data.errors import DataError, ObjectError, UnreachableError
from aistore_data.fetch import Fetcher
from aistore_data.http_reader import Access, object_path
from aistore_data.manifest import Manifest, checksum_digest
from aistore_data.placement import Placement, splitmix64
from aistore_data.text import shell_word
from etl.request import Request, encode
from etl.sample import CorruptSample, Key, Spec, transform
from training.dataset import Batch, Counts, empty_batch, from_wire, through_wire
from training.latency import Latencies
from training.noise import collect
from training.notices import Notices
from training.substitutes import Substitution, advice, substitutes

RAW_TIMEOUT_S = 5.0
"""Seconds for the bytes of an object."""

_TRIES = 2
"""Requests to the ETL for one sample, if the first one fails at once: a connection that was reset is no broken ETL."""

_UNSAFE = re.compile(r"[?#]|%(?![0-9A-Fa-f]{2})")
"""In an object's name these make AIS ask the ETL for something else, which it then answers; so no ETL is asked."""


@dataclass(frozen=True)
class Remote:
    """Where samples of a split come from and how; all that a worker must know."""

    access: Access
    uri: str
    manifest: Manifest
    placement: Placement
    breakers: Breakers
    spec: Spec
    seed: int
    direct: bool = False
    """Whether storage nodes answer without the proxy's redirect."""
    etl_names: tuple[str, ...] = ()
    """The ETL's name; empty: samples are made here."""
    local_share: float = 0.0
    """Share of the samples, 0 to 1, that is made here though there is an ETL."""
    wire: str = "raw"
    deadline_s: float = 2.0
    adaptive_deadline: bool = True
    """Whether less than ``deadline_s`` is waited for a node that is much later than the others."""
    patience_s: float = 600.0
    audit_every: int = 256
    replace: bool = False
    notices: Notices | None = None


class Sample:
    """One sample on its way into its row of the batch."""

    __slots__ = (
        *("by", "epoch", "host", "index", "name", "node", "others", "reason", "row"),
        *("since", "stage", "tries"),
    )

    def __init__(
        self, row: Any, epoch: int, index: int, name: str, node: int, host: str, stage: Literal["etl", "here"]
    ) -> None:
        self.row, self.epoch, self.index, self.name = row, epoch, index, name
        self.node, self.host, self.stage = node, host, stage
        self.tries = 0
        self.since = 0.0  # when its bytes were first asked for in vain
        self.by = index  # whose bytes it is made of
        self.others: Iterator[int] | None = None
        self.reason = ""


class RemoteDataset:
    """A split of a bucket as a ``BatchDataset``."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self._fetcher: Fetcher[Sample] | None = None
        self._paths = EtlPaths(remote)
        self._bucket = uname(remote.uri)
        self._unaudited = 0
        self._trusted = True  # whether all samples that were handed out came after a good audit, or with one

    def __reduce__(self) -> tuple[type, tuple[Remote]]:
        return RemoteDataset, (self.remote,)

    def __len__(self) -> int:
        return len(self.remote.manifest)

    def locate(self, index: int) -> str:
        """Where sample ``index`` lies, for messages."""
        return f"{self.remote.uri}/{self.remote.manifest.name(index)}"

    @property
    def side(self) -> int:
        """As ``BatchDataset``."""
        return self.remote.spec.size

    def __getitems__(self, keys: list[tuple[int, int]], images: torch.Tensor | None = None) -> Batch:
        """As ``BatchDataset``. Raises DataError that names the object, UnreachableError when patience is over."""
        remote = self.remote
        if images is None:
            images = empty_batch(len(keys), self.side)
        rows = images.numpy()
        names = [remote.manifest.name(index) for _, index in keys]
        nodes = remote.placement.numbers_of([self._bucket + name for name in names])
        samples = list(map(self._sample, rows, keys, names, nodes))
        collect()
        work = self._work(samples)
        work = self._audited(samples, work)
        indices = torch.tensor([index for _, index in keys])
        labels = torch.from_numpy(remote.manifest.labels[indices.numpy()])
        replaced = tuple(Substitution(s.epoch, s.index, s.by, s.reason) for s in samples if s.by != s.index)
        work.counts["replaced"] = len(replaced)
        return Batch(images, labels, indices, Counts(**work.counts), work.latencies.to_bytes(), replaced)

    def _sample(self, row: Any, key: tuple[int, int], name: str, node: int) -> Sample:
        remote = self.remote
        here = not remote.etl_names or _UNSAFE.search(name) is not None or self._is_made_here(*key)
        return Sample(row, *key, name, node, remote.placement.hosts[node], "here" if here else "etl")

    def _is_made_here(self, epoch: int, index: int) -> bool:
        """Whether (epoch, index) belongs to the share that is: SplitMix64 of the two."""
        share = self.remote.local_share
        return share > 0 and int(splitmix64(np.array([(epoch << 40) + index], np.uint64))[0]) < share * 2**64

    def _work(self, samples: list[Sample]) -> "Work":
        self._fetcher = self._fetcher or Fetcher(self.remote.access)
        work = Work(self.remote, self._fetcher, self._paths)
        self._fetcher.run(samples, work.begin, work.done)
        work.note_times()
        return work

    def _audited(self, samples: list[Sample], work: "Work") -> "Work":
        """Now and then one of the ETL's samples is made here too, and compared: somebody may have replaced the ETL.

        The last one of a batch is asked for after the others have come; where every batch is audited, no altered pixel
        is handed out. Raises DataError if some may have been.
        """
        remote = self.remote
        made_there = [sample for sample in samples if sample.stage == "etl"]
        if not made_there or remote.audit_every == 0:
            return work
        self._unaudited += len(made_there)
        if self._unaudited < remote.audit_every:
            self._trusted = False
            return work
        known = made_there[-1]
        row = np.empty_like(known.row)
        again = Sample(row, known.epoch, known.index, known.name, known.node, known.host, "here")
        audit = self._work([again])
        work.counts["audits"] = 1
        if np.array_equal(row, known.row) or again.by != known.index:
            self._unaudited, self._trusted = 0, True
            return work
        remote.breakers.distrust()
        if not self._trusted:
            raise DataError(
                f"ETL {remote.etl_names[0]} makes other pixels of {self.locate(known.index)} than this machine: "
                f"somebody has replaced it. Samples since the last audit, up to {self._unaudited} of each loader "
                "worker, may be wrong: start again from a checkpoint before that, with data.transform=client or an "
                "ETL of another name."
            )
        for sample in made_there:
            sample.stage, sample.tries = "here", 0
        work.counts["etl"] = work.counts["etl_bytes"] = 0
        return work.plus(self._work(made_there)).plus(audit, counts=False)


class EtlPaths:
    """Paths of requests to the ETL: what they have in common is written once."""

    def __init__(self, remote: Remote) -> None:
        key = Key(remote.seed, 0, 0) if remote.spec.recipe == "train" else None
        arguments = encode(Request(remote.spec, key, remote.wire))  # type: ignore[arg-type]  # checked before
        whole = object_path(remote.uri, "", etl_name="".join(remote.etl_names), etl_args=arguments)
        self._folder, _, query = whole.partition("?")
        self._query, self._of_index, self._rest = f"?{query}", "", ""
        if key:
            epoch, index = quote_plus('"epoch":0,'), quote_plus('"index":0,')
            before, _, self._rest = query.partition(epoch + index)
            self._query = f"?{before}{epoch.removesuffix('0%2C')}"
            self._of_index = f"%2C{index.removesuffix('0%2C')}"
            self._rest = f"%2C{self._rest}"
        self._has_key = key is not None

    def path(self, sample: Sample) -> str:
        """As ``object_path`` with ``encode`` gives it."""
        name = quote(sample.name)
        if not self._has_key:
            return f"{self._folder}{name}{self._query}"
        return f"{self._folder}{name}{self._query}{sample.epoch}{self._of_index}{sample.index}{self._rest}"


class Work:
    """The rules: what a sample asks next, and what an answer means for it."""

    def __init__(self, remote: Remote, fetcher: Fetcher[Sample], paths: "EtlPaths") -> None:
        self.remote = remote
        self.fetcher = fetcher
        self.paths = paths
        self.counts = Counter[str]()  # by the names of Counts
        self.latencies = Latencies()
        self._nodes, self._took_s = list[int](), list[float]()  # the ETL's answers: whose, and how long they took
        self._late_nodes = list[int]()
        self._objects_took_s = list[float]()
        limit_s = remote.deadline_s
        self.deadline_s = remote.breakers.deadline_s(limit_s) if remote.adaptive_deadline else limit_s

    def plus(self, other: "Work", counts: bool = True) -> "Work":
        """Both together."""
        if counts:
            self.counts.update(other.counts)
        self.latencies.add(other.latencies)
        return self

    def note_times(self) -> None:
        """At the end: how long requests took."""
        self.latencies.count("etl", self._took_s)
        self.latencies.count("object", self._objects_took_s)
        late_s = [self.deadline_s] * len(self._late_nodes)
        self.remote.breakers.took(self._nodes + self._late_nodes, self._took_s + late_s)

    def begin(self, sample: Sample) -> Get:
        """The next request of a sample."""
        remote = self.remote
        if sample.stage == "etl" and remote.breakers.is_open(sample.node):
            self._give_up_on_the_etl(sample)
        direct = remote.direct and sample.tries == 0
        host = remote.placement.hosts[sample.node] if direct else self.fetcher.proxy
        if sample.stage == "here":
            path = object_path(remote.uri, remote.manifest.name(sample.by))
            return Get(path, host if sample.by == sample.index else self.fetcher.proxy, RAW_TIMEOUT_S)
        row = memoryview(sample.row).cast("B") if remote.wire == "raw" else None
        return Get(self.paths.path(sample), host, self.deadline_s, row)

    def done(self, sample: Sample, get: Get) -> float | None:
        """What an answer means: None if the sample is made, else the seconds until it goes on."""
        return self._etl_answered(sample, get) if sample.stage == "etl" else self._object_came(sample, get)

    def _etl_answered(self, sample: Sample, get: Get) -> float | None:
        error: Exception | None = get.error
        if error is None and get.row is None:
            try:
                sample.row[:] = from_wire(bytes(get.body), self.remote.spec)
            except ObjectError as problem:
                error = problem
        if error is None:
            self.remote.breakers.worked(sample.node)
            self._nodes.append(sample.node)
            self._took_s.append(get.took_s)
            self.counts["etl"] += 1
            self.counts["etl_bytes"] += len(get.body) or sample.row.nbytes
            return None
        if isinstance(error, ObjectError) and error.corrupt_sample:
            self._give_up_on_the_etl(sample)  # whether the object is bad, or what the ETL was given of it, is seen here
            return 0.0
        if isinstance(error, TimeoutError):
            self._late_nodes.append(sample.node)
        self.counts["opened"] += self.remote.breakers.failed(sample.node)
        sample.tries += 1
        lost = isinstance(error, ConnectionError) or getattr(error, "status", 0) in (200, 429, 502, 503)
        if sample.tries < _TRIES and lost and get.took_s < self.deadline_s / 2:
            self.counts["retries"] += 1
            return 0.05
        self._give_up_on_the_etl(sample)
        return 0.0

    def _give_up_on_the_etl(self, sample: Sample) -> None:
        sample.stage, sample.tries = "here", 0
        self.counts["fallbacks"] += 1

    def _object_came(self, sample: Sample, get: Get) -> float | None:
        remote = self.remote
        if get.error is not None:
            return self._wait(sample, get.error)
        expected = int(remote.manifest.sizes[sample.by])
        if len(get.body) != expected:
            return self._substitute(
                sample, f"has {len(get.body)} bytes, and had {expected} when it was listed: somebody has replaced it"
            )
        self._objects_took_s.append(get.took_s)
        listed = int(remote.manifest.checksums[sample.by])
        if listed and checksum_digest(get.headers.get("ais-checksum-value")) not in (0, listed):
            return self._substitute(sample, "has another checksum than when it was listed: somebody has replaced it")
        try:
            pixels = transform(bytes(get.body), remote.spec, self._key(sample))
        except CorruptSample as error:
            return self._substitute(sample, f"is {error}")
        sample.row[:] = through_wire(pixels, remote.wire)
        self._hear(sample)
        self.counts["local"] += 1
        self.counts["object_bytes"] += len(get.body)
        return None

    def _hear(self, sample: Sample) -> None:
        """What Pillow has said of the object of a sample that was made here."""
        said = collect()
        self.counts["odd"] += bool(said)
        if self.remote.notices:
            for what in said:
                self.remote.notices.odd(self._locate(sample.by), what)

    def _wait(self, sample: Sample, error: ObjectError | OSError) -> float | None:
        """The bytes cannot be had now. Raises UnreachableError after ``patience_s``, DataError if waiting is no use."""
        remote, now = self.remote, time.monotonic()
        sample.since = sample.since or now
        sample.tries += 1
        status = error.status if isinstance(error, ObjectError) else 0
        lasting = status == 403 or (status == 401 and not remote.access.token_file)  # a file may get another token yet
        if lasting or isinstance(error, ssl.SSLCertVerificationError):
            raise DataError(f"{self._locate(sample.by)} cannot be read: {why(error, remote.access)}")
        if status == 404 and "does not exist" in str(error) and self._all_targets_are_there():
            return self._substitute(sample, "does not exist any more, and did when it was listed")
        if now - sample.since > remote.patience_s:
            raise UnreachableError(
                f"{self._locate(sample.by)} could not be had for {remote.patience_s:g} s (data.patience_s): "
                f"{why(error, remote.access)}"
            )
        if now - sample.since > 1:
            remote.breakers.waits()
        self.counts["retries"] += 1
        return float(min(1.0, 0.05 * 2**sample.tries))

    def _all_targets_are_there(self) -> bool:
        """Whether the cluster has the storage nodes that it had at the start; else what is missing may come back."""
        access = self.remote.access
        found = cluster_map(access)
        return found is not None and set(self.remote.placement.hosts) <= set(Placement(found, access.endpoint).hosts)

    def _substitute(self, sample: Sample, problem: str) -> float:
        """Go on with another sample of the class. Raises DataError where that is not wanted, or there is none."""
        remote = self.remote
        collect()  # what Pillow has said of this object belongs to no other
        where = self._locate(sample.by)
        look = f"ais get {shell_word(where)} - | file -"
        if not remote.replace:
            raise DataError(f"{where} {problem}. Look at it with: {look}. {advice(remote.spec)}")
        if sample.others is None:
            sample.others = substitutes(remote.manifest, sample.index, remote.seed)
            sample.reason = f"{where} {problem}"
        by = next(sample.others, None)
        if by is None:
            raise DataError(f"{where} {problem}, and no other sample of its class can be had in its place.")
        sample.by, sample.stage, sample.tries, sample.since = by, "here", 0, 0.0
        return 0.0

    def _key(self, sample: Sample) -> Key | None:
        return Key(self.remote.seed, sample.epoch, sample.index) if self.remote.spec.recipe == "train" else None

    def _locate(self, index: int) -> str:
        return f"{self.remote.uri}/{self.remote.manifest.name(index)}"


def serves_directly(access: Access, uri: str, manifest: Manifest, placement: Placement) -> bool:
    """Whether the node that should hold a sample gives it without a redirect: with AuthN, AIStore 5.0's does not."""
    outcome: list[Get] = []
    name = manifest.name(0)
    node = placement.numbers_of([uname(uri) + name])[0]
    sample = Sample(None, 0, 0, name, node, placement.hosts[node], "here")
    fetcher = Fetcher[Sample](access)
    try:
        fetcher.run(
            [sample],
            lambda _: Get(object_path(uri, name), sample.host, RAW_TIMEOUT_S),
            lambda _, get: outcome.append(get),
        )
    finally:
        fetcher.close()
    return outcome[0].error is None


def uname(uri: str) -> str:
    """What AIS puts before an object's name to place it."""
    bucket = parse_bucket(uri)
    return f"{bucket.provider.value}/@{bucket.cluster}#{bucket.namespace}/{bucket.name}/"
