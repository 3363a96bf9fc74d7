"""Put items into a folder or a bucket by several processes; what is there already is not written again."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from aistore_data.bucket.store import Destination, Entry
from aistore_data.upload.destination import GOES_ON, SPLITS, present, put
from aistore_data.upload.items import Item
from sources.errors import ConfigError, UserError
from sources.processes import begin_worker
from sources.progress_bar import Progress

Transform = Callable[[str, bytes], tuple[bytes, list[str]]]
"""What is done to an item on its way, as (name, bytes) → (bytes to be put, what is odd about them); pickles."""

_CHUNK_ITEMS = 64
_CHUNK_BYTES = 16 << 20
_CHUNKS_AHEAD = 4
"""Of each process. Also how far a file may be read ahead of those who take their items from the page cache."""


class Planned(NamedTuple):
    """An item, and what the destination holds under its name."""

    item: Item
    existing: Entry | None


@dataclass
class Outcome:
    """What was done. ``sizes`` are the bytes of the items as read, in their order; ``oddities`` by kind: names."""

    sent: int = 0
    kept: int = 0
    sent_bytes: int = 0
    sizes: list[int] = field(default_factory=list)
    oddities: dict[str, list[str]] = field(default_factory=dict)

    def add(self, done: "Outcome") -> None:
        """Add the outcome of another chunk."""
        self.sent += done.sent
        self.kept += done.kept
        self.sent_bytes += done.sent_bytes
        self.sizes += done.sizes
        for kind, names in done.oddities.items():
            self.oddities.setdefault(kind, []).extend(names)


def plan(items: Sequence[Item], destination: Destination, replace: bool) -> list[Planned]:
    """Which items are there already, of the right size.

    Raises ConfigError if the destination's train/ and val/ hold anything else, or, unless ``replace``, another content
    under an item's name: mixed data sets are not noticed later.
    """
    for item in items:
        _check_name(item.name)
    existing = present(destination)
    names = {item.name for item in items}
    strangers = sorted(name for name in existing if name.startswith(SPLITS) and name not in names)
    if strangers:
        raise ConfigError(
            f"{destination.uri} holds other data: {strangers[0]!r}{_more(strangers)} "
            "does not belong to this data set in this layout. Use another destination, or remove it."
        )
    if not replace:
        there = [item for item in items if item.name in existing]
        others = [item.name for item in there if item.size not in (-1, existing[item.name].size)]
        if others:
            raise _other_content(destination.uri, others[0], _more(others))
    return [Planned(item, existing.get(item.name)) for item in items]


def transfer(
    planned: Sequence[Planned],
    destination: Destination,
    workers: int,
    replace: bool,
    transform: Transform | None = None,
    on_read: Callable[[Sequence[Planned]], None] = lambda chunk: None,
    check: Callable[[], None] = lambda: None,
) -> Outcome:
    """Put all items, in their order and ``workers`` processes at a time.

    Every item is read, treated and compared with what is there by size and checksum. ``on_read`` is called in this
    process with each chunk of items before they are read, ``check`` every now and then: what they raise ends it.
    Raises UserError; whatever ends it, items are at the destination whole or not at all, and no process goes on.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *({transform.__module__} if transform else ())])
    outcome = Outcome()
    waiting: deque[tuple[int, Future[Outcome]]] = deque()
    pool = ProcessPoolExecutor(workers, context, _start, (destination, replace, transform))
    with Progress("objects", len(planned)) as progress:

        def collect() -> None:
            count, future = waiting.popleft()
            done = future.result()
            outcome.add(done)
            progress.add(count, sum(done.sizes))
            check()

        try:
            for chunk in _chunks(planned):
                on_read(chunk)
                waiting.append((len(chunk), pool.submit(_do, chunk)))
                while len(waiting) >= _CHUNKS_AHEAD * workers or (waiting and waiting[0][1].done()):
                    collect()
            while waiting:
                collect()
        except BrokenProcessPool:
            raise UserError(f"a process that wrote to {destination.uri} was killed, perhaps because memory ran out. "
                            f"{GOES_ON}") from None  # fmt: skip
        finally:
            pool.shutdown(cancel_futures=True)
    return outcome


def _check_name(name: str) -> None:
    """Raises ConfigError for a name that no bucket takes, or that leads out of a folder, as an archive's might."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name!r} is not UTF-8, as names in a bucket are: rename it.") from None
    if {"", ".", ".."} & set(name.split("/")):
        raise ConfigError(f"{name!r} cannot be the name of a photo: rename it.")


def _chunks(planned: Iterable[Planned]) -> Iterator[list[Planned]]:
    for unit, group in groupby(planned, key=lambda entry: entry.item.place.unit):
        chunk: list[Planned] = []
        size = 0
        for entry in group:
            chunk.append(entry)
            size += entry.item.size
            if unit is None and (len(chunk) >= _CHUNK_ITEMS or size >= _CHUNK_BYTES):
                yield chunk
                chunk, size = [], 0
        if chunk:
            yield chunk


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1:,} more)" if len(names) > 1 else ""


def _other_content(uri: str, name: str, more: str = "") -> ConfigError:
    return ConfigError(
        f"{uri} holds another {name}{more}: other data, or a file that a failing disk or machine has left. "
        "Use another destination, or --replace."
    )


# In the processes that write.

_task: tuple[Destination, bool, Transform | None]


def _start(destination: Destination, replace: bool, transform: Transform | None) -> None:
    global _task
    _task = (destination, replace, transform)
    begin_worker()


def _do(chunk: Sequence[Planned]) -> Outcome:
    destination, replace, transform = _task
    done = Outcome()
    for item, existing in chunk:
        data = item.place.read()
        done.sizes.append(len(data))
        oddities: list[str] = []
        if transform:
            data, oddities = transform(item.name, bytes(data))
        for kind in oddities:
            done.oddities.setdefault(kind, []).append(item.name)
        fits = existing is not None and existing.fits(data)
        if fits and existing and not existing.in_parts:  # in parts, an ETL cannot read it
            done.kept += 1
            continue
        if existing is not None and not fits and not replace:
            raise _other_content(destination.uri, item.name)
        put(destination, item.name, data)
        done.sent += 1
        done.sent_bytes += len(data)
    return done
