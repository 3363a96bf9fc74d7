"""Threads beside training: no exception ends one without a word, and what ends one for good stops the run."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aistore_data.dataset import open_bucket
from aistore_data.etls import lifecycle, monitor
from aistore_data.etls.monitor import EtlMonitor
from aistore_data.upload.destination import Claim
from aistore_data.upload.destination import open_bucket as open_destination
from sources import lease
from sources.errors import ClusterError, ConfigError, UserError
from tests.unit.test_mirror import MemoryBucket
from training.run_dir.mirror import Mirror, Snapshot


def test_the_keeper_goes_on_after_any_error_and_says_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "PERIOD_S", 0.001)
    errors: list[Exception] = [ValueError("a field is missing\nand so on")] * 3 + [KeyError("x")]
    said: list[str] = []
    alive = threading.Event()

    class Faulty(EtlMonitor):
        def __init__(self) -> None:
            self._watched, self._say, self._done = [], said.append, threading.Event()
            self._thread = threading.Thread(target=self._watch, daemon=True)

        def _look_at_waiting(self) -> None:
            if errors:
                raise errors.pop()
            alive.set()

    with Faulty():
        assert alive.wait(30)
    assert said == [
        "the watch over the ETLs met an error, and goes on: KeyError: 'x'",
        "the watch over the ETLs met an error, and goes on: ValueError: a field is missing",
    ]


def test_a_claim_is_renewed_after_an_error_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.01)
    errors: list[Exception] = [ClusterError("the token's file is gone"), ValueError("no JSON")]
    renewed, said = threading.Event(), list[str]()

    class Faulty(MemoryBucket):
        def get(self, name: str, most: int = 0) -> bytes:
            if errors:
                raise errors.pop()
            return super().get(name)

        def put(self, name: str, content: bytes) -> None:
            if self.puts:
                renewed.set()
            super().put(name, content)

    with Claim(Faulty(), said.append) as held:
        assert renewed.wait(30)
        held.check()
    assert said == ["the lock of ais://memory/run could not be renewed: no JSON. It is tried again."]


@pytest.mark.parametrize(("error", "ends"), [(UserError("taken over"), True), (ClusterError("down"), False)])
def test_a_mirror_that_ends_stops_the_run(tmp_path: Path, error: UserError, ends: bool) -> None:
    config: Any = SimpleNamespace(run_dir=str(tmp_path), run_mirror="ais://runs/a")
    uploaded, ended, said = threading.Event(), threading.Event(), list[str]()

    class Faulty(Mirror):
        def _snapshot(self, position: tuple[int, int]) -> Snapshot:
            return Snapshot(position, {}, {})

        def _upload(self, snapshot: Snapshot) -> None:
            uploaded.set()
            raise error

    with Faulty(config, said.append, ended.set) as mirror:
        mirror.push((0, 1))
        assert uploaded.wait(30)
        mirror._wait()
        if ends:
            assert ended.wait(30)
            with pytest.raises(UserError, match="taken over"):
                mirror.push((0, 2))
        else:
            mirror.push((0, 2))
    assert ended.is_set() == ends and bool(said) != ends


@pytest.mark.parametrize("error", [ConnectionError("refused"), ClusterError("no such ETL")])
def test_an_etl_that_cannot_be_stopped_hides_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def stop(client: Any, name: str) -> None:
        raise error

    monkeypatch.setattr(lifecycle, "stop", stop)
    monkeypatch.setattr(open_bucket, "explain", lambda error, access: str(error))
    said: list[str] = []
    open_bucket._stop_etl(None, "imagenet-train", None, said.append)  # type: ignore[arg-type]
    assert said == [f"ETL imagenet-train could not be stopped: {error}"]


@pytest.mark.parametrize(("endpoint", "problem"), [("", "is not set"), ("h:1", "=h:1 is not a URL")])
def test_a_tool_names_its_own_option(monkeypatch: pytest.MonkeyPatch, endpoint: str, problem: str) -> None:
    monkeypatch.delenv("AIS_ENDPOINT", raising=False)
    with pytest.raises(ClusterError, match=f"^--endpoint{problem if endpoint else ' ' + problem}") as caught:
        open_destination("ais://b", endpoint)
    assert "data." not in str(caught.value)
    with pytest.raises(ConfigError, match=r"^BUCKET=ais://b/train goes on after the bucket's name: write ais://b\.$"):
        open_destination("ais://b/train", "http://h:1")
