"""Work on many items in several processes: answers in the items' order, and an end with this process."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from sources.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Items that wait, for each process."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def in_processes(work: Callable[[T], R], items: Iterable[T], workers: int, doing: str) -> Iterator[R]:
    """What ``work(item)`` answers, in the items' order; with one worker in this process.

    ``doing`` names the work for the sentence of a process that was killed. Raises UserError, and what ``work`` raises.
    """
    if workers < 2:
        yield from map(work, items)
        return
    context = multiprocessing.get_context("forkserver")
    for helper in (multiprocessing.resource_tracker, multiprocessing.forkserver):
        with _signals_blocked():  # ctrl-C is for this process alone, also while they begin
            helper.ensure_running()
    pool = ProcessPoolExecutor(workers, context, _end_with_its_parent)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            with _signals_blocked():  # a process that is being started must find its pool
                waiting.append(pool.submit(work, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            f"a process that {doing} was killed, by a lack of memory perhaps. The same command goes on."
        ) from None
    finally:
        with _signals_blocked():
            pool.shutdown(cancel_futures=True)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _end_with_its_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    # Who started this process has blocked SIGTERM, by which the pool ends it where another one has died.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
