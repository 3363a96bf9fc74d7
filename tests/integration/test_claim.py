"""One upload to a bucket at a time, and no claim that outlives its holder."""

import json
import threading
import time
import uuid
from typing import Any

import pytest

from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.embedded import EmbeddedAIS
from aistore_data.upload.destination import CLAIMS, Claim
from sources import lease
from sources.errors import ClusterError, ConfigError, UserError
from sources.lease import Lease, myself

OTHER_MACHINE = {"host": "elsewhere", "boot": "another boot", "beat": 1}


@pytest.fixture
def bucket(server: EmbeddedAIS) -> AisStore:
    store = AisStore(f"ais://claim-{uuid.uuid4().hex}", Access(server.endpoint, server.token))
    store.create()
    return store


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 0.05)
    monkeypatch.setattr(lease, "STALE_S", 0.6)


def leave(bucket: AisStore, name: str = "left", **changes: Any) -> None:
    """A claim as another holder would have left it."""
    content = json.dumps(myself() | changes)
    bucket.put(f"{CLAIMS}{name}", content.encode())


def claims(bucket: AisStore) -> list[str]:
    return [entry.name for entry in bucket.list(CLAIMS)]


def take(bucket: AisStore) -> Lease:
    return Claim(bucket, print)


def test_it_is_held_and_given_back(bucket: AisStore) -> None:
    with take(bucket) as held:
        assert claims(bucket) == [held.name]
        with pytest.raises(ConfigError, match=rf"another upload to {bucket.uri} is going on, process \d+ on"):
            take(bucket).__enter__()
        assert claims(bucket) == [held.name]
        held.check()
    assert claims(bucket) == []
    with take(bucket):
        pass


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"started": 1}])
def test_one_of_a_dead_process_is_removed_at_once(bucket: AisStore, changes: dict[str, Any]) -> None:
    leave(bucket, **changes)
    with take(bucket) as held:
        assert claims(bucket) == [held.name]


@pytest.mark.parametrize("content", [json.dumps(myself() | OTHER_MACHINE), "", "half a cl"])
def test_one_of_another_machine_goes_stale(bucket: AisStore, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    bucket.put(f"{CLAIMS}left", content.encode())
    with take(bucket) as held:
        assert claims(bucket) == [held.name]
    assert "waiting 1 s for a sign of life" in capsys.readouterr().out


def test_one_of_another_machine_that_is_renewed_holds(bucket: AisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_TRIES", 1)
    done = threading.Event()

    def renew() -> None:
        beat = 0
        while not done.wait(0.05):
            beat += 1
            leave(bucket, **OTHER_MACHINE | {"beat": beat})

    leave(bucket, **OTHER_MACHINE)
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(ConfigError, match=f"another upload to {bucket.uri} is going on, process .* on elsewhere"):
            take(bucket).__enter__()
    finally:
        done.set()
        thread.join()
    assert claims(bucket) == [f"{CLAIMS}left"]


def test_one_that_was_taken_away_is_noticed(bucket: AisStore) -> None:
    with take(bucket) as held:
        bucket.delete(held.name)
        for _ in range(600):
            time.sleep(0.05)
            try:
                held.check()
            except UserError as error:
                assert "another one has taken the bucket over" in str(error)
                return
        pytest.fail("it was not noticed within 30 s")


def test_a_bucket_that_is_not_there_is_named(bucket: AisStore) -> None:
    with pytest.raises(ClusterError, match="ais://nothing cannot be written to: status 404"):
        take(AisStore("ais://nothing", bucket.access)).__enter__()
