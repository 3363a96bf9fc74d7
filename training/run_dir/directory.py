"""The run directory on all ranks: taken by rank 0, filled from its mirror, and seen by the others."""

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sources.errors import UserError
from sources.lease import FolderLease
from training.config.schema import Config
from training.processes.collectives import broadcast_from_rank0, run_on_rank0, sum_over_ranks
from training.processes.preemption import StopFlag
from training.processes.world import World
from training.report.console import Console
from training.run_dir.records import claim
from training.run_dir.run_id import own_directory

if TYPE_CHECKING:
    from training.run_dir.mirror import Mirror, Position

SHARED_WITHIN_S = 20.0
"""Seconds in which the others must see what one node writes: network file systems cache listings for a while."""


@dataclass(frozen=True)
class Directory:
    """What rank 0 holds for all as long as ``stack`` lives; the other ranks have neither lock nor mirror."""

    stack: ExitStack
    lock: FolderLease | None = None
    mirror: "Mirror | None" = None

    def open_mirror(self, *, fresh: bool) -> None:
        """Let checkpoints be uploaded from now on, if there is a mirror; ``fresh`` as there. Raises ClusterError."""
        if self.mirror:
            self.mirror.take_over(fresh=fresh)
            self.stack.enter_context(self.mirror)

    def complete_mirror(self, position: "Position") -> None:
        """Upload the end of a run, at ``position``, that was killed before it could. Raises ClusterError."""
        if self.mirror and self.mirror.is_behind(position):
            self.open_mirror(fresh=False)
            self.mirror.finish(position)


def take_directory(config: Config, world: World, console: Console, stack: ExitStack, stop: StopFlag) -> Directory:
    """Claim ``config.run_dir``, lock it as long as ``stack`` lives, and fetch what its mirror has beyond it.

    ``stop`` is asked as soon as another run has taken the directory over.
    Raises UserError where it is in use, not ours, not writable, or not shared by all nodes, or the mirror fails.
    """
    config.run_dir = broadcast_from_rank0(own_directory(config.run_dir) if world.is_main else "")
    lock, mirror = None, None
    if world.is_main:
        lock = FolderLease(Path(config.run_dir), "run_dir", console.say, on_loss=stop.request)
        if config.run_mirror:
            from training.run_dir.mirror import Mirror  # here, since the SDK's import takes a second

            mirror = Mirror(config, console.say, stop.request)
    directory = Directory(stack, lock, mirror)
    run_on_rank0(world, lambda: _take(config, directory))
    _require_shared(config, world, lock)
    return directory


def _take(config: Config, directory: Directory) -> None:
    assert directory.lock is not None  # called on rank 0
    claim(config)
    directory.stack.enter_context(directory.lock)
    if directory.mirror:
        directory.mirror.fetch(wanted=config.resume != "never")


def _require_shared(config: Config, world: World, lock: FolderLease | None) -> None:
    """Raise UserError on a rank that does not see rank 0's file in the run directory, and end the others."""
    if world.size == 1 or config.run_mirror:
        return
    name = broadcast_from_rank0(lock.path.name if lock else "")
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
