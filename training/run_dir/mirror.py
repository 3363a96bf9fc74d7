"""A run's checkpoints and records in a bucket, for machines that share no disk.

The mirror holds the run directory's files under their own names, and ``owner.json``: whose they are, how far the run
had come with them, and who writes now. Rank 0 alone reads and writes it. A checkpoint is uploaded while training goes
on, one at a time; one that waits gives way to a newer one. What is uploaded is mapped when it is handed over, and files
of a run are replaced or grow, so training may go on writing.

Whoever reads a mirror, at any moment and whenever its writer was killed, finds a checkpoint and records that go at
least as far: records are uploaded before ``last.pt``, and ``last.pt`` is read before them. What they have beyond it is
written again by the run that goes on.
"""

import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aistore_data.bucket.store import AisStore, ObjectStore
from aistore_data.bucket.uri import split_uri
from aistore_data.client.access import Access
from aistore_data.client.sdk import connect
from sources.disk import Content, map_file
from sources.errors import ClusterError, ConfigError, ObjectError, UserError
from training.config.schema import Config
from training.run_dir import checkpoint
from training.run_dir.files import ENTRIES, FETCHED, read_object, remove

OWNER = "owner.json"
_OWNER_KEYS = ("owner", "host", "run", "position")
LAST = "checkpoints/last.pt"
_ANSWER_S = 60.0
"""Seconds in which a node answers, once it has all of a checkpoint."""

Position = tuple[int, int]
"""(epoch, batches done) of a checkpoint."""


class Snapshot(NamedTuple):
    """The files of a run at a moment, by name."""

    position: Position
    states: dict[str, tuple[int, ...]]
    """What tells whether a file has changed."""
    contents: dict[str, Content]
    """The contents of the files that have changed since they were uploaded."""


class Mirror:
    """Fetches a run directory from its mirror; then, within its context, uploads what changes in it."""

    def __init__(self, config: Config, say: Callable[[str], None], on_end: Callable[[], None] = lambda: None) -> None:
        """That of ``config.run_mirror``; nothing is asked of it before ``fetch``.

        ``on_end`` is called from the thread that uploads when it ends for good; ``push`` raises why.
        """
        self.failures = 0
        self._config = config
        self._store: ObjectStore
        self._folder = Path(config.run_dir)
        self._say = say
        self._id = uuid.uuid4().hex
        self._owner: dict[str, Any] = {}
        self._mirrored: dict[str, tuple[int, ...]] = {}
        """All that is there, by name, with the state of the file that it is a copy of; () if that is not known."""
        self._run = ""
        self._replaces = False
        self._fault: ClusterError | None = None
        self._end: Exception | None = None
        self._on_end = on_end
        self._changed = threading.Condition()
        self._pending: Snapshot | None = None
        self._busy = self._closing = False
        self._thread = threading.Thread(target=self._work, name="run mirror", daemon=True)

    def fetch(self, *, wanted: bool = True) -> None:
        """Replace the run directory by the mirror's state where that is newer; ``wanted=False`` only looks at it.

        Raises ConfigError if the mirror is another run's or none, ClusterError if it cannot be read; the run directory
        is as it was then.
        """
        uri = self._config.run_mirror
        self._store = _open_store(self._config)
        with self._asking("list it"):
            self._mirrored = {entry.name: () for entry in self._store.list("")}
        if self._mirrored and OWNER not in self._mirrored:
            raise ConfigError(f"run_mirror={uri} holds objects, but no mirror of a run: choose another prefix.")
        self._owner = self._read_owner() if self._mirrored else {}
        if not wanted or LAST not in self._mirrored:
            return
        own = checkpoint.newest_position(self._folder / "checkpoints")
        if own and self._owner["run"] != self._local_run():
            raise ConfigError(
                f"run_mirror={uri} holds another run than run_dir={self._folder}: give an empty run_dir to go on with "
                "the mirror's, another run_mirror, or resume=never to replace both."
            )
        if not own or own < tuple(self._owner["position"] or (0, 0)):
            self._download()

    def is_behind(self, position: Position) -> bool:
        """Whether the mirror lacks the end of a run that ended at ``position``."""
        return self._owner.get("position") != list(position) or "summary.json" not in self._mirrored

    def take_over(self, *, fresh: bool) -> None:
        """Become the only one that writes; ``fresh``: the first upload replaces a former run. Raises ClusterError."""
        self._run = self._local_run()
        self._replaces = fresh
        self._write_owner(self._owner.get("run", self._run), self._owner.get("position"))
        self._mirrored[OWNER] = ()

    def __enter__(self) -> "Mirror":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """Finish what was handed over, unless the run must stop at once."""
        if kind is None or issubclass(kind, Exception):
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join()

    def push(self, position: Position) -> None:
        """Hand over the files as they are now. Raises UserError if another run has taken the mirror over."""
        snapshot = self._snapshot(position)
        with self._changed:
            if self._end:
                raise self._end
            self._pending = snapshot
            self._changed.notify_all()

    def finish(self, position: Position) -> None:
        """Hand over the files for the last time and wait; raises as ``push``, and ClusterError if that has failed."""
        self.push(position)
        self._wait()
        if self._end:
            raise self._end
        if self._fault:
            raise ClusterError(
                f"{self._fault} That was the last upload of this run ({self.failures} failed in all), so the mirror is "
                f"not complete. All is whole in run_dir={self._folder}: the same command goes on from there."
            )

    def _wait(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._end or (self._pending is None and not self._busy))

    def _download(self) -> None:
        begin, staging = time.monotonic(), self._folder / FETCHED
        remove(self._folder, [FETCHED])
        names = sorted((name for name in self._mirrored if _is_ours(name)), key=_order, reverse=True)
        try:
            for name in names:
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                with self._asking(f"read {name}"), open(staging / name, "wb") as file:
                    file.writelines(self._store.read(name))
            size = sum((staging / name).stat().st_size for name in names)
            remove(self._folder, ENTRIES)
            for entry in sorted({name.split("/")[0] for name in names}, key=_order):
                (staging / entry).replace(self._folder / entry)
            self._mirrored |= {name: _state(self._folder / name) for name in names}
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        took = time.monotonic() - begin
        self._say(f"took {len(names)} files, {size / 1e6:,.0f} MB, from {self._store.uri} in {took:.1f} s")

    def _snapshot(self, position: Position) -> Snapshot:
        files = [path for path in self._folder.rglob("*") if path.is_file()]
        paths = {path.relative_to(self._folder).as_posix(): path for path in files}
        states = {name: _state(path) for name, path in paths.items() if _is_ours(name)}
        changed = [name for name, state in states.items() if self._mirrored.get(name) != state]
        return Snapshot(position, states, {name: map_file(paths[name]) for name in changed})

    def _work(self) -> None:
        while not self._end:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                snapshot, self._pending = self._pending, None
                self._busy = snapshot is not None
            if snapshot is None:
                return
            try:
                self._upload(snapshot)
                self._fault = None
            except ClusterError as error:
                self.failures += 1
                self._fault = error
                self._say(f"{error} The next checkpoint will be tried ({self.failures} uploads failed so far).")
            except Exception as error:  # raised again where the run waits for it
                self._end = error
                self._on_end()
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _upload(self, snapshot: Snapshot) -> None:
        """Raises ClusterError for what may pass, UserError if the mirror was taken over."""
        owner = self._read_owner()
        if owner["owner"] != self._id:
            raise UserError(
                f"run_mirror={self._store.uri} was taken over by a run on {owner['host']}. This one stops, so that "
                f"nothing is mixed up; its state is in {self._folder}."
            )
        if self._replaces:
            self._delete(self._mirrored.keys() - {OWNER})
            self._write_owner(self._run, None)
            self._replaces = False
        for name in sorted(snapshot.contents, key=_order):
            if self._mirrored.get(name) != snapshot.states[name]:
                self._put(name, snapshot.contents[name])
                self._mirrored[name] = snapshot.states[name]
        self._delete(self._mirrored.keys() - snapshot.states.keys() - {OWNER})
        self._write_owner(self._run, snapshot.position)

    def _delete(self, names: set[str]) -> None:
        for name in sorted(names, key=_order, reverse=True):
            with self._asking(f"delete {name}"):
                self._store.delete(name)
            del self._mirrored[name]

    def _read_owner(self) -> dict[str, Any]:
        try:
            with self._asking(f"read {OWNER}"):
                owner: dict[str, Any] = json.loads(self._store.get(OWNER))
            return {key: owner[key] for key in _OWNER_KEYS}
        except (ValueError, TypeError, KeyError):
            raise ClusterError(
                f"run_mirror={self._store.uri}: {OWNER} is not as this trainer writes it: remove the mirror."
            ) from None

    def _local_run(self) -> str:
        return str(read_object(self._folder / "environment.json").get("id", ""))

    def _write_owner(self, run: str, position: Any) -> None:
        content = {"owner": self._id, "run": run, "host": socket.gethostname(), "position": position}
        self._put(OWNER, json.dumps(content).encode())

    def _put(self, name: str, content: Content) -> None:
        with self._asking(f"write {name}"):
            self._store.put(name, content)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Raises ClusterError for what the store raises."""
        try:
            yield
        except (ObjectError, OSError) as error:
            why = self._store.explain(error)
            raise ClusterError(f"run_mirror={self._store.uri}: could not {what}: {why}") from None


def _open_store(config: Config) -> ObjectStore:
    """That of ``config.run_mirror``. Raises ClusterError if the cluster or the bucket cannot be used."""
    endpoint = "" if config.data.endpoint == "embedded" else config.data.endpoint
    if not endpoint and not os.environ.get("AIS_ENDPOINT"):
        raise ClusterError(
            f"run_mirror={config.run_mirror} needs a cluster: set AIS_ENDPOINT=http://HOST:PORT, or data.endpoint."
        )
    uri = config.run_mirror.rstrip("/")
    prefix = split_uri(uri, "run_mirror=")[1]
    store = AisStore(uri, Access.from_environment(endpoint, "data.endpoint"), _ANSWER_S)
    try:
        connect(store.access)
        store.head()
    except ClusterError as error:
        raise ClusterError(f"run_mirror={uri}: {error}") from None
    except (ObjectError, OSError) as error:
        what = f"cannot be used: {store.explain(error)}"
        if isinstance(error, ObjectError) and error.status == 404:
            what = "does not exist: make it first, or check its name."
        raise ClusterError(f"run_mirror={uri}: the bucket {uri.removesuffix(f'/{prefix}')} {what}") from None
    return store


def _is_ours(name: str) -> bool:
    parts = name.split("/")
    return parts[0] in ENTRIES and ".." not in parts and not name.endswith(".tmp")


def _order(name: str) -> tuple[bool, bool, bool, str]:
    """A reader who sees ``last.pt`` sees all that belongs to it; config.yaml, by which a run is told, comes first."""
    return name == LAST, name.split("/")[0] == "checkpoints", name != "config.yaml", name


def _state(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
