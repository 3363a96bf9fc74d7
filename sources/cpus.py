"""How many CPUs a process may use."""

import os
from pathlib import Path

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def cpu_count() -> int:
    """CPUs that this process may use: those that it may run on, and no more than its container's limit.

    That is the CPUs' worth of time that cgroup v2 grants: "QUOTA PERIOD" or "max PERIOD".
    """
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = _CPU_MAX.read_text().split()
        return cpus if quota == "max" else min(cpus, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        return cpus
