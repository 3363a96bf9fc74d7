"""Who this process is among all processes of the run: from torchrun's environment or SLURM's; and which GPU it has."""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sources.errors import ConfigError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class World:
    """This process's place among all processes of the run, and where they meet."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    init_method: str = "env://"
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
        one_host = env.get("LOCAL_WORLD_SIZE") == env["WORLD_SIZE"] or env.get("MASTER_ADDR") in (LOOPBACK, "localhost")
        has_agent = "TORCHELASTIC_RUN_ID" in env
        return World(int(env["RANK"]), size, local_rank, local_size, has_agent=has_agent, one_host=one_host)
    if "SLURM_STEP_ID" in env and int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return slurm_world(env)
    return World()


def slurm_world(env: Mapping[str, str]) -> World:
    """The processes of ``srun``. The batch script has SLURM_PROCID too, but no step."""
    tasks = tasks_of_nodes(env["SLURM_STEP_TASKS_PER_NODE"])
    host = env.get("MASTER_ADDR") or _first_host(env["SLURM_STEP_NODELIST"])
    # Another port for each job and each of its attempts: the former one may be taken for a minute.
    number = int(env["SLURM_JOB_ID"]) + int(env["SLURM_STEP_ID"]) + int(env.get("SLURM_RESTART_COUNT") or 0)
    port = env.get("MASTER_PORT") or str(20000 + number % 12000)  # from 32768 on Linux gives ports to clients
    return World(
        rank=int(env["SLURM_PROCID"]),
        size=int(env["SLURM_STEP_NUM_TASKS"]),
        local_rank=int(env["SLURM_LOCALID"]),
        local_size=tasks[int(env["SLURM_NODEID"])],
        init_method=f"tcp://{host}:{port}",
        one_host=len(tasks) == 1,
        from_slurm=True,
    )


def tasks_of_nodes(text: str) -> list[int]:
    """SLURM's tasks per node, such as ``2(x3),1``, as [2, 2, 2, 1]."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in parts for _ in range(int(nodes or 1))]


def _first_host(node_list: str) -> str:
    try:
        command = ["scontrol", "show", "hostnames", node_list]
        names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        return names[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise ConfigError(
            f"the first of SLURM's nodes {node_list} could not be found by scontrol: {error}. "
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
