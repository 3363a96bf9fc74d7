"""Training from tar shards in a bucket: the same samples, order and weights as from the folder and from local shards."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.embedded import EmbeddedAIS
from tests.conftest import TINY, ForkedTrain, Result
from tests.integration.test_shards import RUN, data, hashes, whole

__all__ = ["data", "whole"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAIS]:
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as server:
        yield server


def bucket_of(server: EmbeddedAIS, name: str, root: Path) -> AisStore:
    """A new bucket with the files below ``root``."""
    store = AisStore(f"ais://{name}", Access(server.endpoint, server.token))
    store.create()
    for path in sorted(root.rglob("*.*")):
        if path.is_file() and ".imagenet-ais" not in path.parts:
            store.put(str(path.relative_to(root)), path.read_bytes())
    return store


def words(server: EmbeddedAIS, store: AisStore, transform: str = "client") -> list[str]:
    place = [f"data.endpoint={server.endpoint}", f"data.bucket={store.uri}"]
    return ["data=aistore", *place, "data.layout=shards", f"data.transform={transform}"]


@pytest.fixture(scope="module")
def store(server: EmbeddedAIS, data: Path) -> AisStore:
    """A bucket with the shards."""
    return bucket_of(server, "shards", data / "shards")


def same(result: Result, whole: Result) -> None:
    assert result.code == 0, result.output
    assert hashes(result) == hashes(whole) and result.fingerprints() == whole.fingerprints()
    assert result.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_a_run_is_that_of_the_folder_also_when_it_was_killed_inside_an_epoch(
    fork_train: ForkedTrain, server: EmbeddedAIS, store: AisStore, whole: Result
) -> None:
    token = {"AIS_AUTHN_TOKEN": server.token}
    killed = fork_train(
        *RUN, *words(server, store), "data.workers=1", variables=token, accident="between steps", number=5
    )
    assert killed.code == -signal.SIGKILL, killed.output
    rest = fork_train(*RUN, *words(server, store), variables=token)
    assert "going on from" in rest.output
    same(rest, whole)
    assert rest.summary()["samples_by_source"]["etl"] == 0 == rest.summary()["retries"]


@pytest.mark.parametrize("transform", [pytest.param("etl", marks=pytest.mark.long), "hybrid"])
def test_the_etl_makes_the_samples_of_a_run(
    fork_train: ForkedTrain, server: EmbeddedAIS, store: AisStore, whole: Result, transform: str
) -> None:
    token = {"AIS_AUTHN_TOKEN": server.token}
    run = [*RUN, *words(server, store, transform), "data.etl.num_workers=1", "data.audit_every=8"]
    killed = fork_train(*run, "data.workers=1", variables=token, accident="between steps", number=5)
    assert killed.code == -signal.SIGKILL, killed.output
    rest = fork_train(*run, "data.workers=1", variables=token)
    assert "samples equal those made here" in rest.output
    same(rest, whole)
    summary = rest.summary()
    assert summary["fallbacks"] == 0 == summary["retries"] and summary["samples_by_source"]["etl"] > 0
    assert (summary["samples_by_source"]["local"] > 0) == (transform == "hybrid")


def test_the_etl_indexes_the_shards(
    fork_train: ForkedTrain, server: EmbeddedAIS, data: Path, whole: Result, tmp_path: Path
) -> None:
    store, variables = bucket_of(server, "new", data / "shards"), {"AIS_AUTHN_TOKEN": server.token}
    variables["XDG_CACHE_HOME"] = str(tmp_path)
    result = fork_train(*RUN, *words(server, store, "etl"), "data.etl.num_workers=1", variables=variables)
    same(result, whole)
    assert f"{store.uri}: ETL imagenet-train indexes 6 shards" in result.output and "not indexed" not in result.output
    assert "ETL imagenet-val indexes " in result.output
    kept = {entry.name.rpartition("/")[0] for entry in store.list(".imagenet-ais/")}
    assert kept == {".imagenet-ais/train", ".imagenet-ais/val"}


def test_two_processes_see_the_samples_of_one_and_local_shards_go_on(
    fork_train: ForkedTrain, server: EmbeddedAIS, store: AisStore, data: Path, whole: Result
) -> None:
    token = {"AIS_AUTHN_TOKEN": server.token}
    killed = fork_train(*RUN, *words(server, store), variables=token, accident="between steps", number=2)
    assert killed.code == -signal.SIGKILL, killed.output
    several = fork_train(*RUN, *words(server, store), "train.epochs=1", world=2, variables=token)
    assert several.code == 0, several.output
    rest = fork_train(*RUN, "data=shards", f"data.root={data / 'shards'}")
    assert rest.code == 0 and rest.fingerprints() == whole.fingerprints(), rest.output


@pytest.mark.parametrize("options", [["data.order=blocks", "data.block_shards=2"], ["data.val_split=0.3"]])
def test_options_of_data_do_what_they_do_for_local_shards(
    train: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    server: EmbeddedAIS,
    store: AisStore,
    data: Path,
    options: list[str],
) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", server.token)
    places = (
        [f"data.root={data / 'shards'}"]
        if "blocks" in options[0]
        else [f"data.train_shards={data / 'shards' / 'train'}"]
    )
    local = train(*TINY, "data=shards", *places, *options, "run_dir=local", "train.epochs=1")
    remote = train(*TINY, *words(server, store), *options, "run_dir=remote", "train.epochs=1")
    assert local.code == remote.code == 0, remote.output
    assert hashes(local) == hashes(remote) and local.fingerprints() == remote.fingerprints()
    further = train(*TINY, *words(server, store), *options, "run_dir=local", "train.epochs=2")
    assert further.code == 0 and "going on from" in further.output, further.output


def test_a_run_does_not_go_on_silently_with_other_shards(
    train: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, server: EmbeddedAIS, data: Path
) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", server.token)
    store = bucket_of(server, "changing", data / "shards")
    assert train(*TINY, *words(server, store), "train.epochs=1").code == 0
    content = bytearray(store.get("train/train-000002.tar"))
    content[512 + 200] ^= 1
    store.put("train/train-000002.tar", bytes(content))
    result = train(*TINY, *words(server, store))
    assert result.code == 2 and "files in ais://changing" in result.output, result.output


def test_evaluation_reads_the_validation_alone(
    train: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, server: EmbeddedAIS, data: Path
) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", server.token)
    trained = train(*TINY, "data=shards", f"data.root={data / 'shards'}", "run_dir=trained")
    store = bucket_of(server, "val-alone", data / "shards")
    for number in range(6):
        store.delete(f"train/train-{number:06d}.tar")
    weights = f"model.weights={trained.run_dir / 'checkpoints' / 'last.pt'}"
    result = train(*TINY, *words(server, store), "mode=evaluate", "run_dir=evaluated", weights)
    assert result.code == 0, result.output
    assert result.summary()["acc1"] == trained.summary()["acc1"]
