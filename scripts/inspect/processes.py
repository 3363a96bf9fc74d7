"""Work on many photos in several processes: in their order, without an end by one of them, and ended by ctrl-C."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from aistore_data.upload.transfer import begin_worker
from sources.progress_bar import Progress
from training.processes.preemption import signals_blocked

T = TypeVar("T")
R = TypeVar("R")

_CHUNK = 32
_AHEAD = 4
"""Chunks that wait, for each process."""


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
        done, answers = 0, _round(work, indices, item, workers, _CHUNK)
        while done < len(indices):
            try:
                for some in answers:
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
                answers = _round(work, indices[done:], item, workers, _CHUNK)


def _round(
    work: Callable[[T], R], indices: Sequence[int], item: Callable[[int], T], workers: int, chunk: int
) -> Iterator[list[R]]:
    """The answers for chunks of items. Raises BrokenProcessPool where a process ends."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "scripts.inspect.photo"])
    for helper in (multiprocessing.resource_tracker, multiprocessing.forkserver):
        with signals_blocked():  # ctrl-C is for this process alone, also while they begin
            helper.ensure_running()
    pool = ProcessPoolExecutor(min(workers, max(1, len(indices))), context, begin_worker)
    waiting: deque[Future[list[R]]] = deque()
    broken: BrokenProcessPool | None = None
    try:
        for begin in range(0, len(indices), chunk):
            some = list(map(item, indices[begin : begin + chunk]))
            with signals_blocked():  # a process that is being started must find its pool
                try:
                    waiting.append(pool.submit(_do, work, some))
                except BrokenProcessPool as error:
                    broken = error  # the answers that were given before it are taken first
                    break
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        if broken is not None:
            raise broken
    finally:
        with signals_blocked():
            pool.shutdown(cancel_futures=True)


def _do(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [work(item) for item in items]
