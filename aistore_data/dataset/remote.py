"""Samples of a bucket: made by the cluster's ETL, or here from the objects' bytes; whatever fails, the same samples.

What becomes of a sample is one of these: the ETL makes it; the ETL fails, is late or is known to be broken, and it is
made here of the object's bytes; they cannot be had either, and it is waited for, up to ``patience_s``.

An answer is believed only if it is that to its request. The ETL's has a proof of 16 bytes over the sample's index,
bucket and object, all arguments and both ends of the content: another answer passes with a probability of 2^-128 for
each row. An object has the size, and where the manifest has a checksum, the checksum with which it was listed. A
verdict (the object is gone, or is another one by now) is believed only on a new connection, on which nothing has been
before.
"""

import re
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from aistore_data.bucket.content import object_problem
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.connection import Get
from aistore_data.client.fetch import Fetcher
from aistore_data.client.http_reader import Access, object_path
from aistore_data.client.placement import Placement, splitmix64
from aistore_data.client.sdk import cluster_map, explain
from aistore_data.dataset.breaker import Breakers
from aistore_data.etls.request_paths import EtlPaths
from etl.sample import CorruptSample, Key, Spec, transform
from sources.dataset import Batch, Counts, empty_batch, from_wire, through_wire
from sources.errors import DataError, ObjectError, UnreachableError
from sources.latency import Latencies
from sources.manifest import Manifest
from sources.notices import Notices
from sources.pillow_warnings import collect
from sources.substitutes import Substitution, advice, substitutes
from sources.text import shell_word

RAW_TIMEOUT_S = 5.0
"""Seconds for the bytes of an object."""

_TRIES = 2
"""Requests to the ETL for one sample, if the first one fails at once: a connection that was reset is no broken ETL."""

_DOUBTS = 4
"""Answers, all but the first on new connections, that must agree that an object is another one by now."""

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
    tags: bool = False
    """Whether the ETL proves what its answers are answers to; one of an earlier version does not."""
    notices: Notices | None = None


class Sample:
    """One sample on its way into its row of the batch."""

    __slots__ = (
        *("by", "epoch", "host", "index", "name", "node", "others", "reason", "row"),
        *("doubts", "room", "since", "stage", "tries"),
    )

    def __init__(
        self, row: Any, epoch: int, index: int, name: str, node: int, host: str, stage: Literal["etl", "here"]
    ) -> None:
        self.row, self.epoch, self.index, self.name = row, epoch, index, name
        self.node, self.host, self.stage = node, host, stage
        self.room: memoryview | None = None  # the row's memory
        self.tries = 0
        self.doubts = 0  # answers that were not, or may not have been, about it
        self.since = 0.0  # when its bytes were first asked for in vain
        self.by = index  # whose bytes it is made of
        self.others: Iterator[int] | None = None
        self.reason = ""


class RemoteDataset:
    """A split of a bucket as a ``BatchDataset``."""

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self._fetcher: Fetcher[Sample] | None = None
        self._paths = etl_paths(remote)
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
        indices = np.array([index for _, index in keys], np.int64)
        names = remote.manifest.names_of(indices)
        nodes = remote.placement.numbers_of([self._bucket + name for name in names])
        samples = self._samples(rows, keys, names, nodes)
        collect()
        last = self._to_be_audited(samples)
        work = self._work([sample for sample in samples if sample is not last])
        if last:
            work = work.plus(self._work([last]))
        work = self._audited(samples, last, work)
        labels = torch.from_numpy(remote.manifest.labels[indices])
        replaced = tuple(Substitution(s.epoch, s.index, s.by, s.reason) for s in samples if s.by != s.index)
        work.counts["replaced"] = len(replaced)
        return Batch(
            images, labels, torch.from_numpy(indices), Counts(**work.counts), work.latencies.to_bytes(), replaced
        )

    def _samples(self, rows: Any, keys: list[tuple[int, int]], names: list[str], nodes: list[int]) -> list[Sample]:
        remote, hosts = self.remote, self.remote.placement.hosts
        usual: Literal["etl", "here"] = "etl" if remote.etl_names else "here"
        looked_at = usual == "etl" and (remote.local_share > 0 or _UNSAFE.search("\n".join(names)) is not None)
        memory, size = rows.data.cast("B"), rows.nbytes // max(1, len(rows))
        samples, at = [], 0
        for row, (epoch, index), name, node in zip(rows, keys, names, nodes, strict=True):
            sample = Sample(row, epoch, index, name, node, hosts[node], usual)
            sample.room = memory[at : at + size]
            at += size
            if looked_at and (self._is_made_here(epoch, index) or _UNSAFE.search(name)):
                sample.stage = "here"
            samples.append(sample)
        return samples

    def _is_made_here(self, epoch: int, index: int) -> bool:
        """Whether (epoch, index) belongs to the share that is: SplitMix64 of the two."""
        share = self.remote.local_share
        return share > 0 and int(splitmix64(np.array([(epoch << 40) + index], np.uint64))[0]) < share * 2**64

    def _work(self, samples: list[Sample]) -> "Work":
        self._fetcher = self._fetcher or Fetcher(self.remote.access, hosts=self.remote.placement.hosts)
        work = Work(self.remote, self._fetcher, self._paths)
        self._fetcher.run(samples, work.begin, work.done)
        work.note_times()
        return work

    def _to_be_audited(self, samples: list[Sample]) -> Sample | None:
        """Any sample of the batch, to be asked for when all others have come, and audited; None: not this time."""
        candidates = [sample for sample in samples if sample.stage == "etl"]
        every = self.remote.audit_every
        if every == 0 or not candidates or self._unaudited + len(candidates) < every:
            return None
        first = candidates[0]
        drawn = splitmix64(np.array([(first.epoch << 40) + first.index], np.uint64) ^ np.uint64(self.remote.seed))
        return candidates[int(drawn[0] % np.uint64(len(candidates)))]

    def _audited(self, samples: list[Sample], last: Sample | None, work: "Work") -> "Work":
        """Now and then one of the ETL's samples is made here too, and compared: somebody may have replaced the ETL.

        It is the ``last`` one that was asked for; where every batch is audited, no altered pixel is handed out.
        Answers in other samples' rows are not what it is for: their proofs show them, each at once. Of an ETL without
        proofs, an audited batch of n samples with w in wrong rows is found with a probability of w/n.
        Raises DataError if some may have been altered.
        """
        remote = self.remote
        made_there = [sample for sample in samples if sample.stage == "etl"]
        if not made_there or remote.audit_every == 0:
            return work
        self._unaudited += len(made_there)
        if self._unaudited < remote.audit_every:
            self._trusted = False
            return work
        known = last if last in made_there else made_there[-1]
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
        self._etl_bytes = 0
        self._objects_took_s = list[float]()
        self._is_jpeg = remote.wire != "raw"
        self._largest_jpeg = 3 * remote.spec.size**2 + (1 << 16)
        limit_s = remote.deadline_s
        self.deadline_s = remote.breakers.deadline_s(limit_s) if remote.adaptive_deadline else limit_s

    def plus(self, other: "Work", counts: bool = True) -> "Work":
        """Both together."""
        if counts:
            self.counts.update(other.counts)
        self.latencies.add(other.latencies)
        return self

    def note_times(self) -> None:
        """At the end: how long requests took, and how many bytes the ETL has made."""
        self.counts["etl"], self.counts["etl_bytes"] = len(self._took_s), self._etl_bytes
        self.latencies.count("etl", self._took_s)
        self.latencies.count("object", self._objects_took_s)
        late_s = [self.deadline_s] * len(self._late_nodes)
        self.remote.breakers.took(self._nodes + self._late_nodes, self._took_s + late_s)

    def begin(self, sample: Sample) -> Get:
        """The next request of a sample."""
        remote = self.remote
        if sample.stage == "etl" and remote.breakers.is_open(sample.node):
            self._give_up_on_the_etl(sample)
        direct = remote.direct and sample.tries == 0 and sample.doubts < 2
        host = remote.placement.hosts[sample.node] if direct else self.fetcher.proxy
        if sample.stage == "here":
            host = host if sample.by == sample.index else self.fetcher.proxy
            get = Get(object_path(remote.uri, remote.manifest.name(sample.by)), host, RAW_TIMEOUT_S)
            get.most = int(remote.manifest.sizes[sample.by])
            get.check = partial(object_problem, remote.manifest, sample.by)
        else:
            path, stated = self.paths.ask(sample)
            row = None if self._is_jpeg else sample.room or memoryview(sample.row).cast("B")
            get = Get(path, host, self.deadline_s, row, stated, self._largest_jpeg)
        if sample.doubts:
            get.fresh = True
        return get

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
            self._etl_bytes += len(get.body if get.row is None else get.row)
            return None
        if isinstance(error, ObjectError) and error.corrupt_sample:
            self._give_up_on_the_etl(sample)  # whether the object is bad, or what the ETL was given of it, is seen here
            return 0.0
        if isinstance(error, TimeoutError):
            self._late_nodes.append(sample.node)
        if isinstance(error, ObjectError) and error.out_of_step:
            self.remote.breakers.out_of_step()
            sample.doubts += 1
        self.counts["opened"] += self.remote.breakers.failed(sample.node)
        sample.tries += 1
        lost = isinstance(error, ConnectionError) or getattr(error, "status", 0) in (200, 429, 502, 503)
        if sample.tries < _TRIES and lost and get.took_s < self.deadline_s / 2:
            self.counts["retries"] += 1
            return 0.05
        self._give_up_on_the_etl(sample)
        return 0.0

    def _give_up_on_the_etl(self, sample: Sample) -> None:
        sample.stage, sample.tries, sample.doubts = "here", 0, 0
        self.counts["fallbacks"] += 1

    def _object_came(self, sample: Sample, get: Get) -> float | None:
        remote, error = self.remote, get.error
        if isinstance(error, ObjectError) and error.out_of_step:
            remote.breakers.out_of_step()
            listed = get.check is not None and get.check(get) == error.message
            words = error.message if listed else f"did not come as it was listed: {error.message}"
            return self._doubt(sample, get, words)
        if error is not None:
            return self._wait(sample, get, error)
        if problem := object_problem(remote.manifest, sample.by, get):
            return self._doubt(sample, get, problem)
        self._objects_took_s.append(get.took_s)
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

    def _doubt(self, sample: Sample, get: Get, problem: str) -> float:
        """The bytes are not the object's: another answer's, or the object is another one by now."""
        sample.doubts += 1
        if sample.doubts < _DOUBTS:
            self.counts["retries"] += 1
            return 0.05
        length, listed = get.headers.get("content-length", ""), int(self.remote.manifest.sizes[sample.by])
        if length.isdecimal() and int(length) > listed:  # none of it was received
            problem = f"has {length} bytes, and had {listed} when it was listed: somebody has replaced it"
        return self._substitute(sample, problem)

    def _wait(self, sample: Sample, get: Get, error: ObjectError | OSError) -> float | None:
        """The bytes cannot be had now. Raises UnreachableError after ``patience_s``, DataError if waiting is no use."""
        remote, now = self.remote, time.monotonic()
        sample.since = sample.since or now
        sample.tries += 1
        status = error.status if isinstance(error, ObjectError) else 0
        if status in (401, 403, 404) and not get.fresh:  # who knows which request it is the answer to
            sample.doubts += 1
            self.counts["retries"] += 1
            return 0.0
        lasting = status == 403 or (status == 401 and not remote.access.token_file)  # a file may get another token yet
        if lasting or isinstance(error, ssl.SSLCertVerificationError):
            raise DataError(f"{self._locate(sample.by)} cannot be read: {explain(error, remote.access)}")
        if status == 404 and "does not exist" in str(error) and self._all_targets_are_there():
            return self._substitute(sample, "does not exist any more, and did when it was listed")
        if now - sample.since > remote.patience_s:
            raise UnreachableError(
                f"{self._locate(sample.by)} could not be had for {remote.patience_s:g} s (data.patience_s): "
                f"{explain(error, remote.access)}"
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
        sample.by, sample.stage, sample.tries, sample.doubts, sample.since = by, "here", 0, 0, 0.0
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
    fetcher = Fetcher[Sample](access, hosts=placement.hosts)
    try:
        fetcher.run(
            [sample],
            lambda _: Get(object_path(uri, name), sample.host, RAW_TIMEOUT_S),
            lambda _, get: outcome.append(get),
        )
    finally:
        fetcher.close()
    return outcome[0].error is None


def etl_paths(remote: Remote) -> EtlPaths:
    """Of the requests to the ETL of ``remote``."""
    wire: Literal["raw", "jpeg"] = "raw" if remote.wire == "raw" else "jpeg"
    return EtlPaths(remote.uri, remote.etl_names, remote.spec, remote.seed, wire, remote.tags)


def uname(uri: str) -> str:
    """What AIS puts before an object's name to place it."""
    bucket = parse_bucket(uri)
    return f"{bucket.provider.value}/@{bucket.cluster}#{bucket.namespace}/{bucket.name}/"
