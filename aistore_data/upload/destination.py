"""Where a data set is put: a folder, or a bucket. Both take a file or an object whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import xxhash
from aistore.sdk.errors import AISError
from requests.exceptions import RequestException
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from aistore_data.bucket.layout import BESIDE
from aistore_data.bucket.objects import iter_objects
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.http_reader import Access, server_message
from aistore_data.client.sdk import make_client
from sources.errors import ClusterError, DataError
from sources.progress_bar import Progress

SPLITS = ("train/", "val/")
GOES_ON = "What was written stays, and the same command goes on."
_TRIES = 5
_WAIT_S = 10.0


class Stat(NamedTuple):
    """What is known of a file or an object without reading it; ``checksum`` is XXH64 in hex, or empty."""

    size: int
    checksum: str = ""

    def fits(self, data: bytes) -> bool:
        """Whether these bytes may be there, as far as size and checksum tell."""
        return self.size == len(data) and self.checksum in ("", xxhash.xxh64_hexdigest(data))


class Destination(Protocol):
    """A folder or a bucket; pickles, for the processes that write."""

    @property
    def uri(self) -> str:
        """For messages."""

    def present(self) -> dict[str, Stat]:
        """What is there of the splits and beside them, by name."""

    def put(self, name: str, data: bytes) -> None:
        """Write a file or an object; visible at once and whole. Raises DataError or ClusterError."""


@dataclass(frozen=True)
class Folder:
    """A folder, in ImageFolder's layout."""

    root: Path

    @property
    def uri(self) -> str:
        """Its path."""
        return str(self.root)

    @property
    def _partial(self) -> Path:
        return self.root / BESIDE / "partial"

    def prepare(self) -> None:
        """Make the folder, and remove what a killed process left half written. Raises DataError."""
        try:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.root} cannot be written to: {error.strerror}.") from None

    def finish(self) -> None:
        """All that was written reaches the disk; takes away what ``prepare`` made."""
        shutil.rmtree(self._partial, ignore_errors=True)
        os.sync()

    def present(self) -> dict[str, Stat]:
        """All files below train/, val/ and .imagenet-ais/, whatever their names, but those half written."""
        found = {}
        with Progress(f"files of {self.root} found") as progress:
            for prefix in (*SPLITS, BESIDE):
                for path, size in _files(str(self.root / prefix)):
                    name = os.path.relpath(path, self.root)
                    if not path.startswith(f"{self._partial}/"):
                        found[name] = Stat(size)
                        progress.add(1)
        return found

    def put(self, name: str, data: bytes) -> None:
        """By renaming. Raises DataError, as for a full disk."""
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._partial, delete=False) as file:
                try:
                    file.write(data)
                    file.flush()
                    Path(file.name).chmod(0o644)
                    Path(file.name).replace(path)
                except BaseException:
                    Path(file.name).unlink()
                    raise
        except OSError as error:
            room = " Make room." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise DataError(f"{path} could not be written: {error.strerror}.{room} {GOES_ON}") from None


@dataclass(frozen=True)
class Bucket:
    """A bucket, ``uri`` as ais://NAME. AIS shows an object when all of it has arrived."""

    uri: str
    access: Access

    @cached_property
    def sdk(self) -> Any:
        """The SDK's bucket, of a client of this process."""
        return parse_bucket(self.uri).of(make_client(self.access))

    def __reduce__(self) -> tuple[type, tuple[str, Access]]:
        return Bucket, (self.uri, self.access)

    def prepare(self) -> None:
        """Make the bucket if it is missing. Raises ClusterError."""
        try:
            if not self.sdk.provider.is_remote():  # a cloud's buckets are made there
                self.sdk.create(exist_ok=True)
        except (AISError, RequestException) as error:
            raise ClusterError(f"{self.uri} cannot be made: {words(error)}.") from None

    def present(self) -> dict[str, Stat]:
        """All objects of the splits and beside them. Raises ClusterError."""
        try:
            with Progress(f"objects of {self.uri} listed") as progress:
                found = {}
                for prefix in (*SPLITS, BESIDE):
                    for entry in iter_objects(self.sdk, prefix, "name,size,checksum"):
                        found[entry.name] = Stat(entry.size, entry.checksum or "")
                        progress.add(1)
                return found
        except (AISError, RequestException) as error:
            raise ClusterError(f"{self.uri} cannot be listed: {words(error)}.") from None

    def put(self, name: str, data: bytes) -> None:
        """Upload an object; tried again where the cluster does not answer. Raises ClusterError."""
        try:
            for attempt in Retrying(
                retry=retry_if_exception(_may_pass),
                stop=stop_after_attempt(_TRIES),
                wait=wait_random_exponential(max=_WAIT_S),
                reraise=True,
            ):
                with attempt:
                    answer = self.sdk.object(name).get_writer().put_content(data)
        except (AISError, RequestException) as error:
            raise ClusterError(f"the upload to {self.uri} failed at {name}: {words(error)}. {GOES_ON}") from None
        kind, value = (answer.headers.get(f"Ais-Checksum-{part}", "") for part in ("Type", "Value"))
        if kind == "xxhash2" and value != xxhash.xxh64_hexdigest(data):
            raise ClusterError(f"{self.uri}/{name} arrived with the checksum {value}: other bytes than were sent.")


def words(error: Exception) -> str:
    """The server's own, of what the SDK raises."""
    return server_message(error.message.encode()) if isinstance(error, AISError) else str(error)


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, or one that says that the server is at fault."""
    if isinstance(error, AISError):
        return error.status_code == 429 or error.status_code >= 502
    return isinstance(error, RequestException)


def _files(folder: str) -> Iterator[tuple[str, int]]:
    """(path, size) of all files below a folder, which may be missing."""
    try:
        listing = os.scandir(folder)
    except FileNotFoundError:
        return
    with listing:
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                yield entry.path, entry.stat(follow_symlinks=False).st_size
