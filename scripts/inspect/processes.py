"""Work on many photos in several processes: in their order, without an end by one of them, and ended by ctrl-C."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

from sources.processes import answers
from sources.progress_bar import Progress

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 32


def in_processes(
    work: Callable[[T], R],
    indices: Sequence[int],
    item: Callable[[int], T],
    workers: int,
    killed: Callable[[T], R],
    what: str,
) -> Iterator[R]:
    """What ``work(item(index))`` answers for each index, in their order.

    ``killed`` answers for an item whose process did not survive it. ``what`` names items for the bar.
    """
    with Progress(what, len(indices)) as progress:
        done, found = 0, _round(work, indices, item, workers, _CHUNK)
        while done < len(indices):
            try:
                for some in found:
                    yield from some
                    done += len(some)
                    progress.add(len(some))
            except BrokenProcessPool:  # which of the items was it? One process takes them one by one.
                lost, some = indices[done : done + _CHUNK], []
                try:
                    for one in _round(work, lost, item, 1, 1):
                        some += one
                except BrokenProcessPool:
                    some.append(killed(item(lost[len(some)])))
                yield from some
                done += len(some)
                progress.add(len(some))
                found = _round(work, indices[done:], item, workers, _CHUNK)


def _round(
    work: Callable[[T], R], indices: Sequence[int], item: Callable[[int], T], workers: int, chunk: int
) -> Iterator[list[R]]:
    """Yield the answers for chunks of items. Raises BrokenProcessPool where a process ends."""
    chunks = (list(map(item, indices[begin : begin + chunk])) for begin in range(0, len(indices), chunk))
    preload = (__name__, "scripts.inspect.photo")
    return answers(partial(_do, work), chunks, min(workers, max(1, len(indices))), preload)


def _do(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [work(item) for item in items]
