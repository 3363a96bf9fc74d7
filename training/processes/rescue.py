"""Whatever ends a run: what was trained is saved first, where the state is sound, and the error says so.

The sentence is a note of the exception (``add_note``), so that a traceback of a mistake of ours shows it too.
"""

import errno
import os
import re
import time
from collections.abc import Callable
from typing import NoReturn

import torch

from sources.errors import UserError, chain
from training.processes.collectives import broadcast_from_rank0, is_lost_peer
from training.processes.preemption import stopped_in
from training.state.consumed import UNKNOWN
from training.state.run_state import Run, last_checkpoint, last_path, save

DEVICE_S = 10.0
"""Seconds in which a GPU finishes its queued steps; one that waits for a lost peer never does."""

_OF_THE_HOST = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "raise the quota, or make room",
    errno.EFBIG: "see ulimit -f",
    errno.EMFILE: "see ulimit -n",
    errno.ENFILE: "the machine has too many open files",
    errno.ENOMEM: "its memory is used up",
    errno.EAGAIN: "see ulimit -u, and the container's limit of processes",
    **dict.fromkeys((errno.EIO, errno.EREMOTEIO), "the disk or its server failed"),
    errno.ESTALE: "the file server failed, or the folder was replaced",
    errno.EROFS: "mount it for writing",
    **dict.fromkeys((errno.ENODEV, errno.ENXIO), "the device is gone"),
    **dict.fromkeys((errno.ETIMEDOUT, errno.EHOSTDOWN), "the file server does not answer"),
}
"""Errors that no program is guilty of, and what helps."""


_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|bad_alloc|Cannot allocate memory", re.IGNORECASE)
_COMPILERS = ("torch._dynamo", "torch._inductor", "triton")
"""Modules of what ``torch.compile`` raises."""


class NotFiniteError(UserError):
    """A loss that is not finite: the weights are spoilt, and must not replace those of the last checkpoint."""


def notes(error: BaseException) -> str:
    """What was said of an error beyond its own words, to be put behind them."""
    return "".join(f" {note}" for note in getattr(error, "__notes__", []))


def in_words(error: Exception, *, several: bool, whole: bool, compiled: bool) -> str:
    """A sentence for what a machine, a GPU or another process did to the run; "" for a mistake of ours.

    ``several``: whether the run has other processes; ``whole``: with all that the library said; ``compiled``: whether
    train.compile is set.
    """
    text = str(error).strip()
    shown = text if whole else text.partition("\n")[0]
    first = text.splitlines()[0] if text else type(error).__name__
    if isinstance(error, OSError) and error.errno in _OF_THE_HOST:
        name = f" {error.filename}" if error.filename else ""
        return f"this machine refused something:{name} {os.strerror(error.errno)} ({_OF_THE_HOST[error.errno]})."
    if several and isinstance(error, RuntimeError) and is_lost_peer(error):
        return f"another process of the run has ended, and says why itself ({shown})."
    if several and isinstance(error, RuntimeError) and "NCCL" in text:
        return (
            f"the GPUs could not talk to each other ({shown}). NCCL_DEBUG=WARN says more; NCCL_SOCKET_IFNAME names the "
            "network interface, and each process needs a GPU of its own."
        )
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"the GPU's memory is too small: raise train.accumulate. {error}"
    if "deterministic implementation" in first:
        return f"deterministic=true: {first}"
    if _NO_MEMORY.search(text) or isinstance(error, MemoryError):
        return (
            f"this machine's memory is too small: raise train.accumulate, or lower data.workers, data.prefetch or "
            f"train.batch_size. ({first[:200]})"
        )
    if compiled and any(type(link).__module__.startswith(_COMPILERS) for link in chain(error)):
        *_, root = chain(error)
        last = next((line.strip() for line in reversed(str(root).splitlines()) if line.strip()), "")
        detail = first[:200] if last in first else f"{first[:200]} … {last[:200]}"
        return (
            f"train.compile=true: torch.compile failed in {type(error).__name__}: {detail} "
            "Leave out train.compile, or mend the compiler (a C++ compiler and Python's headers on CPUs, Triton and a "
            "C compiler on GPUs)."
        )
    return ""


def give_up(run: Run, lost: Exception | None) -> NoReturn:
    """Save, and end a run whose data cannot be had any more; all ranks come here between two steps.

    ``lost``: why, on the ranks that know.
    """
    said = broadcast_from_rank0(_save(run) if run.config.mode == "train" else "")
    if lost is None:
        raise SystemExit(UserError.exit_code)  # the rank that knows says why
    if said:
        lost.add_note(said)
    raise lost


def rescue(run: Run, error: Exception, collect: Callable[[], None], uncollected: int) -> None:
    """Save on rank 0 what an error would cost, without asking other ranks, which may be gone; note it on the error.

    ``collect`` adds the figures of the ``uncollected`` last steps to the run's progress, which takes all ranks: where
    there are several, the epoch goes without a fingerprint instead.
    """
    if not run.world.is_main or isinstance(error, NotFiniteError) or getattr(error, "__notes__", None):
        return
    if stopped_in(error):  # the user asked twice, and waits
        return
    run.state.sound = run.state.sound and (run.state.position == run.saved or _device_is_through(run))
    if run.state.sound and uncollected and run.world.size == 1:
        try:
            collect()
        except Exception as another:  # also a loss that is not finite
            error.add_note(f"What was trained since the last checkpoint is not saved: {another}")
            return
    elif uncollected and run.consumed.stream.enabled:
        run.state.progress.stream_total = UNKNOWN
    if said := _save(run):
        error.add_note(said)


def _save(run: Run) -> str:
    """Save, and answer a sentence about what is saved now, for rank 0 to say."""
    if not run.state.sound:
        return f"The state is in the midst of a step and is not saved{last_checkpoint(run)}."
    if run.state.position != run.saved:
        if run.state.position == run.attempted:
            return ""  # the error is that it cannot be written
        try:
            save(run)
        except Exception as error:  # the run ends for another reason, which must be told
            return f"What was trained since the last checkpoint could not be saved: {error}"
    last = last_path(run)
    return f"What was done is saved in {last}: the same command goes on." if last.exists() else ""


def _device_is_through(run: Run) -> bool:
    if run.device.type != "cuda":
        return True
    try:
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        end = time.monotonic() + DEVICE_S
        while not done.query():  # type: ignore[no-untyped-call]
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
    except RuntimeError:  # of the device itself, which answers nothing any more
        return False
    return True
