"""The few collectives that the trainer needs; a process that is alone gets its own value back."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from sources.errors import UserError
from training.processes.world import World

Result = TypeVar("Result")


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def on_any_rank(*flags: bool) -> list[bool]:
    """Each flag as any rank has it; over gloo on CPU memory, so that nobody waits for a GPU."""
    return [value > 0 for value in sum_over_ranks(torch.tensor([int(flag) for flag in flags])).tolist()]


def gather_on_main(values: torch.Tensor) -> list[torch.Tensor] | None:
    """The tensors of all processes, of equal shape and in CPU memory, on rank 0; None elsewhere."""
    if not dist.is_initialized():
        return [values]
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())] if dist.get_rank() == 0 else None
    dist.gather(values, parts)
    return parts


def gather_objects(value: Result) -> list[Result]:
    """The values of all ranks, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_buffers(model: torch.nn.Module) -> None:
    """Give every process rank 0's buffers, such as BatchNorm's running statistics."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def run_on_rank0(world: World, function: Callable[[], Result]) -> Result:
    """Rank 0 calls ``function``; all ranks get its result, or raise the UserError that it raised."""
    outcome: Any = None
    if world.is_main:
        try:
            outcome = function()
        except UserError as error:
            outcome = error
    outcome = broadcast_from_rank0(outcome)
    if isinstance(outcome, UserError):
        if world.is_main:
            raise outcome
        raise SystemExit(outcome.exit_code)  # rank 0 says why
    return outcome


def broadcast_from_rank0(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process has ended, in the words of gloo, NCCL and the store."""
    text = str(error).lower()
    words = ("closed by peer", "closed by remote peer", "reset by peer", "remote process exit", "ncclremoteerror")
    if "nccl" in text:  # most of its errors are about this machine, or how it reaches the others
        return any(word in text for word in words)
    of_the_store = isinstance(error, dist.DistStoreError | dist.DistNetworkError)
    return of_the_store or any(word in text for word in (*words, "broken pipe", "connection refused"))
