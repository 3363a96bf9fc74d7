"""Every fault, the same stream: what a run sees and ends with does not depend on what broke while it went on.

Prints a line for each fault: what the user sees, the longest wait for data, what was lost. docs/faults.md is made of them.
"""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer

from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from scripts.make_shards import main
from tests.conftest import ForkedTrain, Result, Zygote, make_small_folder
from tests.support.faults import (
    ETL,
    FAULTS,
    FAULTS_OF_SHARDS,
    WITHOUT_OBJECTS,
    assert_the_same,
    delete_etl,
    freeze_pods,
    kill_pods,
    kill_workers,
    longest_wait,
    on_links,
)
from tests.support.link import Fault
from tests.support.place import Place, after, opened, put
from tests.support.zygote import Request

STALL_S = 5.0
"""No single fault stops training longer where the objects can be had."""


USUAL = ("is running already", "samples equal", "is left alone")
"""What a run says of ETLs without a fault of its own."""
SHORT = ("ETL pods killed (SIGKILL)", "answers cut short", "the whole cluster gone for 6 s")
"""Those of ``make test``."""


@pytest.fixture(scope="module", params=["embedded", *(["cluster"] if os.environ.get("AIS_ENDPOINT") else [])])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The embedded server; and the cluster at AIS_ENDPOINT, if there is one."""
    cluster = Access.from_environment("") if request.param == "cluster" else None
    with opened(tmp_path_factory.mktemp("faults"), cluster) as place:
        yield place


@pytest.fixture(scope="module")
def whole(place: Place, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The run that nothing happened to."""
    result = ForkedTrain(zygote, tmp_path_factory.mktemp("whole") / "cwd")(*place.words, variables=place.variables)
    assert result.code == 0, result.output
    assert result.summary()["samples_by_source"] == {"local": 0, "etl": 510}
    return result


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in FAULTS]
)
def test_the_stream_stays_the_same(place: Place, whole: Result, fork_train: ForkedTrain, name: str, seed: int) -> None:
    print(endure(place, place.words, whole, fork_train, name, seed))


@pytest.fixture(scope="module")
def in_shards(place: Place, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name a bucket with the same samples in tar shards."""
    root = tmp_path_factory.mktemp("shards")
    make_small_folder(root / "small")
    assert main([str(root / "small"), str(root / "shards"), "--samples", "4", "--workers", "1"]) == 0
    store = AisStore("ais://faults-in-shards", place.access)
    store.create()
    for path in (root / "shards").glob("*/*.*"):
        store.put(str(path.relative_to(root / "shards")), path.read_bytes())
    return [*place.words, f"data.bucket={store.uri}", "data.layout=shards"]


@pytest.mark.parametrize(
    "name",
    [
        name if name in SHORT[:2] else pytest.param(name, marks=pytest.mark.long)
        for name in FAULTS
        if name != "transform fails for some objects"
    ],
)
def test_the_stream_of_tar_shards_stays_the_same(
    place: Place, in_shards: list[str], whole: Result, fork_train: ForkedTrain, name: str, seed: int
) -> None:
    endure(place, in_shards, whole, fork_train, name, seed)


UNSEEN = "a shard is not seen for 2 s, as while AIStore moves it"
"""That of ``make test``."""


@pytest.mark.parametrize("transform", ["client", pytest.param("etl", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "name", [name if name == UNSEEN else pytest.param(name, marks=pytest.mark.long) for name in FAULTS_OF_SHARDS]
)
def test_the_stream_stays_the_same_while_shards_cannot_be_read(
    place: Place, in_shards: list[str], whole: Result, fork_train: ForkedTrain, name: str, transform: str, seed: int
) -> None:
    if "transform fails" in name and transform == "client":
        pytest.skip("nothing is transformed by an ETL")
    line = endure(place, [*in_shards, f"data.transform={transform}"], whole, fork_train, name, seed)
    print(line.replace("FAULT", f"FAULT tar shards, {transform}:", 1))


def endure(place: Place, words: list[str], whole: Result, fork_train: ForkedTrain, name: str, seed: int) -> str:
    """A run to which the fault happens ends as ``whole`` did; the line that tells of it."""
    place.quiet()
    fault = FAULTS.get(name) or FAULTS_OF_SHARDS[name]
    if fault in (kill_pods, kill_workers, freeze_pods):
        place.processes()
    place.to_target.at[100 + seed % 100] = lambda: after(0, partial(fault, place))
    result = fork_train(*words, variables=place.variables)
    place.quiet()
    assert_the_same(result, whole)
    wait = longest_wait(result)
    summary = result.summary()
    seen = [line for line in result.output.splitlines() if line.startswith(("ETL ", "the cluster"))]
    seen = [line for line in seen if not any(part in line for part in USUAL)]
    line = f"FAULT {name} | {'; '.join(seen)} | {wait:.1f} s | {summary['fallbacks']} | {summary['retries']}"
    assert wait < STALL_S + WITHOUT_OBJECTS.get(name, 0), result.output
    done = summary["fallbacks"] + summary["retries"] > 0
    harmless = ("target ten times slower", "proxy hangs", "proxy restarts")
    assert done or name in harmless, f"nothing has happened\n{result.output}"
    return line


INDEXING = "%3A%22index%22"
"""In the path of a request for the index of a shard."""
WHILE_INDEXING = {
    "ETL pods killed (SIGKILL)": kill_pods,
    "ETL deleted": delete_etl,
    "answers cut short": lambda place: setattr(place.to_target, "fault", Fault("cut", INDEXING)),
    "answers with other bytes": lambda place: setattr(place.to_target, "fault", Fault("alter", INDEXING)),
    "503 for every index": lambda place: setattr(place.to_target, "fault", Fault("status", INDEXING, code=503)),
    "answers two seconds late": lambda place: setattr(place.to_target, "fault", Fault("delay", INDEXING, seconds=2)),
}


@pytest.mark.parametrize("name", [n if n in SHORT else pytest.param(n, marks=pytest.mark.long) for n in WHILE_INDEXING])
def test_what_breaks_while_shards_are_indexed_changes_nothing(
    place: Place,
    in_shards: list[str],
    whole: Result,
    fork_train: ForkedTrain,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.quiet()
    if WHILE_INDEXING[name] is kill_pods:
        place.processes()
    store = AisStore("ais://faults-in-shards", place.access)
    for entry in list(store.list(".imagenet-ais/")):
        store.delete(entry.name)
    happened, real = list[str](), place.to_target.fault_for

    def happens(path: str, node: str) -> Fault | None:
        if INDEXING in path and not happened:
            happened.append(path)
            WHILE_INDEXING[name](place)
        return real(path, node)

    monkeypatch.setattr(place.to_target, "fault_for", happens)
    result = fork_train(*in_shards, variables=place.variables | {"XDG_CACHE_HOME": str(tmp_path)})
    place.quiet()
    assert happened and ": ETL imagenet-train indexes " in result.output, result.output
    assert_the_same(result, whole)
    assert ("has not indexed" in result.output) == (name != "answers two seconds late"), result.output


@pytest.mark.parametrize("transform", ["etl", pytest.param("client", marks=pytest.mark.long)])
def test_a_shard_that_is_overwritten_ends_the_run_and_one_that_is_put_back_goes_on(
    place: Place, in_shards: list[str], whole: Result, fork_train: ForkedTrain, transform: str
) -> None:
    words, name = [*in_shards, f"data.transform={transform}"], "train/train-000002.tar"
    store = AisStore("ais://faults-in-shards", place.access)
    content = store.get(name)
    other = store.get("train/train-000003.tar")
    assert len(content) == len(other)
    place.quiet()
    place.to_target.at[150] = lambda: store.put(name, other)
    try:
        result = fork_train(*words, variables=place.variables)
    finally:
        place.quiet()
        store.put(name, content)
    said = f"{store.uri}/{name} was changed since it was indexed: another member lies at byte "
    assert result.code == 1 and said in result.output, result.output
    assert_the_same(fork_train(*words, variables=place.variables), whole)


@pytest.mark.long
def test_a_photo_that_is_overwritten_in_its_shard_is_replaced(
    place: Place, in_shards: list[str], fork_train: ForkedTrain
) -> None:
    store, name, outcomes = AisStore("ais://faults-in-shards", place.access), "train/train-000002.tar", []
    content = store.get(name)
    damaged = bytearray(content)
    damaged[512 + 200] ^= 1
    for transform in ("etl", "client"):
        place.quiet()
        place.to_target.at[20] = lambda: store.put(name, bytes(damaged))
        words = [*in_shards, f"data.transform={transform}", "data.on_corrupt=replace", f"run_dir={transform}"]
        try:
            result = fork_train(*words, variables=place.variables)
        finally:
            place.quiet()
            store.put(name, content)
        assert result.code == 0 and result.summary()["replaced"] == 1, result.output
        assert "its CRC-32 is not the one that was indexed" in (result.run_dir / "replaced.jsonl").read_text()
        outcomes.append(result.summary()["state_sha256"])
    assert outcomes[0] == outcomes[1]


def test_a_suspended_run_blames_nobody(place: Place, whole: Result, fork_train: ForkedTrain) -> None:
    """As SLURM suspends it, or a laptop: what the ETL owes it then comes after it has gone on, and is not late."""
    place.quiet()
    pids: list[int] = []

    def suspend() -> None:
        place.to_target.fault = Fault("delay", ETL, seconds=60)
        os.killpg(pids[0], signal.SIGSTOP)
        after(3, lambda: os.killpg(pids[0], signal.SIGCONT))
        after(3.3, lambda: setattr(place.to_target, "fault", None))

    place.to_target.at[150] = suspend
    # With several nodes the adaptive deadline, from 0.2 s, may be shorter than the link goes on holding answers.
    # The suspension is longer than the deadline, and the deadline than a busy machine takes to end the delay.
    words = [*place.words, "data.etl.adaptive_deadline=false", "data.etl.deadline_s=2.5"]
    result = fork_train(*words, variables=place.variables, started=pids.extend)
    assert not place.to_target.at
    assert_the_same(result, whole)
    assert result.summary()["fallbacks"] == result.summary()["retries"] == 0, result.output


@pytest.mark.long
def test_eight_trainers_share_a_small_cluster(place: Place, whole: Result, zygote: Zygote, tmp_path: Path) -> None:
    """Two ETL workers for all: whoever is not served in time makes samples itself, and none starves."""
    place.quiet()
    outputs = [tmp_path / f"output-{number}" for number in range(8)]
    pids = [
        zygote.start(Request([*place.words, f"run_dir=run-{n}"], str(tmp_path), str(output), dict(place.variables)))
        for n, output in enumerate(outputs)
    ]
    codes = [zygote.wait(pid) for pid in pids]
    for number, (code, output) in enumerate(zip(codes, outputs, strict=True)):
        assert_the_same(Result(code, output.read_text(), tmp_path / f"run-{number}"), whole)


class Wrong(FastAPIServer):
    """Answers of the right length, and other pixels."""

    def transform(self, data: bytes, path: str, etl_args: str) -> bytes:
        import json

        size = json.loads(etl_args)["size"]
        return bytes(size * size * 3)


def replace_etl(place: Place) -> None:
    import cloudpickle

    import tests.faults.test_faults as this

    cloudpickle.register_pickle_by_value(this)
    delete_etl(place)
    place.client.etl("imagenet-train").init_class(init_timeout="60s")(Wrong)


def test_an_etl_that_somebody_replaces_is_noticed_before_a_pixel_changes(
    place: Place, whole: Result, fork_train: ForkedTrain
) -> None:
    place.quiet()
    place.to_target.at[150] = lambda: replace_etl(place)
    try:
        result = fork_train(*place.words, "data.audit_every=1", variables=place.variables)
        assert_the_same(result, whole)
        assert "ETL imagenet-train fails on " in result.output

        place.quiet()
        again = fork_train(*place.words, "run_dir=again", variables=place.variables)
        assert_the_same(again, whole)
        assert "ETL imagenet-train runs other code and is left alone; this run uses imagenet-train-" in again.output
    finally:
        delete_etl(place)


def test_an_audit_of_every_batch_lets_no_altered_pixel_through(
    place: Place, whole: Result, fork_train: ForkedTrain
) -> None:
    place.quiet()
    place.to_target.at[180] = lambda: setattr(place.to_target, "fault", Fault("alter", ETL))
    result = fork_train(*place.words, "data.audit_every=1", variables=place.variables)
    assert_the_same(result, whole)
    assert "ETL imagenet-train makes other pixels than this machine: it is not asked any more" in result.output
    assert result.summary()["audits"] >= 10 and result.summary()["samples_by_source"]["local"] > 100


def test_samples_that_may_be_wrong_end_the_run(place: Place, whole: Result, fork_train: ForkedTrain) -> None:
    place.quiet()
    place.to_target.at[150] = lambda: setattr(place.to_target, "fault", Fault("alter", ETL))
    result = fork_train(*place.words, "data.audit_every=30", variables=place.variables)
    assert result.code == 1
    assert "error: ETL imagenet-train makes other pixels of ais://faults/train/" in result.output
    assert "may be wrong: start again from a checkpoint before that" in result.output


def test_patience_ends_with_everything_saved(place: Place, whole: Result, fork_train: ForkedTrain) -> None:
    place.quiet()
    gone = on_links(Fault("refuse"), 60, "to_proxy", "to_target")
    place.to_target.at[150] = lambda: gone(place)
    result = fork_train(*place.words, "data.patience_s=4", variables=place.variables)
    assert result.code == 1 and "data.patience_s" in result.output, result.output
    assert "the cluster at http://127.0.0.1" in result.output and "waiting for" in result.output
    assert "is saved in run/checkpoints/last.pt: the same command goes on." in result.output
    place.quiet()
    assert_the_same(fork_train(*place.words, "data.patience_s=4", variables=place.variables), whole)


@pytest.mark.parametrize(
    ("world", "workers"),
    [(1, 0), *(pytest.param(*values, marks=pytest.mark.long) for values in ((1, 1), (2, 0), (2, 1)))],
)
def test_a_request_to_stop_is_heard_while_waiting(
    place: Place, zygote: Zygote, fork_train: ForkedTrain, tmp_path: Path, world: int, workers: int
) -> None:
    """With two processes the ranks agree to wait and to stop. Without a loader worker the trainer waits itself."""
    place.quiet()
    words = [*place.words, f"data.workers={workers}"]
    whole = ForkedTrain(zygote, tmp_path / "whole")(*words, variables=place.variables, world=world)
    assert whole.code == 0, whole.output
    place.quiet()
    gone = on_links(Fault("refuse"), 600, "to_proxy", "to_target")
    pids: list[int] = []

    def stop_later() -> None:
        gone(place)
        after(4, lambda: os.kill(pids[0], signal.SIGTERM))

    place.to_target.at[150] = stop_later
    result = fork_train(*words, variables=place.variables, world=world, started=pids.extend)
    assert result.code == 85, result.output
    assert (result.run_dir / "PREEMPTED").exists()
    place.quiet()
    finished = fork_train(*words, variables=place.variables, world=world)
    assert_the_same(finished, whole)


def test_an_object_that_is_gone_or_changed_is_named(place: Place, fork_train: ForkedTrain, tmp_path: Path) -> None:
    """Or replaced by another one of its class, and recorded; the same one every time."""
    bucket = place.client.bucket("losing")
    put(make_small_folder(tmp_path / "small"), place.access, "ais://losing")
    words = [*place.words, "data.bucket=ais://losing", "data.transform=client"]

    def lose(*_: Any) -> None:
        bucket.object("train/cat/3.jpg").delete()
        bucket.object("train/dog/4.jpg").get_writer().put_content(b"not what it was")
        content = (tmp_path / "small" / "train" / "eel" / "2.jpg").read_bytes()
        bucket.object("train/eel/2.jpg").get_writer().put_content(content[:-3] + b"\0" + content[-2:])

    place.quiet()
    place.to_target.at[20] = lose
    result = fork_train(*words, variables=place.variables)
    assert result.code == 1
    gone = "ais://losing/train/cat/3.jpg does not exist any more, and did when it was listed. Look at it with: ais get"
    changed = "ais://losing/train/dog/4.jpg has 15 bytes, and had "
    swapped = "ais://losing/train/eel/2.jpg has another checksum than when it was listed"
    assert any(words in result.output for words in (gone, changed, swapped)), result.output

    outcomes = []
    for name in ("one", "two"):
        put(tmp_path / "small", place.access, "ais://losing")
        place.quiet()
        place.to_target.at[20] = lose
        result = fork_train(*words, "data.on_corrupt=replace", f"run_dir={name}", variables=place.variables)
        assert result.code == 0, result.output
        cases = (result.run_dir / "replaced.jsonl").read_text()
        assert "train/cat/3.jpg does not exist any more" in cases and "train/dog/4.jpg has 15 bytes" in cases
        assert "train/eel/2.jpg has another checksum" in cases
        assert result.summary()["replaced"] == 3
        outcomes.append(result.summary()["state_sha256"])
    place.quiet()
    limited = fork_train(
        *words, "data.on_corrupt=replace", "data.max_replaced=0", "run_dir=3", variables=place.variables
    )
    assert limited.code == 1 and "more than data.max_replaced=0: 3/replaced.jsonl lists them" in limited.output
