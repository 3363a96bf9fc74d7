"""Several processes, one run: who am I, and the few collectives that the trainer needs."""

import json
import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from aistore_data.errors import ConfigError, UserError

Result = TypeVar("Result")

_PATIENCE = timedelta(hours=1)
"""Of ranks that wait for rank 0, which may list a bucket. A rank that died is noticed at once."""

_ANSWER = timedelta(seconds=1)
"""After which rank 0 looks again who a rank is now."""


@dataclass(frozen=True)
class World:
    """This process's place among all processes of the run, and where they meet."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    meeting_point: str = "env://"
    has_agent: bool = False
    """Whether torchrun watches over this process, and passes signals on to it."""
    from_slurm: bool = False
    """Whether this is a task of srun."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that writes."""
        return self.rank == 0


def read_world() -> World:
    """From torchrun's environment, else from that of a SLURM job step; one process without them.

    Raises ConfigError for a SLURM environment that does not say where the processes meet.
    """
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env:
        size = int(env["WORLD_SIZE"])
        local_rank, local_size = int(env.get("LOCAL_RANK", env["RANK"])), int(env.get("LOCAL_WORLD_SIZE", size))
        return World(int(env["RANK"]), size, local_rank, local_size, has_agent="TORCHELASTIC_RUN_ID" in env)
    if "SLURM_STEP_ID" in env and int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return _slurm_world(env)
    return World()


def _slurm_world(env: Mapping[str, str]) -> World:
    """The processes of ``srun``. The batch script has SLURM_PROCID too, but no step."""
    tasks = _tasks_of_nodes(env["SLURM_STEP_TASKS_PER_NODE"])
    host = env.get("MASTER_ADDR") or _first_host(env["SLURM_STEP_NODELIST"])
    # Another port for each job and each of its attempts: the former one may be taken for a minute.
    number = int(env["SLURM_JOB_ID"]) + int(env["SLURM_STEP_ID"]) + int(env.get("SLURM_RESTART_COUNT") or 0)
    port = env.get("MASTER_PORT") or str(20000 + number % 20000)
    return World(
        rank=int(env["SLURM_PROCID"]),
        size=int(env["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(env["SLURM_LOCALID"]),
        local_size=tasks[int(env["SLURM_NODEID"])],
        meeting_point=f"tcp://{host}:{port}",
        from_slurm=True,
    )


def _tasks_of_nodes(text: str) -> list[int]:
    """SLURM's tasks per node, such as ``2(x3),1``, as [2, 2, 2, 1]."""
    parts = [re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part) for part in text.split(",")]
    return [int(part[1]) for part in parts if part for _ in range(int(part[2] or 1))]


def _first_host(node_list: str) -> str:
    try:
        command = ["scontrol", "show", "hostnames", node_list]
        names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        return names[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise ConfigError(
            f"the first of SLURM's nodes {node_list} could not be told by scontrol: {error}. "
            "Set MASTER_ADDR to the host name of rank 0."
        ) from None


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
def process_group(
    world: World, find_device: Callable[[], torch.device], facts: dict[str, Any]
) -> Iterator[torch.device]:
    """Join the other processes, once all agree on ``facts``; answers the device, and leaves when done.

    GPUs talk by NCCL, CPUs by gloo. Raises ConfigError on all ranks, naming the one, where ``find_device`` fails on any
    or facts differ from rank 0's; raises UserError where they cannot meet.
    """
    if world.size == 1:
        yield _use(find_device())
        return
    try:
        device: torch.device | None = find_device()
        facts = facts | {"device": device.type if device else ""}
    except ConfigError as error:
        device, facts = None, {"error": str(error)}
    store = _agree(_meet(world), world, facts)
    assert device is not None  # else nobody agreed
    _use(device)
    # Tensors in CPU memory go over gloo also on GPUs: agreeing on a flag must not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=_PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _use(device: torch.device) -> torch.device:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _meet(world: World) -> Any:
    """The store through which processes find each other."""
    try:
        return next(rendezvous(world.meeting_point, world.rank, world.size))[0]
    except (dist.DistError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the {world.size} processes could not meet at {_describe(world.meeting_point)}: {reason} "
            "If the port is in use, set MASTER_PORT to a free one; if the host is wrong, set MASTER_ADDR."
        ) from None


def _describe(meeting_point: str) -> str:
    if meeting_point != "env://":
        return meeting_point
    return f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')} (MASTER_ADDR and MASTER_PORT)"


def _agree(store: Any, world: World, facts: dict[str, Any]) -> Any:
    """Rank 0 compares what all ranks say of themselves, before they depend on each other.

    Answers a store in which nobody has written yet: torchrun may keep its own when it starts all processes again, with
    what those wrote that have ended, addresses among it. So each process draws a name, and rank 0's is the attempt's.
    """
    name = secrets.token_hex(8)
    mine = facts | {"name": name, "host": socket.gethostname()}
    if not world.is_main:
        store.set(f"facts/{world.rank}", json.dumps(mine))
        attempt = store.get(f"attempt/{name}").decode()
        store.set(f"{attempt}/{name}", "here")
        if store.get(f"{attempt}/verdict"):
            raise SystemExit(ConfigError.exit_code)  # rank 0 says why
        return PrefixStore(attempt, store)
    verdict = ""
    for rank in range(world.size):
        other = _facts_of(store, rank, name) if rank else mine
        differing = [f"{key}: {value} → {other.get(key)}" for key, value in facts.items() if other.get(key) != value]
        if "error" in other:
            verdict = f"rank {rank} on {other['host']}: {other['error']}"
        elif differing and not verdict:
            verdict = (
                f"rank {rank} on {other['host']} is not like rank 0: {'; '.join(differing[:5])}. "
                "All processes need the same command, code and packages."
            )
    store.set(f"{name}/verdict", verdict)
    if verdict:
        if world.size > 1:
            time.sleep(1)  # rank 0 holds the store: let the others read it
        raise ConfigError(verdict)
    return PrefixStore(name, store)


def _facts_of(store: Any, rank: int, attempt: str) -> dict[str, Any]:
    """What another rank says of itself, once it has answered. Raises DistError if none does in the store's time."""
    deadline = time.monotonic() + store.timeout.total_seconds()
    while True:
        facts: dict[str, Any] = json.loads(store.get(f"facts/{rank}"))
        store.set(f"attempt/{facts['name']}", attempt)
        try:
            store.wait([f"{attempt}/{facts['name']}"], _ANSWER)
            return facts
        except dist.DistError:  # those are facts of a process that has ended, or this one is slow
            if time.monotonic() > deadline:
                raise


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether a collective failed because another process has ended, in the words of gloo, NCCL and the store."""
    text = str(error)
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused")
    return isinstance(error, dist.DistError) or any(word in text for word in words) or "NCCL" in text


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
