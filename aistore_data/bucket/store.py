"""A store of objects, as all but the hot path see it: the mirror, uploads and their leases, listings and manifests.

``AisStore`` is AIStore by its SDK. Another store is another class with these methods; the mirror and the upload's
destination say which one an address means.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import xxhash
from aistore.sdk.batch.batch import Batch
from aistore.sdk.errors import AISError
from aistore.sdk.list_object_flag import ListObjectFlag
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from aistore_data.bucket.uri import split_uri
from aistore_data.client.access import Access, object_path, server_message
from aistore_data.client.answer import MOST_BYTES
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import explain, make_client
from sources.disk import Content, MappedFile
from sources.errors import ObjectError

_LISTINGS = 16
"""Folders that are listed at a time."""

_GETS = 16
"""GETs at a time, where objects are not read by get-batch."""

_BATCH = 4000
"""Objects of one get-batch: 3.7 times the rate of 16 GETs at a time; at 500 twice (AIS 5.0, 3 targets, loopback)."""

_PIECE_BYTES = 1 << 20
_IN_PARTS = 1 << 13
"""Of an entry's flags in AIStore's listings: the object lies in chunks."""
_WAIT_S = 10.0
"""Between two tries, at most."""


class Entry(NamedTuple):
    """An object, or a file, as a listing has it; ``checksum`` is XXH64 in hex, or empty."""

    name: str
    size: int
    checksum: str = ""
    in_parts: bool = False
    """Whether AIStore keeps it in several files, as it does what was uploaded in parts."""

    def fits(self, data: Content) -> bool:
        """Whether these bytes may be there, as far as size and checksum tell."""
        return self.size == len(data) and self.checksum in ("", xxhash.xxh64_hexdigest(data))


class Destination(Protocol):
    """What a data set is written to: a store, or a folder; pickles. Refusals are ObjectError, all else is OSError."""

    @property
    def uri(self) -> str:
        """The address: that of the bucket, and what all names begin with, which no name below repeats."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """All objects whose names begin with ``prefix``, in an order that their names alone decide."""

    def put(self, name: str, content: Content) -> None:
        """Make or replace an object of bytes, or of a mapped file's; nobody sees it half-written."""

    def explain(self, error: Exception) -> str:
        """What one of these errors means and what to do, as a sentence."""


class ObjectStore(Destination, Protocol):
    """What the project needs of a store of objects."""

    @property
    def is_cloud(self) -> bool:
        """Whether the objects are a cloud's, whose checksums in a listing are not those of the bytes that are read."""

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """An object of ``most`` bytes at most."""

    def get_many(self, names: Sequence[str]) -> Iterator[Sequence[bytes]]:
        """Small objects, in their order and some at a time; fewer if the answer breaks off."""

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes ``begin`` to ``end`` of an object of any size, in pieces."""

    def delete(self, name: str) -> None:
        """Remove an object that exists."""


@dataclass(frozen=True)
class AisStore:
    """AIStore, as ``ObjectStore``; ``uri`` as ais://NAME or ais://NAME/PREFIX.

    ``timeout_s`` is for each answer. An object is put up to ``tries`` times while the cluster does not answer.
    """

    uri: str
    access: Access
    timeout_s: float = 30.0
    tries: int = 1

    @cached_property
    def bucket(self) -> Any:
        """The SDK's bucket, of a client of this process. Raises ConfigError for what is no address."""
        return split_uri(self.uri)[0].of(make_client(self.access, self.timeout_s))

    @property
    def is_cloud(self) -> bool:
        """Whether AIStore reads and writes through to a cloud, where buckets are made, too."""
        return bool(self.bucket.provider.is_remote())

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return AisStore, (self.uri, self.access, self.timeout_s, self.tries)

    def head(self) -> None:
        """Raises ObjectError with status 404 if there is no such bucket."""
        with _errors():
            self.bucket.head()

    def create(self) -> None:
        """Make the bucket, if it is missing and not a cloud's."""
        with _errors():
            if not self.is_cloud:
                self.bucket.create(exist_ok=True)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Implement ``ObjectStore.list``."""
        with _errors():
            for entry in iter_objects(self.bucket, self._prefix + prefix, "name,size,checksum"):
                in_parts = bool(entry.flags & _IN_PARTS)
                yield Entry(entry.name.removeprefix(self._prefix), entry.size, entry.checksum, in_parts)

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """As in ``ObjectStore``, with the fast reader's care for what a server may answer."""
        return self._reader.get(object_path(f"{self.uri}/".removesuffix(f"/{self._prefix}"), self._prefix + name), most)

    def get_many(self, names: Sequence[str]) -> Iterator[Sequence[bytes]]:
        """As in ``ObjectStore``, by AIS's get-batch: it takes an eighth of the CPU that a GET for each takes."""
        if self.bucket.namespace:  # of which the SDK's get-batch says nothing: it would read the bucket without one
            with ThreadPoolExecutor(_GETS) as pool:
                yield from ((content,) for content in pool.map(self.get, names))
            return
        with _errors():
            for at in range(0, len(names), _BATCH):
                wanted = [self._prefix + name for name in names[at : at + _BATCH]]
                answered = [c for _, c in Batch(self.bucket.client, wanted, self.bucket, only_obj_name=True).get()]
                yield answered
                if len(answered) < len(wanted):
                    return

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Implement ``ObjectStore.read``."""
        whole = begin == 0 and end is None
        part = None if whole else f"bytes={begin}-{'' if end is None else end - 1}"
        with _errors():
            yield from self._object(name).get_reader(chunk_size=_PIECE_BYTES, byte_range=part)

    def put(self, name: str, content: Content) -> None:
        """As in ``ObjectStore``; ObjectError too where other bytes have arrived than were sent."""
        tries = Retrying(
            retry=retry_if_exception(may_pass),
            stop=stop_after_attempt(self.tries),
            wait=wait_random_exponential(max=_WAIT_S),
            reraise=True,
        )

        def send() -> Any:
            if isinstance(content, MappedFile):
                content.seek(0)  # a try that has failed may have sent some of it
            return self._object(name).get_writer().put_content(content)

        with _errors():
            answer = tries(send)
        kind, value = (answer.headers.get(f"Ais-Checksum-{part}", "") for part in ("Type", "Value"))
        if kind == "xxhash2" and value != xxhash.xxh64_hexdigest(content):
            raise ObjectError(200, f"with the checksum {value}: other bytes arrived than were sent")

    def delete(self, name: str) -> None:
        """Implement ``ObjectStore.delete``."""
        with _errors():
            self._object(name).delete()

    def explain(self, error: Exception) -> str:
        """Implement ``ObjectStore.explain``."""
        return explain(error, self.access)

    @cached_property
    def _prefix(self) -> str:
        prefix = split_uri(self.uri)[1]
        return f"{prefix}/" if prefix else ""

    @cached_property
    def _reader(self) -> HttpReader:
        return HttpReader(self.access)

    def _object(self, name: str) -> Any:
        return self.bucket.object(self._prefix + name)


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, or one that says that the server is at fault."""
    if isinstance(error, AISError | ObjectError):
        status = error.status_code if isinstance(error, AISError) else error.status
        return bool(status == 429 or status >= 502)
    return isinstance(error, OSError)


@contextmanager
def _errors() -> Iterator[None]:
    """The SDK's refusals as ObjectError; that nobody answers, requests says with an OSError."""
    try:
        yield
    except AISError as error:
        raise ObjectError(error.status_code, server_message(error.message.encode())) from None


def iter_objects(bucket: Any, prefix: str = "", props: str = "", page_size: int = 0) -> Iterator[Any]:
    """The SDK's entries of all objects below ``prefix`` of an SDK bucket, in an order that their names alone decide.

    AIS (5.0) walks folders in the order of their own names, but goes on from page to page by whole names; so a listing
    of several pages loses objects where one folder's name begins another's ("tiger/", "tiger cat/": a blank comes
    before the slash). What does not fit on a page (10,000 names) is therefore listed folder by folder.
    """
    page = bucket.list_objects(prefix=prefix, props=props, page_size=page_size)
    if not page.continuation_token:
        yield from page.entries
        return
    folders = []
    for entry in bucket.list_objects_iter(prefix, props, page_size, flags=[ListObjectFlag.NO_RECURSION]):
        if entry.name.endswith("/"):
            folders.append(entry.name)
        else:
            yield entry
    with ThreadPoolExecutor(_LISTINGS) as pool:
        for below in pool.map(lambda folder: list(iter_objects(bucket, folder, props, page_size)), folders):
            yield from below
