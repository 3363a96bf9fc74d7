"""Where a data set is put: a folder or a bucket, which one process holds, and which takes what is put whole or not."""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

from aistore_data.bucket.layout import METADATA_PREFIX
from aistore_data.bucket.store import AisStore, Destination, Entry, ObjectStore
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import Access
from aistore_data.client.sdk import connect
from sources.command_line import print_line
from sources.disk import Content, replace_file
from sources.errors import ClusterError, ConfigError, DataError, ObjectError
from sources.lease import STALE_S, FolderLease, Lease, myself
from sources.progress_bar import Progress

SPLITS = ("train/", "val/")
CLAIMS = f"{METADATA_PREFIX}uploads/"
GOES_ON = "What was written stays, and the same command goes on."
_TRIES = 5
"""Of each object, which an upload of a million must not end for."""


def present(destination: Destination) -> dict[str, Entry]:
    """What is there of the splits and beside them, by name. Raises DataError."""
    found = {}
    try:
        with Progress(f"objects of {destination.uri} listed") as progress:
            for prefix in (*SPLITS, METADATA_PREFIX):
                for entry in destination.list(prefix):
                    found[entry.name] = entry
                    progress.add(1)
    except (ObjectError, OSError) as error:
        raise DataError(f"{destination.uri} cannot be listed: {destination.explain(error)}") from None
    return found


def put(destination: Destination, name: str, data: Content) -> None:
    """Write a file or an object; visible at once and whole. Raises DataError, as for a full disk."""
    try:
        destination.put(name, data)
    except (ObjectError, OSError) as error:
        what = f"the upload to {destination.uri} failed at {name}"
        if isinstance(destination, Folder):
            what = f"{destination.root / name} could not be written"
        raise DataError(f"{what}: {destination.explain(error)} {GOES_ON}") from None


class Folder:
    """A folder, in ImageFolder's layout; its address is its path."""

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root, str(root)
        self._partial = root / METADATA_PREFIX / "partial"

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

    def list(self, prefix: str) -> Iterator[Entry]:
        """All files below ``prefix``, which ends with a slash, whatever their names, but those half written."""
        try:
            listing = os.scandir(self.root / prefix)
        except FileNotFoundError:
            return
        with listing:
            for entry in listing:
                if not entry.is_dir(follow_symlinks=False):
                    yield Entry(prefix + entry.name, entry.stat(follow_symlinks=False).st_size)
                elif Path(entry.path) != self._partial:
                    yield from self.list(f"{prefix}{entry.name}/")

    def put(self, name: str, data: Content) -> None:
        """Write a file under a temporary name and rename it. Raises OSError."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data, self._partial, 0o644)

    def explain(self, error: Exception) -> str:
        """An error as the end of a sentence."""
        room = " Make room." if getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT) else ""
        return f"{getattr(error, 'strerror', None) or error}.{room}"


class Claim(Lease):
    """Holds a bucket for an upload; an entry is an object, renewed by putting it anew. Raises ClusterError."""

    advice = "use another bucket"
    loss = (
        f"the upload stood still for {STALE_S:.0f} s or more, and another one has taken the bucket over. The same "
        "command goes on."
    )
    is_strict = True

    def __init__(self, store: ObjectStore, say: Callable[[str], None]) -> None:
        super().__init__(CLAIMS, say)
        self._store = store
        self.where = self.title = store.uri
        self.in_use = f"another upload to {store.uri} is going on"

    def _entries(self) -> list[str]:
        with self._asking():
            return [entry.name for entry in self._store.list(CLAIMS)]

    def _read(self, name: str) -> tuple[str, object]:
        with self._asking(name):
            text = self._store.get(name).decode("utf-8", "replace")
        return text, text

    def _put(self) -> None:
        with self._asking():
            self._store.put(self.name, json.dumps(myself() | {"beat": time.monotonic()}).encode())

    def _touch(self) -> None:
        self._read(self.name)
        self._put()

    def _delete(self, name: str) -> None:
        with self._asking(name):
            self._store.delete(name)

    @contextmanager
    def _asking(self, name: str = "") -> Iterator[None]:
        """Raises FileNotFoundError where the object ``name`` is missing, ClusterError otherwise."""
        try:
            yield
        except (ObjectError, OSError) as error:
            if name and isinstance(error, ObjectError) and error.status == 404:
                raise FileNotFoundError(name) from None
            raise ClusterError(f"{self.where} cannot be written to: {self._store.explain(error)}") from None


def open_bucket(uri: str, endpoint: str) -> AisStore:
    """The bucket of a command line, made if it is missing. Raises ConfigError or ClusterError."""
    parse_bucket(uri, "BUCKET=")
    store = AisStore(uri, Access.from_environment(endpoint, "--endpoint"))
    connect(store.access)
    try:
        store.create()
    except (ObjectError, OSError) as error:
        raise ClusterError(f"{uri} cannot be made: {store.explain(error)}") from None
    return store


def opened(dest: str, endpoint: str) -> AbstractContextManager[tuple[Folder | AisStore, Callable[[], None]]]:
    """A folder or a bucket to write to, held as long as the context, and what tells that it was taken away."""
    return opened_bucket(open_bucket(dest, endpoint)) if "://" in dest else opened_folder(dest)


@contextmanager
def opened_bucket(store: AisStore) -> Iterator[tuple[AisStore, Callable[[], None]]]:
    """The same of a bucket: a store that tries often what may pass."""
    with Claim(store, print_line) as held:
        yield replace(store, tries=_TRIES), held.check


@contextmanager
def opened_folder(dest: str) -> Iterator[tuple[Folder, Callable[[], None]]]:
    """The same of a folder, made if it is missing."""
    folder = Folder(Path(dest).absolute())
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"DEST={dest} cannot be made: {error.strerror}. Choose another one.") from None
    with FolderLease(folder.root, "DEST", print_line) as held:
        folder.prepare()
        yield folder, held.check
        folder.finish()
