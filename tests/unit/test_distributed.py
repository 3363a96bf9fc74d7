"""Who am I among all processes, and what is said when they cannot meet."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from sources.errors import ConfigError, UserError
from training.processes import rendezvous
from training.processes.collectives import is_lost_peer
from training.processes.rendezvous import agree, meet
from training.processes.world import World, choose_device, read_world, slurm_world, tasks_of_nodes

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "node[1-3]",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith(("SLURM_", "MASTER_", "TORCHELASTIC_"))] + [*TORCHRUN]:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "scontrol").write_text(
        "#!/bin/sh\ntest \"$*\" = 'show hostnames node[1-3]' && printf 'node1\\nnode2\\nnode3\\n'\n"
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, World()),
        (TORCHRUN, World(3, 4, 1, 2, has_agent=True)),
        (TORCHRUN | SLURM, World(3, 4, 1, 2, has_agent=True)),
        ({"RANK": "0", "WORLD_SIZE": "2"}, World(0, 2, 0, 2)),
        (SLURM, World(4, 5, 0, 1, "tcp://node1:20007", from_slurm=True)),
        (
            SLURM | {"SLURM_RESTART_COUNT": "2", "SLURM_STEP_ID": "1"},
            World(4, 5, 0, 1, "tcp://node1:20010", from_slurm=True),
        ),
        (
            SLURM | {"MASTER_ADDR": "ib-node1", "MASTER_PORT": "1234"},
            World(4, 5, 0, 1, "tcp://ib-node1:1234", from_slurm=True),
        ),
        (SLURM | {"SLURM_JOB_ID": "19993"}, World(4, 5, 0, 1, "tcp://node1:27993", from_slurm=True)),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, World()),
        # The batch script: SLURM_PROCID and SLURM_NTASKS are there, and no step.
        ({k: v for k, v in SLURM.items() if "STEP" not in k} | {"SLURM_NTASKS": "5"}, World()),
    ],
)
def test_the_world_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: World
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert read_world() == expected


def test_tasks_of_nodes() -> None:
    assert tasks_of_nodes("8") == [8]
    assert tasks_of_nodes("2(x3),1,4(x2)") == [2, 2, 2, 1, 4, 4]


def test_without_scontrol_the_address_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"node\[1-3\] could not be found by scontrol: .*Set MASTER_ADDR"):
        read_world()


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"2 processes could not meet at tcp://127.0.0.1:{port}: .*set MASTER_PORT"
        ):
            meet(World(0, 2, init_method=f"tcp://127.0.0.1:{port}"), 900)


def test_nothing_is_read_that_a_former_attempt_wrote() -> None:
    """As with torchrun's static meeting point, whose store stays when all processes are started again."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def clients() -> list[dist.TCPStore]:
        return [dist.TCPStore("127.0.0.1", store.port, wait_for_workers=False) for _ in range(3)]

    def join(client: dist.TCPStore, rank: int, version: str) -> dist.Store:
        group: dist.Store = agree(client, World(rank, 3), {"version": version})
        return group

    with ThreadPoolExecutor() as pool:
        first = list(pool.map(join, clients(), range(3), "111"))
        first[1].set("address", "of the first")
        again = clients()
        early = [pool.submit(join, again[rank], rank, "2") for rank in (0, 2)]
        time.sleep(1.5)  # rank 0 has long read what rank 1 wrote when it was alive
        second = [early[0], pool.submit(join, again[1], 1, "2"), early[1]]
        groups = [found.result(60) for found in second]
        assert not groups[0].check(["address"])
        groups[1].set("address", "of the second")
        assert groups[2].get("address") == b"of the second"

        different = [pool.submit(join, client, rank, "334"[rank]) for rank, client in enumerate(clients())]
        with pytest.raises(ConfigError, match=r"rank 2 on .* is not like rank 0: version: 3 → 4"):
            different[0].result(60)
        for found in different[1:]:
            with pytest.raises(SystemExit):
                found.result(60)


def test_a_rank_that_does_not_come_back_is_waited_for_as_long_as_the_store_says() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=2))
    store.set("facts/1", json.dumps({"name": "of one that has ended"}))
    with pytest.raises(UserError, match=r"gave up after 2 s \(meet_s\). The one that came has ended"):
        agree(store, World(0, 2), {})


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3455", True),
        ("NCCL error in: ncclRemoteError: A call failed possibly due to a network error", True),
        ("NCCL error: ncclSystemError: socketPollConnect: Connection reset by peer", True),
        ("NCCL error in: ProcessGroupNCCL.cpp: ncclInvalidUsage. Duplicate GPU detected : rank 1 and rank 0", False),
        ("NCCL error: ncclInvalidUsage: Bootstrap : no socket interface found", False),
        ("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)", False),
    ],
)
def test_a_lost_peer_is_told_from_a_mistake(text: str, lost: bool) -> None:
    assert is_lost_peer(RuntimeError(text)) == lost


@pytest.mark.parametrize(
    ("variables", "from_slurm", "visible", "expected"),
    [
        ({"SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "0"}, True, 1, "cuda:0"),
        ({"CUDA_VISIBLE_DEVICES": "GPU-3f"}, True, 1, "cuda:0"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, False, 1, ""),
        ({}, True, 1, ""),
        ({}, False, 4, "cuda:1"),
    ],
)
def test_a_task_may_see_its_own_gpu_alone(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], from_slurm: bool, visible: int, expected: str
) -> None:
    for name in ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: visible)
    world = World(1, 2, 1, 2, from_slurm=from_slurm)
    if expected:
        assert str(choose_device("auto", world)) == expected
    else:
        with pytest.raises(ConfigError, match="local rank 1 has no GPU of its own"):
            choose_device("auto", world)


def test_ports_stay_below_those_that_linux_gives_out() -> None:
    ports = {int(slurm_world(SLURM | {"SLURM_JOB_ID": str(number)}).init_method.rsplit(":", 1)[1])
             for number in range(0, 50_000, 7)}  # fmt: skip
    assert min(ports) >= 20000 and max(ports) < 32768


def test_who_is_waited_for_is_said_and_the_wait_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous, "TELL_S", 0.1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = World(1, 2, init_method=f"tcp://127.0.0.1:{port}")
    with pytest.raises(UserError, match="2 processes could not meet"):
        meet(world, 0.5)
    assert f"rank 1 waits at tcp://127.0.0.1:{port} for rank 0: for " in capsys.readouterr().err
    first = World(0, 2, init_method=f"tcp://127.0.0.1:{port}", one_host=True)
    with pytest.raises(UserError, match=r"rank 0 waits for rank 1 of 2 processes: gave up after 1.5 s \(meet_s\)"):
        agree(meet(first, 1.5), first, {})
    assert "rank 0 waits for rank 1 of 2 processes: for " in capsys.readouterr().err


def test_processes_of_one_machine_meet_on_the_loopback_alone() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = meet(World(0, 2, init_method=f"tcp://no-such-host.invalid:{port}", one_host=True), 30)
    rows = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    listening = [row.split()[1] for row in rows[0] + rows[1] if row.split()[3] == "0A"]
    assert [place for place in listening if place.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
    other = meet(World(1, 2, init_method=f"tcp://no-such-host.invalid:{port}", one_host=True), 30)
    store.set("a", "b")
    assert other.get("a") == b"b"


@pytest.mark.parametrize(("host", "port"), [("", "29500"), ("node1", ""), ("node1", "many"), ("node1", "70000")])
def test_a_meeting_point_that_is_none(monkeypatch: pytest.MonkeyPatch, host: str, port: str) -> None:
    monkeypatch.setenv("MASTER_ADDR", host)
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(ConfigError, match="do not say where the processes meet"):
        meet(World(0, 2), 900)
