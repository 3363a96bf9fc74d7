"""Samples of a bucket: made by the cluster's ETL, or here from the objects' bytes; whatever fails, the same samples.

What becomes of a sample is one of these: the ETL makes it; the ETL fails, is late or is known to be broken, and it is
made here of the object's bytes; they cannot be had either, and it is waited for, up to ``patience_s``.

An answer is believed only if it is that to its request. The ETL's has a proof of 16 bytes over the sample's index,
bucket and object, all arguments and both ends of the content: another answer passes with a probability of 2^-128 for
each row. An object has the size, and where the manifest has a checksum, the checksum with which it was listed. A
verdict (the object is gone, or is another one by now) is believed only on a new connection, on which nothing has been
before.
"""

import ssl
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from aistore_data.bucket.photos import asking, at_of, how_to_look, object_of, photo_in, shard_problem
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import Access, object_path
from aistore_data.client.answer import Get
from aistore_data.client.fetch import Fetcher
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import cluster_map, explain
from aistore_data.dataset.breaker import Breakers
from aistore_data.dataset.sample import Sample
from aistore_data.etls.asking import EtlPaths
from etl.sample import CorruptSample
from etl.spec import Key, Spec
from sources.batch import Latencies
from sources.disk import shown
from sources.errors import DataError, ObjectError, UnreachableError
from sources.manifest import Manifest
from sources.notices import Notices, collect
from sources.samples import from_wire, heard, make
from sources.shards.manifest import ShardManifest
from sources.source import Specs
from sources.substitutes import advice, substitutes

RAW_TIMEOUT_S = 5.0
"""Seconds for the bytes of an object."""

_TRIES = 2
"""Requests to the ETL for one sample, if the first one fails at once: a connection that was reset is no broken ETL."""

GONE_S = 5.0
"""Seconds after which a shard that is missing counts as gone: while AIStore moves it there is a second without it."""

_DOUBTS = 4
"""Answers, all but the first on new connections, that must agree that an object is another one by now."""


@dataclass(frozen=True)
class Remote:
    """Where the samples of a split come from, and how they are asked for: all that a worker must know."""

    access: Access
    uri: str
    manifest: Manifest
    placement: Placement
    breakers: Breakers
    spec: Spec | Specs
    seed: int
    direct: bool = False
    """Whether storage nodes answer without the proxy's redirect."""
    etl_name: str = ""
    """Without one samples are made here."""
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
    in_parts: frozenset[str] = frozenset()
    """Objects that AIStore keeps in several files, of which an ETL sees the first alone: they are read here."""

    def locate(self, index: int) -> str:
        """Say where sample ``index`` lies, for messages."""
        inside = f"{shown(self.manifest.name(index))} in " if isinstance(self.manifest, ShardManifest) else ""
        return f"{inside}{self.uri}/{object_of(self.manifest, index)}"


def etl_paths(remote: Remote, spec: Spec) -> EtlPaths:
    """Return the paths of requests to the ETL of ``remote`` for samples of ``spec``."""
    in_shards = isinstance(remote.manifest, ShardManifest)
    return EtlPaths(remote.uri, remote.etl_name, spec, remote.seed, remote.wire, remote.tags, in_shards)


def uname(uri: str) -> str:
    """What AIS puts before an object's name to place it."""
    bucket = parse_bucket(uri)
    return f"{bucket.provider.value}/@{bucket.cluster}#{bucket.namespace}/{bucket.name}/"


class SamplePolicy:
    """The rules: what a sample asks next, and what an answer means for it."""

    def __init__(self, remote: Remote, fetcher: Fetcher[Sample], paths: EtlPaths, spec: Spec) -> None:
        self.remote = remote
        self.fetcher = fetcher
        self.paths = paths
        self.spec = spec
        self.counts = Counter[str]()  # by the names of Counts
        self.latencies = Latencies()
        self._forget_times()
        self._is_jpeg = remote.wire != "raw"
        self._largest_jpeg = 3 * spec.size**2 + (1 << 16)
        limit_s = remote.deadline_s
        self.deadline_s = remote.breakers.deadline_s(limit_s) if remote.adaptive_deadline else limit_s

    def run(self, samples: Iterable[Sample]) -> None:
        """Make these samples, after others if there were some: their counts add up. Raises as ``on_response``."""
        self.fetcher.run(samples, self.next_request, self.on_response)
        self.counts["etl"] += len(self._took_s)
        self.counts["etl_bytes"] += self._etl_bytes
        self.latencies.count("etl", self._took_s)
        self.latencies.count("object", self._objects_took_s)
        late_s = [self.deadline_s] * len(self._late_nodes)
        self.remote.breakers.record_latency(self._nodes + self._late_nodes, self._took_s + late_s)
        self._forget_times()

    def _forget_times(self) -> None:
        self._nodes, self._took_s = list[int](), list[float]()  # the ETL's answers: whose, and how long they took
        self._late_nodes, self._objects_took_s = list[int](), list[float]()
        self._etl_bytes = 0

    def next_request(self, sample: Sample) -> Get:
        """The next request of a sample."""
        remote = self.remote
        if sample.stage == "etl" and remote.breakers.is_open(sample.node):
            self._give_up_on_the_etl(sample)
        direct = remote.direct and sample.tries == 0 and sample.doubts < 2
        host = remote.placement.hosts[sample.node] if direct else self.fetcher.proxy
        if sample.stage == "local":
            host = host if sample.source_index == sample.index else self.fetcher.proxy
            index = sample.source_index
            path = object_path(remote.uri, object_of(remote.manifest, index))
            get = Get(path, host, RAW_TIMEOUT_S, **asking(remote.manifest, index))
        else:
            at = at_of(remote.manifest, sample.index)
            path, stated = self.paths.ask(sample.name, sample.epoch, sample.index, sample.view, at)
            row = None if self._is_jpeg else sample.row.data.cast("B")
            get = Get(path, host, self.deadline_s, row, stated, self._largest_jpeg)
        if sample.doubts:
            get.fresh = True
        return get

    def on_response(self, sample: Sample, get: Get) -> float | None:
        """What an answer means: None if the sample is made, else the seconds until it goes on."""
        return self._etl_answered(sample, get) if sample.stage == "etl" else self._object_came(sample, get)

    def _etl_answered(self, sample: Sample, get: Get) -> float | None:
        error: Exception | None = get.error
        if error is None and get.row is None:
            try:
                sample.row[:] = from_wire(bytes(get.body), self.spec)
            except ObjectError as problem:
                error = problem
        if error is None:
            self.remote.breakers.record_success(sample.node)
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
        sample.stage, sample.tries, sample.doubts = "local", 0, 0
        self.counts["fallbacks"] += 1

    def _object_came(self, sample: Sample, get: Get) -> float | None:
        remote, error = self.remote, get.error
        if isinstance(error, ObjectError) and error.out_of_step:
            remote.breakers.out_of_step()
            listed = get.check is not None and get.check(get) == error.message
            words = error.message if listed else f"did not come as it was listed: {error.message}"
            return self._doubt(sample, get, words)
        if isinstance(remote.manifest, ShardManifest) and getattr(error, "status", 0) == 416:
            return self._doubt(sample, get, "")
        if error is not None:
            return self._wait(sample, get, error)
        self._objects_took_s.append(get.took_s)
        try:
            key = Key(remote.seed, sample.epoch, sample.index, sample.view)
            make(sample.row, photo_in(remote.manifest, get.body), self.spec, key, remote.wire)
        except CorruptSample as error:
            return self._substitute(sample, f"is {error}")
        self.counts["odd"] += heard(remote.locate, sample.source_index, remote.notices)
        self.counts["local"] += 1
        self.counts["object_bytes"] += len(get.body)
        return None

    def _doubt(self, sample: Sample, get: Get, problem: str) -> float:
        """The bytes are not the object's: another answer's, or the object is another one by now."""
        sample.doubts += 1
        if sample.doubts < _DOUBTS:
            self.counts["retries"] += 1
            return 0.05
        manifest = self.remote.manifest
        if isinstance(manifest, ShardManifest):
            if changed := shard_problem(manifest, sample.source_index, get):
                raise self._changed(sample, f"was changed since it was indexed: {changed}")
            return self._substitute(sample, problem)
        length, listed = get.headers.get("content-length", ""), int(self.remote.manifest.sizes[sample.source_index])
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
            raise DataError(f"{remote.locate(sample.source_index)} cannot be read: {explain(error, remote.access)}")
        gone = status == 404 and "does not exist" in str(error) and self._all_targets_are_there()
        if gone and isinstance(remote.manifest, ShardManifest):
            if now - sample.since > min(GONE_S, remote.patience_s):
                raise self._changed(sample, "does not exist any more, and did when it was listed")
        elif gone:
            return self._substitute(sample, "does not exist any more, and did when it was listed")
        if now - sample.since > remote.patience_s:
            raise UnreachableError(
                f"{remote.locate(sample.source_index)} could not be read for {remote.patience_s:g} s "
                f"(data.patience_s): {explain(error, remote.access)}"
            )
        if now - sample.since > 1:
            remote.breakers.record_starvation()
        self.counts["retries"] += 1
        return float(min(1.0, 0.05 * 2**sample.tries))

    def _changed(self, sample: Sample, how: str) -> DataError:
        """The error for a shard that is gone or another one: no sample of it can be believed, nor replaced."""
        where = f"{self.remote.uri}/{object_of(self.remote.manifest, sample.source_index)}"
        return DataError(
            f"{where} {how}. Upload it again as it was, or start the same command again: it indexes what is there, and "
            "goes on where the data are the same."
        )

    def _all_targets_are_there(self) -> bool:
        """Whether the cluster has the storage nodes that it had at the start; else what is missing may come back."""
        access = self.remote.access
        found = cluster_map(access)
        return found is not None and set(self.remote.placement.hosts) <= set(Placement(found, access.endpoint).hosts)

    def _substitute(self, sample: Sample, problem: str) -> float:
        """Go on with another sample of the class. Raises DataError where that is not wanted, or there is none."""
        remote = self.remote
        collect()  # what Pillow has said of this object belongs to no other
        where = self.remote.locate(sample.source_index)
        look = how_to_look(remote.uri, remote.access.endpoint, remote.manifest, sample.source_index)
        if not remote.replace:
            raise DataError(f"{where} {problem}. Look at it with: {look}. {advice(self.spec)}")
        if sample.others is None:
            sample.others = substitutes(remote.manifest, sample.index, remote.seed)
            sample.reason = f"{where} {problem}"
        by = next(sample.others, None)
        if by is None:
            raise DataError(f"{where} {problem}, and no other sample of its class can take its place.")
        sample.source_index, sample.stage, sample.tries, sample.doubts, sample.since = by, "local", 0, 0, 0.0
        return 0.0
