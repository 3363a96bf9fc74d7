"""The run directory on all ranks: taken by rank 0, filled from its mirror, and seen by the others."""

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sources.errors import UserError
from training.config.schema import Config
from training.processes.collectives import from_main, on_main, sum_over_ranks
from training.processes.preemption import StopFlag
from training.processes.world import World
from training.report.console import Console
from training.run_dir.lock import RunLock
from training.run_dir.records import Records, claim
from training.run_dir.run_id import own_directory

if TYPE_CHECKING:
    from training.run_dir.mirror import Mirror, Position

SHARED_WITHIN_S = 20.0
"""In which what one node writes must be seen by the others: network file systems keep listings for a while."""


@dataclass(frozen=True)
class Directory:
    """What rank 0 holds for all; the other ranks have neither."""

    lock: RunLock | None
    mirror: "Mirror | None"


def take_directory(config: Config, world: World, console: Console, stack: ExitStack, stop: StopFlag) -> Directory:
    """Claim ``config.run_dir``, lock it as long as ``stack`` lives, and fetch what its mirror has beyond it.

    ``stop`` is asked as soon as another run has taken the directory over.
    Raises UserError where it is in use, not ours, not writable, or not shared by all nodes, or the mirror fails.
    """
    config.run_dir = from_main(own_directory(config.run_dir) if world.is_main else "")
    directory = Directory(None, None)
    if world.is_main:
        directory = Directory(
            RunLock(Path(config.run_dir), console.say, on_loss=stop.request), _mirror(config, console)
        )
    on_main(world, lambda: _take(config, directory, stack))
    _require_shared(config, world, directory.lock)
    return directory


def open_mirror(
    config: Config, world: World, directory: Directory, stop: StopFlag, stack: ExitStack, *, fresh: bool
) -> None:
    """From here on, as long as ``stack`` lives, checkpoints are uploaded, if there is a mirror. Raises ClusterError.

    ``stop`` is asked when uploads cannot go on.
    """
    if config.run_mirror:
        on_main(world, lambda: _open_mirror(directory.mirror, stop, stack, fresh))


def complete_mirror(
    config: Config, world: World, directory: Directory, stop: StopFlag, stack: ExitStack, position: "Position"
) -> None:
    """Upload the end of a run, at ``position``, that was killed before it could. Raises ClusterError."""
    mirror = directory.mirror
    if on_main(world, lambda: mirror is not None and mirror.is_behind(position)):
        open_mirror(config, world, directory, stop, stack, fresh=False)
        on_main(world, lambda: _of_main(mirror).finish(position))


def finish_mirror(config: Config, world: World, records: Records, position: "Position") -> None:
    """Complete the mirror, if there is one. Raises UserError on rank 0 if that failed, and ends the others."""
    if config.run_mirror:
        on_main(world, lambda: records.finish_mirror(position))


def _take(config: Config, directory: Directory, stack: ExitStack) -> None:
    assert directory.lock is not None  # called on rank 0
    claim(config)
    stack.enter_context(directory.lock)
    if directory.mirror:
        directory.mirror.fetch(wanted=config.resume != "never")


def _mirror(config: Config, console: Console) -> "Mirror | None":
    if not config.run_mirror:
        return None
    from training.run_dir.mirror import Mirror  # here, since the SDK's import takes a second

    return Mirror(config, console.say)


def _open_mirror(mirror: "Mirror | None", stop: StopFlag, stack: ExitStack, fresh: bool) -> None:
    _of_main(mirror).take_over(fresh=fresh)
    _of_main(mirror).on_end = stop.request
    stack.enter_context(_of_main(mirror))


def _of_main(mirror: "Mirror | None") -> "Mirror":
    assert mirror is not None  # called on rank 0 of a run that has one
    return mirror


def _require_shared(config: Config, world: World, lock: RunLock | None) -> None:
    """Raise UserError on a rank that does not see rank 0's file in the run directory, and end the others."""
    if world.size == 1 or config.run_mirror:
        return
    name = from_main(lock.path.name if lock else "")
    end = time.monotonic() + SHARED_WITHIN_S
    while not (seen := any(path.name == name for path in Path(config.run_dir).glob("*"))) and time.monotonic() < end:
        time.sleep(0.5)
    blind = int(sum_over_ranks(torch.tensor(int(not seen))).item())
    if not seen:
        raise UserError(
            f"{socket.gethostname()} does not see in run_dir={config.run_dir} what rank 0 has written there: all "
            "nodes need it on one shared disk to go on from its checkpoints, or set run_mirror=ais://BUCKET/PREFIX."
        )
    if blind:
        raise SystemExit(UserError.exit_code)  # those that do not see it say so
