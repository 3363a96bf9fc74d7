"""The index of tar shards as the ETL's pods read them, beside the shards: of the bytes of photos none travels.

An index is believed only if it is that of the shard that was listed: it has its size, and after it was made the storage
node still holds the bytes of the listing's checksum. What is in it is judged as what this machine reads itself.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from aistore_data.bucket.store import Entry
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import Access, object_path
from aistore_data.client.answer import Get
from aistore_data.client.fetch import Fetcher
from aistore_data.client.http_reader import HttpReader
from aistore_data.etls.asking import UNSAFE, knows_index
from etl.request import encode_index, stated
from etl.shard_index import MOST_BYTES, unpacked
from sources.errors import DataError
from sources.manifest import checksum_digest
from sources.progress_bar import Progress
from sources.shards.manifest import Shard
from sources.shards.members import BLOCK, Member
from sources.shards.shard import Rows, samples_of

_PER_NODE = 2
"""Shards that a storage node's pod is asked for at a time."""

_ROUND = 16
"""Shards for each of those: what one round has found is kept where the next one is interrupted."""

_LEAST_S, _LEAST_RATE = 30.0, 1 << 23
"""Time for an index: so many seconds, and more by the time that the shard takes at so many bytes/s."""

_FAILURES = 3
"""Shards in a row that end the asking: who does not answer in time for these will not for the others."""

_TRIES = 2
_WORDS = 300
"""Characters of what is told of a failure."""


@dataclass(slots=True, eq=False)
class _Asked:
    """A shard on its way to its rows: first the ETL is asked for its index, and then AIStore for its checksum."""

    shard: Shard
    entry: Entry
    host: str
    tag: int
    stage: Literal["index", "checksum"] = "index"
    tries: int = 0
    rows: Rows | None = None
    problem: str = ""


@dataclass(frozen=True)
class EtlIndex:
    """Asks the ETL that ``start`` names of a bucket; it is called when there is something to ask.

    ``nodes``: how many storage nodes there are.
    """

    access: Access
    uri: str
    nodes: int
    label_field: str
    start: Callable[[], str]
    say: Callable[[str], None]

    def rows(self, listed: Mapping[Shard, Entry]) -> Iterator[tuple[Shard, Rows]]:
        """Yield what is in some of the shards, in any order; ``say`` hears why those that are missing are.

        Raises ClusterError for an ETL that cannot be started, or answers nothing.
        """
        entries = {shard: entry for shard, entry in listed.items() if self._may_be_asked(entry)}
        if not entries:
            return
        name = self.start()
        if not knows_index(HttpReader(self.access), self.uri, next(iter(entries.values())).name, name):
            self.say(f"ETL {name} runs the code of a former version, which indexes no shards: this machine reads them")
            return
        self.say(f"{self.uri}: ETL {name} indexes {len(entries):,} shards")
        work = _Work(self, name)
        left, most = list(entries.items()), _ROUND * _PER_NODE * max(1, self.nodes)
        with Progress(f"shards indexed by ETL {name}", len(left)) as progress:
            while left and not work.is_hopeless():
                some, left = left[:most], left[most:]
                yield from work.run(some, progress)
        if work.failed:
            count, first = len(entries) - work.done, work.failed[0]
            self.say(
                f"ETL {name} has not indexed {count:,} of {len(entries):,} shards, like {self.uri}/{first.entry.name}: "
                f"{first.problem.rstrip('.')}. This machine reads them"
            )

    @staticmethod
    def _may_be_asked(entry: Entry) -> bool:
        return not entry.in_parts and not UNSAFE.search(entry.name)


class _Work:
    """The requests for one split's shards."""

    def __init__(self, of: EtlIndex, name: str) -> None:
        self.of, self.name = of, name
        total = _PER_NODE * max(1, of.nodes)
        self.fetcher: Fetcher[_Asked] = Fetcher(of.access, per_host=total, total=total)
        self.failed: list[_Asked] = []
        self.done = self.tag = self._in_a_row = 0

    def is_hopeless(self) -> bool:
        """Whether nobody is asked any more."""
        return self._in_a_row >= _FAILURES

    def run(self, some: list[tuple[Shard, Entry]], progress: Progress) -> Iterator[tuple[Shard, Rows]]:
        """Yield the rows of those of the shards that have an index to be believed."""
        found: list[_Asked] = []

        def tasks() -> Iterator[_Asked]:
            for shard, entry in some:
                if self.is_hopeless():
                    return
                self.tag += 1
                yield _Asked(shard, entry, self.fetcher.proxy, self.tag)

        def answered(asked: _Asked, get: Get) -> float | None:
            again = self._answered(asked, get)
            if again is None:
                has_come = asked.rows is not None
                self._in_a_row = 0 if has_come else self._in_a_row + 1
                (found if has_come else self.failed).append(asked)
                progress.add(1, asked.shard.size)
            return again

        self.fetcher.run(tasks(), self._request, answered)
        for asked in found:
            assert asked.rows is not None
            self.done += 1
            yield asked.shard, asked.rows

    def _request(self, asked: _Asked) -> Get:
        access, uri, name, size = self.of.access, self.of.uri, asked.entry.name, asked.shard.size
        if asked.stage == "checksum":
            path, most = object_path(uri, name), BLOCK
            get = Get(path, self.fetcher.proxy, access.read_timeout_s, part=(max(0, size - BLOCK), size))
            get.check = partial(_change, asked.shard)
        else:
            arguments = encode_index("json" if self.of.label_field else "cls", asked.tag)
            path, most = object_path(uri, name, etl_name=self.name, etl_args=arguments), MOST_BYTES
            statement = stated(f"{parse_bucket(uri).name}/{name}", arguments)
            get = Get(path, self.fetcher.proxy, _LEAST_S + size / _LEAST_RATE, stated=statement)
        get.most, get.fresh, get.connect_timeout_s = most, asked.tries > 0, access.connect_timeout_s
        return get

    def _answered(self, asked: _Asked, get: Get) -> float | None:
        """None when no more is asked of the shard, else the seconds until the next request."""
        if get.error is not None:
            asked.tries += 1
            lost = isinstance(get.error, ConnectionError) or getattr(get.error, "status", 0) in (200, 429, 502, 503)
            if lost and asked.tries < _TRIES:
                return 0.1
            asked.rows, asked.problem = None, str(get.error)[:_WORDS]
            return None
        if asked.stage == "checksum":
            return None
        try:
            asked.rows = _rows(get.body, asked.shard, f"{self.of.uri}/{asked.entry.name}", self.of.label_field)
        except (ValueError, DataError) as error:
            asked.problem = str(error)[:_WORDS]
            return None
        asked.stage, asked.tries = "checksum", 0
        return 0.0


def _rows(index: bytes | bytearray, shard: Shard, where: str, label_field: str) -> Rows:
    """The samples in an index. Raises ValueError for one that is none, DataError for what is no shard of samples."""
    found = {one.member: one for one in unpacked(bytes(index), shard.size)}

    def content(member: Member) -> bytes:
        told = found[member].content
        if told is None:
            raise ValueError(f"the index lacks a label of {member.size:,} bytes")
        return told

    return samples_of(found, lambda member: found[member].crc32, content, where, label_field)


def _change(shard: Shard, get: Get) -> str:
    """What shows that a shard is not the one that was listed; "" if nothing does."""
    if not get.headers.get("content-range", "").endswith(f"/{shard.size}"):
        return "the shard has another size than when it was listed"
    if shard.stamp and checksum_digest(get.headers.get("ais-checksum-value")) != shard.stamp:
        return "the shard has another checksum than when it was listed"
    return ""
