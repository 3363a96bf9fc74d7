"""How many CPUs a process may use."""

import os
from pathlib import Path

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def cpu_count() -> int:
    """CPUs that this process may use: those that it may run on, and no more than its container's limit."""
    cpus = len(os.sched_getaffinity(0))
    return min(cpus, _cpu_limit() or cpus)


def _cpu_limit() -> int | None:
    """The CPUs' worth of time that cgroup v2 grants a container: "QUOTA PERIOD" or "max PERIOD"."""
    try:
        quota, period = _CPU_MAX.read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
