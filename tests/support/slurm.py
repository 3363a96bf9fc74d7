"""A private SLURM of two nodes on this machine: no systemd, no cgroups, nothing outside its folder.

Nodes are named by loopback addresses, so that what ``scontrol show hostnames`` answers resolves. slurmctld, slurmd and
munged run in the foreground as children of pytest and die with it.
"""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

NODES = ("127.0.0.1", "127.0.0.2")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
Value = TypeVar("Value")

_CONF = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={root}/munge.sock
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
SlurmdTimeout=10
MinJobAge=600
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=10 GraceTime=30 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=60 State=UP PriorityTier=100 PreemptMode=OFF
"""
_NODE = (
    "NodeName={name} NodeAddr=127.0.0.1 NodeHostname=localhost Port={port} CPUs=4 Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket=4 ThreadsPerCore=1 RealMemory=8000 State=UNKNOWN"
)


def why_not() -> str:
    """Why there can be no SLURM here, or nothing."""
    missing = [tool for tool in ("munged", "slurmctld", "slurmd", "sbatch", "srun") if not _which(tool)]
    if missing:
        return f"needs SLURM (apt-get install slurm-wlm munge): no {', '.join(missing)}"
    return "" if os.getuid() == 0 else "needs root, as whom munged and slurmd start here"


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin")


def until(what: str, ask: Callable[[], Value], timeout: float = 60, every: float = 0.1) -> Value:
    """The first truthy answer."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if answer := ask():
            return answer
        time.sleep(every)
    raise TimeoutError(f"not in {timeout} s: {what}")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Slurm:
    """The daemons, and calls of the clients, each with a time limit: without slurmctld they block for minutes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.not_shared = root / "not-shared"
        """A folder that the second node does not see, if ``hides``."""
        self.hides = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
        self.conf = root / "slurm.conf"
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Until all nodes are idle."""
        for name in ("log", "state", "not-shared", *(f"spool-{name}" for name in NODES)):
            (self.root / name).mkdir()
        (self.root / "munge.key").write_bytes(os.urandom(64))
        (self.root / "munge.key").chmod(0o600)
        port, *ports = _free_ports(1 + len(NODES))
        nodes = "\n".join(_NODE.format(name=name, port=port) for name, port in zip(NODES, ports, strict=True))
        self.conf.write_text(_CONF.format(root=self.root, port=port, nodes=nodes))
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        names = {"key": "key-file", "sock": "socket", "pid": "pid-file", "log": "log-file", "seed": "seed-file"}
        files = [f"--{option}={self.root}/munge.{name}" for name, option in names.items()]
        self._spawn("munged", "munged", "--foreground", "--force", *files)
        until("munged is up", (self.root / "munge.sock").exists)
        self._spawn("slurmctld", "slurmctld", "-D", "-c", "-f", str(self.conf))
        for name in NODES:
            self.start_node(name)

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node, and wait until it is idle."""
        command = ["slurmd", "-D", "-N", name, "-f", str(self.conf)]
        if self.hides and name == NODES[1]:
            mount = f'mount -t tmpfs none {self.not_shared} && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
        self._spawn(f"slurmd-{name}", *command)
        until(f"{name} is idle", lambda: self._alive() and self._state(name) == "idle")

    def kill_node(self, name: str, *processes: int) -> None:
        """Kill its slurmd, and other processes of the node, at once."""
        daemon = self.daemons.pop(f"slurmd-{name}")
        for pid in (daemon.pid, *processes):
            os.kill(pid, signal.SIGKILL)
        daemon.wait()

    def set_patience(self, seconds: int) -> None:
        """After how long without a sign of life SLURM gives up a node."""
        text = self.conf.read_text()
        self.conf.write_text(re.sub(r"^SlurmdTimeout=.*$", f"SlurmdTimeout={seconds}", text, flags=re.MULTILINE))
        self.call("scontrol", "reconfigure")

    def _state(self, name: str) -> str:
        return self.ask("sinfo", "--noheader", "--Node", f"--nodes={name}", "--partition=low", "--format=%T")

    def _alive(self) -> bool:
        for name, process in self.daemons.items():
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended: {(self.root / 'log' / f'{name}.out').read_text()[-2000:]}")
        return True

    def _spawn(self, name: str, *command: str) -> None:
        with open(self.root / "log" / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                [_which(command[0]) or command[0], *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**self.environment, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def stop(self) -> None:
        """End all jobs and daemons."""
        if "slurmctld" in self.daemons:
            self.call("scancel", "--signal=KILL", "--full", "--user=root")
        for name in sorted(self.daemons, key=lambda name: ("slurmd-" not in name, name == "munged")):
            process = self.daemons[name]
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One of SLURM's clients."""
        return subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=30, check=False, cwd="/"
        )

    def ask(self, *words: str) -> str:
        """What a client prints; empty if it does not answer."""
        try:
            return self.call(*words).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    def job(self, number: str) -> dict[str, str]:
        """What scontrol says of a job."""
        words = self.ask("scontrol", "-o", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, *states: str, timeout: float = 120) -> dict[str, str]:
        """Until a job is in one of the states; by default ended."""

        def ask() -> dict[str, str]:
            job = self.job(number)
            return job if job.get("JobState") in (states or ENDED) else {}

        return until(f"job {number} is {' or '.join(states or ENDED)}", ask, timeout)

    def hurry(self, number: str) -> None:
        """Start a requeued job now instead of in two minutes.

        Not in this second: started in the one in which it was ended, "Job credential revoked" fails it.
        """
        self.wait(number, "PENDING")
        self.call("scontrol", "update", f"jobid={number}", "StartTime=now+3")


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
