"""Several processes, one run: who am I, and the few collectives that the trainer needs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from aistore_data.errors import ConfigError, UserError

Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """This process's place among all processes of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that writes."""
        return self.rank == 0


def read_world() -> World:
    """From torchrun's environment; one process without it."""
    env = os.environ
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return World()
    size = int(env["WORLD_SIZE"])
    return World(
        int(env["RANK"]), size, int(env.get("LOCAL_RANK", env["RANK"])), int(env.get("LOCAL_WORLD_SIZE", size))
    )


def choose_device(name: str, world: World) -> torch.device:
    """``auto`` takes a GPU where there is one. Raises ConfigError if a GPU is asked for and none is to be had."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            "device=cuda, but torch sees no GPU here: use device=cpu, or check the driver and torch's build."
        )
    if world.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"local rank {world.local_rank} has no GPU of its own: {torch.cuda.device_count()} visible, "
            f"{world.local_size} processes on this node. Start one process for each GPU."
        )
    return torch.device("cuda", world.local_rank)


@contextmanager
def process_group(world: World, device: torch.device) -> Iterator[None]:
    """Join the other processes (NCCL on GPUs, gloo on CPUs); leave when done. Does nothing for one process."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world.size == 1:
        yield
        return
    # Tensors in CPU memory go over gloo also on GPUs: agreeing on a flag must not wait for the GPU.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", rank=world.rank, world_size=world.size
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gather_on_main(values: torch.Tensor) -> list[torch.Tensor] | None:
    """The tensors of all processes, of equal shape and in CPU memory, on rank 0; None elsewhere."""
    if not dist.is_initialized():
        return [values]
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())] if dist.get_rank() == 0 else None
    dist.gather(values, parts)
    return parts


def broadcast_buffers(model: torch.nn.Module) -> None:
    """Give every process rank 0's buffers, such as BatchNorm's running statistics."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def min_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The smallest of a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values, dist.ReduceOp.MIN)
    return values


def on_main(world: World, function: Callable[[], Result]) -> Result:
    """Rank 0 calls ``function``; all ranks get its result, or raise the UserError that it raised."""
    outcome: Any = None
    if world.is_main:
        try:
            outcome = function()
        except UserError as error:
            outcome = error
    outcome = from_main(outcome)
    if isinstance(outcome, UserError):
        if world.is_main:
            raise outcome
        raise SystemExit(outcome.exit_code)  # rank 0 says why
    result: Result = outcome
    return result


def from_main(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
