"""The launcher: exit codes after a signal, the time to save, and where it listens."""

import argparse
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from training.processes import launch
from training.processes.preemption import VARIABLE, report, reported


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([85, 85], 85), ([85, 1], 1), ([85, None], 1), ([None, None], 1), ([0, 0], 0), ([0, 85], 1), ([130, 130], 1)],
)
def test_85_only_where_all_processes_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, codes: list[int | None], expected: int
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank, code in enumerate(codes):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        if code is not None:
            report(code)
    assert launch.after_signal("SIGHUP", reported(tmp_path)) == expected


def test_an_older_agent_waits_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before torch 2.12 there is no shutdown_timeout, and PContext.close waits 30 s unless it is told."""
    waited: list[int] = []

    class Old:
        def close(self, death_sig: Any = None, timeout: int = 30) -> None:
            waited.append(timeout)

    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "110")
    monkeypatch.setattr(launch, "PContext", Old)
    newer = SimpleNamespace(name="shutdown_timeout")
    monkeypatch.setattr(launch.dataclasses, "fields", lambda _: (newer,))
    launch.wait_for_saves()
    Old().close()
    monkeypatch.setattr(launch.dataclasses, "fields", lambda _: ())
    launch.wait_for_saves()
    Old().close(signal.SIGTERM)
    Old().close(timeout=300)
    assert waited == [30, 110, 300]


def test_what_torch_opens_for_one_machine_listens_on_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend, dynamic_rendezvous, static_tcp_rendezvous

    for module in (c10d_rendezvous_backend, static_tcp_rendezvous):
        monkeypatch.setattr(module, "TCPStore", module.TCPStore)
    handler: Any = dynamic_rendezvous.DynamicRendezvousHandler
    monkeypatch.setattr(handler, "_create_tcp_store_server", handler._create_tcp_store_server)
    options = argparse.Namespace(master_addr="node1", local_addr=None)
    launch.meet_on_loopback(options)
    assert options.master_addr == options.local_addr == "127.0.0.1"
    stores = [
        c10d_rendezvous_backend.TCPStore("localhost", 0, is_master=True, multi_tenant=True, wait_for_workers=False),
        handler._create_tcp_store_server(None, "node1", 0),
    ]
    rows = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    listening = [row.split()[1] for row in rows[0] + rows[1] if row.split()[3] == "0A"]
    for store in stores:
        places = [place for place in listening if place.endswith(f":{store.port:04X}")]
        assert places == [f"0100007F:{store.port:04X}"]
