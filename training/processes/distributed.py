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
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore

from sources.errors import ConfigError, UserError
from training.report.output import put_error

Result = TypeVar("Result")

_PATIENCE = timedelta(hours=1)
"""Of ranks that wait for rank 0, which may list a bucket. A rank that died is noticed at once."""

_ANSWER_S = 1.0
"""After which a wait for others is interrupted, to hear signals and to look again who a rank is now."""

TELL_S = 5.0
"""After which a process says for whom it waits."""

MEET_S = 900.0
"""In which all processes must have come, unless meet_s says otherwise."""

LOOPBACK = "127.0.0.1"

_LOCAL_NAMES = (LOOPBACK, "localhost")
_PREFIX = "imagenet-ais"


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
    one_host: bool = False
    """Whether all processes are known to run on this machine."""
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
        one_host = env.get("LOCAL_WORLD_SIZE") == env["WORLD_SIZE"] or env.get("MASTER_ADDR") in _LOCAL_NAMES
        has_agent = "TORCHELASTIC_RUN_ID" in env
        return World(int(env["RANK"]), size, local_rank, local_size, has_agent=has_agent, one_host=one_host)
    if "SLURM_STEP_ID" in env and int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return _slurm_world(env)
    return World()


def _slurm_world(env: Mapping[str, str]) -> World:
    """The processes of ``srun``. The batch script has SLURM_PROCID too, but no step."""
    tasks = _tasks_of_nodes(env["SLURM_STEP_TASKS_PER_NODE"])
    host = env.get("MASTER_ADDR") or _first_host(env["SLURM_STEP_NODELIST"])
    # Another port for each job and each of its attempts: the former one may be taken for a minute.
    number = int(env["SLURM_JOB_ID"]) + int(env["SLURM_STEP_ID"]) + int(env.get("SLURM_RESTART_COUNT") or 0)
    port = env.get("MASTER_PORT") or str(20000 + number % 12000)  # from 32768 on Linux gives ports to clients
    return World(
        rank=int(env["SLURM_PROCID"]),
        size=int(env["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(env["SLURM_LOCALID"]),
        local_size=tasks[int(env["SLURM_NODEID"])],
        meeting_point=f"tcp://{host}:{port}",
        one_host=len(tasks) == 1,
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
    if world.local_rank > 0 and torch.cuda.device_count() == 1 and _has_own_gpu(world):
        return torch.device("cuda", 0)
    if world.local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"local rank {world.local_rank} has no GPU of its own: {torch.cuda.device_count()} visible, "
            f"{world.local_size} processes on this node. Start one process for each GPU."
        )
    return torch.device("cuda", world.local_rank)


def _has_own_gpu(world: World) -> bool:
    """Whether SLURM shows each of its tasks a GPU of its own, as ``srun --gpus-per-task=1`` does."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    asked = os.environ.get("SLURM_GPUS_PER_TASK") or os.environ.get("SLURM_TRES_PER_TASK")
    return world.from_slurm and (bool(asked) or (visible != "" and "," not in visible))


@contextmanager
def process_group(
    world: World, find_device: Callable[[], torch.device], facts: dict[str, Any], meet_s: float = MEET_S
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
    store = _agree(_meet(world, meet_s), world, facts)
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


def _meet(world: World, limit_s: float = MEET_S) -> Any:
    """The store through which processes find each other; rank 0 serves it, or torchrun's agent does.

    Waits in pieces of a second, so that signals are heard. Raises UserError after ``limit_s``.
    """
    host, port = _address(world)
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and world.meeting_point == "env://"
    serves = world.is_main and not by_agent
    waiting = _Waiting(
        f"rank {world.rank} waits at {_describe(world)} for " + ("torchrun" if by_agent else "rank 0"), limit_s
    )
    while True:
        try:
            return _store(host, port, serves, world.one_host and not by_agent, timedelta(seconds=limit_s))
        except (dist.DistError, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if serves or waiting.is_over():
                raise UserError(
                    f"the {world.size} processes could not meet at {_describe(world)}: {reason} "
                    "If the port is in use, set MASTER_PORT to a free one; if the host is wrong, set MASTER_ADDR."
                ) from None
        time.sleep(0.1)


def _store(host: str, port: int, serves: bool, loopback: bool, timeout: timedelta) -> Any:
    """The meeting point's store; one for processes of this machine alone listens on the loopback alone."""
    common: dict[str, Any] = {"host_name": LOOPBACK if loopback else host, "timeout": timeout}
    if not serves:
        socket.create_connection((common["host_name"], port), _ANSWER_S).close()  # torch's own attempts fill the screen
        store = TCPStore(port=port, **common | {"timeout": timedelta(seconds=10)}, wait_for_workers=False)
        store.set_timeout(timeout)
        return PrefixStore(_PREFIX, store)
    if loopback:
        listener = socket.create_server((LOOPBACK, port))
        common["master_listen_fd"] = listener.detach()
    return PrefixStore(_PREFIX, TCPStore(port=port, is_master=True, wait_for_workers=False, **common))


class NobodyCameError(UserError, dist.DistStoreError):
    """Another process was waited for in vain."""


class _Waiting:
    """Says after ``TELL_S`` seconds, and again from time to time, what is waited for; over after ``limit_s``."""

    def __init__(self, what: str, limit_s: float) -> None:
        self.what = what
        self.limit_s = limit_s
        self._begin = time.monotonic()
        self._next = TELL_S

    def is_over(self) -> bool:
        """Whether there is no time left; says so when it is due."""
        waited = time.monotonic() - self._begin
        if waited >= self._next:
            put_error(f"{self.what}: for {waited:.0f} s, up to {self.limit_s:g} s (meet_s)")
            self._next = max(waited, self._next) + 30
        return waited >= self.limit_s

    def give_up(self, advice: str) -> NoReturn:
        """Raise NobodyCameError."""
        raise NobodyCameError(f"{self.what}: in vain for {self.limit_s:g} s (meet_s). {advice}")


def _address(world: World) -> tuple[str, int]:
    """Host and port of the meeting point. Raises ConfigError."""
    if world.meeting_point == "env://":
        host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    else:
        host, _, port = world.meeting_point.removeprefix("tcp://").rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 65536:
        raise ConfigError(
            f"WORLD_SIZE={world.size}, but MASTER_ADDR={host} and MASTER_PORT={port} do not say where the processes "
            "meet: set both to rank 0's host and a free port of it, or start the processes by torchrun."
        )
    return host, int(port)


def _describe(world: World) -> str:
    if world.meeting_point != "env://":
        return world.meeting_point
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
        limit_s = store.timeout.total_seconds()
        waiting = _Waiting(f"rank {world.rank} waits for rank 0, which compares all {world.size} processes", limit_s)
        attempt = _get(store, f"attempt/{name}", waiting).decode()
        store.set(f"{attempt}/{name}", "here")
        if _get(store, f"{attempt}/verdict", waiting):
            raise SystemExit(ConfigError.exit_code)  # rank 0 says why
        return PrefixStore(attempt, store)
    verdict = ""
    waiting = _Waiting("", store.timeout.total_seconds())
    for rank in range(world.size):
        waiting.what = f"rank 0 waits for rank {rank} of {world.size} processes"
        other = _facts_of(store, rank, name, waiting) if rank else mine
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


def _get(store: Any, key: str, waiting: "_Waiting") -> bytes:
    """A value, once it is there. Raises UserError if it is not in time, and DistError if the store is gone."""
    while not _comes(store, key):
        if waiting.is_over():
            waiting.give_up("See why it did not start, or has ended.")
    value: bytes = store.get(key)
    return value


def _comes(store: Any, key: str) -> bool:
    """Whether a key is there within ``_ANSWER_S``."""
    end = time.monotonic() + _ANSWER_S
    while not (there := store.check([key])) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(there)


def _facts_of(store: Any, rank: int, attempt: str, waiting: "_Waiting") -> dict[str, Any]:
    """What another rank says of itself, once it has answered. Raises UserError if none does in time."""
    while True:
        facts: dict[str, Any] = json.loads(_get(store, f"facts/{rank}", waiting))
        store.set(f"attempt/{facts['name']}", attempt)
        if _comes(store, f"{attempt}/{facts['name']}"):
            return facts
        if waiting.is_over():  # those are facts of a process that has ended, or this one is slow
            waiting.give_up("The one that came has ended.")


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another process has ended, in the words of gloo, NCCL and the store."""
    text = str(error).lower()
    words = ("closed by peer", "closed by remote peer", "reset by peer", "remote process exit", "ncclremoteerror")
    if "nccl" in text:  # most of its errors are about this machine, or how it reaches the others
        return any(word in text for word in words)
    of_the_store = isinstance(error, dist.DistStoreError | dist.DistNetworkError)
    return of_the_store or any(word in text for word in (*words, "broken pipe", "connection refused"))


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def on_any_rank(*flags: bool) -> list[bool]:
    """Each flag as any rank has it; over gloo on CPU memory, so that nobody waits for a GPU."""
    if not dist.is_initialized():
        return list(flags)
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
