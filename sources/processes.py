"""Work on many items in several processes: answers in the items' order, and an end with this process."""

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from sources.errors import UserError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 4
"""Items that wait, for each process."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""The signals that ask a process to stop."""


def in_processes(work: Callable[[T], R], items: Iterable[T], workers: int, doing: str) -> Iterator[R]:
    """Yield what ``work(item)`` answers, in the items' order; with one worker in this process.

    ``doing`` names the work for the sentence of a process that was killed. Raises UserError, and what ``work`` raises.
    """
    if workers < 2:
        yield from map(work, items)
        return
    try:
        yield from answers(work, items, workers)
    except BrokenProcessPool:
        raise UserError(
            f"a process that {doing} was killed, perhaps for lack of memory. The same command goes on."
        ) from None


def answers(
    work: Callable[[T], R], items: Iterable[T], workers: int, preload: Sequence[str] = (__name__,)
) -> Generator[R, None, None]:
    """Yield what ``work(item)`` answers, in the items' order; ``preload``: modules that the processes begin with.

    Raises BrokenProcessPool where a process was killed, after the answers to all items before the one that it had.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    for helper in (multiprocessing.resource_tracker, multiprocessing.forkserver):
        with signals_blocked():  # ctrl-C is for this process alone, also while they begin
            helper.ensure_running()
    pool = ProcessPoolExecutor(workers, context, begin_worker)
    waiting: deque[Future[R]] = deque()
    broken: BrokenProcessPool | None = None
    try:
        for item in items:
            with signals_blocked():  # a process that is being started must find its pool
                try:
                    waiting.append(pool.submit(work, item))
                except BrokenProcessPool as error:
                    broken = error
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


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals that ask to stop. Processes started meanwhile, and theirs, never see one.

    A terminal and SLURM send a signal to the whole group, but stopping is this process's business: it ends the others.
    What arrives here meanwhile is delivered afterwards.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def begin_worker() -> None:
    """Leave ctrl-C to the parent, and end with it. The pool ends this process by SIGTERM if another one has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    # Who started this process may have blocked SIGTERM, and from Python 3.12 on the pool would wait forever.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
