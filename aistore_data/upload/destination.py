"""Where a data set is put: a folder, or a bucket. Both take a file or an object whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from aistore_data.bucket.layout import METADATA_PREFIX
from aistore_data.bucket.store import AisStore, Entry
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import Access
from aistore_data.client.sdk import connect
from aistore_data.upload.claim import claim
from sources.command_line import print_line
from sources.errors import ClusterError, ConfigError, DataError, ObjectError
from sources.lease import FolderLease
from sources.progress_bar import Progress

SPLITS = ("train/", "val/")
GOES_ON = "What was written stays, and the same command goes on."
_TRIES = 5
_WAIT_S = 10.0


class Destination(Protocol):
    """A folder or a bucket; pickles, for the processes that write."""

    @property
    def uri(self) -> str:
        """For messages."""

    def present(self) -> dict[str, Entry]:
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
        return self.root / METADATA_PREFIX / "partial"

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

    def present(self) -> dict[str, Entry]:
        """All files below train/, val/ and .imagenet-ais/, whatever their names, but those half written."""
        found = {}
        with Progress(f"files of {self.root} found") as progress:
            for prefix in (*SPLITS, METADATA_PREFIX):
                for path, size in _files(str(self.root / prefix)):
                    name = os.path.relpath(path, self.root)
                    if not path.startswith(f"{self._partial}/"):
                        found[name] = Entry(name, size)
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
class BucketDestination:
    """A bucket of AIStore, which shows an object when all of it has arrived."""

    store: AisStore

    @property
    def uri(self) -> str:
        """Its address."""
        return self.store.uri

    def present(self) -> dict[str, Entry]:
        """All objects of the splits and beside them. Raises ClusterError."""
        found = {}
        try:
            with Progress(f"objects of {self.uri} listed") as progress:
                for prefix in (*SPLITS, METADATA_PREFIX):
                    for entry in self.store.list(prefix):
                        found[entry.name] = entry
                        progress.add(1)
        except (ObjectError, OSError) as error:
            raise ClusterError(f"{self.uri} cannot be listed: {self.store.explain(error)}") from None
        return found

    def put(self, name: str, data: bytes) -> None:
        """Upload an object; tried again where the cluster does not answer. Raises ClusterError."""
        tries = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_attempt(_TRIES),
            wait=wait_random_exponential(max=_WAIT_S),
            reraise=True,
        )
        try:
            tries(self.store.put, name, data)
        except (ObjectError, OSError) as error:
            why = self.store.explain(error)
            raise ClusterError(f"the upload to {self.uri} failed at {name}: {why} {GOES_ON}") from None


def open_bucket(uri: str, endpoint: str, create: bool = True) -> AisStore:
    """The bucket of a command line, made if it is missing, where wanted. Raises ConfigError or ClusterError."""
    parse_bucket(uri, "BUCKET=")
    store = AisStore(uri, Access.from_environment(endpoint, "--endpoint"))
    connect(store.access)
    try:
        if create:
            store.create()
    except (ObjectError, OSError) as error:
        raise ClusterError(f"{uri} cannot be made: {store.explain(error)}") from None
    return store


@contextmanager
def opened(dest: str, endpoint: str) -> Iterator[tuple[Folder | BucketDestination, Callable[[], None]]]:
    """A folder or a bucket to write to, held as long as the context, and what tells that it was taken away."""
    if "://" in dest:
        store = open_bucket(dest, endpoint)
        with claim(store, print_line) as held:
            yield BucketDestination(store), held.check
        return
    with opened_folder(dest) as opened:
        yield opened


@contextmanager
def opened_folder(dest: str) -> Iterator[tuple[Folder, Callable[[], None]]]:
    """The same where ``dest`` can be a folder alone."""
    folder = Folder(Path(dest).absolute())
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"DEST={dest} cannot be made: {error.strerror}. Choose another one.") from None
    with FolderLease(folder.root, "DEST", print_line) as held:
        folder.prepare()
        yield folder, held.check
        folder.finish()


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, or one that says that the server is at fault."""
    if isinstance(error, ObjectError):
        return error.status == 429 or error.status >= 502
    return isinstance(error, OSError)


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
