"""Names of run directories that nobody has chosen."""

import functools
import os
import time
from collections.abc import Mapping
from pathlib import Path

_NO_STEP = 0xFFFFFFF0
"""The first of SLURM's own step numbers, which are the batch script, an interactive shell and the like."""

_may_be_taken: set[str] = set()
"""Names of this process that another run may have, too."""


def base_name() -> tuple[str, bool]:
    """(name, whether it is this run's alone and found again after a requeue), from the environment.

    RUN_ID, else SLURM's job and step, else torchrun's id, else the time of the start. Under a shell that SLURM has
    allocated, any number of runs may be started, so a job's number alone is no run's there.
    """
    env = os.environ
    if env.get("RUN_ID"):
        return env["RUN_ID"], True
    if env.get("SLURM_JOB_ID"):
        return _slurm_name(env)
    if env.get("TORCHELASTIC_RUN_ID", "none") != "none":
        return f"torchrun-{env['TORCHELASTIC_RUN_ID']}", True
    return _start_time(), False


def _slurm_name(env: Mapping[str, str]) -> tuple[str, bool]:
    step = env.get("SLURM_STEP_ID", "")
    number = int(step) if step.isdigit() and int(step) < _NO_STEP else None
    name = f"slurm-{env['SLURM_JOB_ID']}" + (f".{number}" if number else "")
    batch = env.get("ENVIRONMENT") == "BATCH" or bool(env.get("SLURM_RESTART_COUNT"))
    batch = batch or ("SLURM_PROCID" in env and not step)
    return name, batch or (number is not None and "SLURM_PTY_PORT" not in env)


def hand_out(name: str, *, stable: bool) -> str:
    """Remember whether a name may be another run's, and answer it."""
    if not stable:
        _may_be_taken.add(name)
    return name


def own_directory(path: str) -> str:
    """Make a directory of this run's own for a name that another run may have; others are answered as they are.

    Who makes a directory has it: ``NAME``, else ``NAME-2``, and so on. A process that torchrun has started again finds
    the one of its first start, by its agent's number.
    """
    own = Path(path)
    if own.name not in _may_be_taken:
        return path
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        if "TORCHELASTIC_RESTART_COUNT" in os.environ:
            of_agent = own.with_name(f"{own.name}-{os.getppid()}")
            again = os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
            if not of_agent.exists() and (again or _make(own)):
                return path
            of_agent.mkdir(exist_ok=True)
            return str(of_agent)
        number = 1
        while not _make(own):
            number += 1
            own = Path(f"{path}-{number}")
    except OSError:  # whoever writes there says why
        return path
    return str(own)


def _make(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


@functools.cache
def _start_time() -> str:
    """When the run began: under torchrun its agent's beginning, which outlives a restart of the workers."""
    now = time.time()
    if "TORCHELASTIC_RESTART_COUNT" in os.environ:
        ticks = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19])
        lines = Path("/proc/stat").read_text().splitlines()
        boot = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
        now = boot + ticks // os.sysconf("SC_CLK_TCK")
    return time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
