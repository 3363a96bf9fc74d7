"""Every fault, the same stream: what a run sees and ends with does not depend on what broke while it went on.

Prints a line for each fault: what the user sees, the longest wait for data, what was lost. docs/faults.md is made of them.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aistore import Client
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer

from aistore_data.bucket.store import AisStore
from aistore_data.client.http_reader import Access
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import connect, make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.upload.command import upload
from tests.conformance.test_embedded import pod_processes
from tests.conftest import TINY, ForkedTrain, Result, Zygote, make_small_folder
from tests.faults.link import Fault, Gate, Link, links_to
from tests.integration.test_run_directory import SMALL_MODEL
from tests.zygote import Request

RUN = [
    *TINY,
    *SMALL_MODEL,
    *("train.epochs=10", "train.log_every=1", "data.fingerprint=full", "data.workers=1", "data.prefetch=2"),
    *("data=aistore", "data.etl.num_workers=2", "data.etl.on_exit=keep", "data.etl.deadline_s=1"),
]
"""30 steps in 10 epochs, 510 samples."""
STALL_S = 5.0
"""No single fault stops training longer where the objects can be had."""


@dataclass
class Place:
    """A cluster behind links. ``server``: the embedded one, whose processes can be harmed."""

    access: Access
    client: Client
    links: list[Link]
    server: EmbeddedAIS | None
    bucket: str = "ais://faults"

    @property
    def words(self) -> list[str]:
        """Overrides that name it."""
        return [f"data.endpoint=http://{self.links[0].host}", f"data.bucket={self.bucket}", *RUN]

    @property
    def variables(self) -> dict[str, str]:
        return {"AIS_AUTHN_TOKEN": self.access.token}

    @property
    def to_proxy(self) -> Gate:
        return self.links[0].gate

    @property
    def to_target(self) -> Gate:
        """All of them, if there are several."""
        return self.links[1].gate

    def processes(self) -> list[int]:
        """Of all pods. Skips the test where they cannot be reached."""
        if self.server is None:
            pytest.skip("the processes of a cluster's pods cannot be reached from here")
        return pod_processes(self.server.pid)

    def pods(self) -> list[int]:
        """Main processes of the pods."""
        return [pid for pid in self.processes() if os.getpgid(pid) == pid]

    def quiet(self) -> None:
        """No faults, no ETL that a fault has left stopped, and counting begins again."""
        self.to_proxy.quiet()
        self.to_target.quiet()
        for etl in self.client.cluster().list_etls(["Aborted"]):
            if etl.id.startswith("imagenet-"):
                self.client.etl(etl.id).delete()


def put(folder: Path, access: Access, uri: str) -> None:
    """Upload a data set, in the place of what else there is."""
    bucket = AisStore(uri, access)
    bucket.create()
    upload(folder, bucket, "folders", workers=1, replace=True)


@contextmanager
def opened(root: Path, cluster: Access | None = None) -> Iterator[Place]:
    """A cluster with the data set, and links before it: an embedded server's, or a given one."""
    folder = make_small_folder(root / "small")
    with ExitStack() as stack:
        server = None if cluster else stack.enter_context(EmbeddedAIS(root / "ais"))
        access = Access(server.endpoint, server.token) if server else cluster
        assert access is not None
        put(folder, access, "ais://faults")
        links = links_to(access.endpoint, Placement(connect(access), access.endpoint).hosts)
        for link in links:
            stack.callback(link.close)
        yield Place(access, make_client(access), links, server)


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


Inject = Callable[[Place], None]


def after(seconds: float, call: Callable[[], None]) -> None:
    """Later, in a thread."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


def on_links(fault: Fault, seconds: float, *names: str) -> Inject:
    """A fault of some links for a while."""

    def inject(place: Place) -> None:
        links = [getattr(place, name) for name in names or ("to_target",)]
        for link in links:
            link.fault = fault
        after(seconds, lambda: [setattr(link, "fault", None) for link in links])  # type: ignore[func-returns-value]

    return inject


def kill_pods(place: Place) -> None:
    for pid in place.pods():
        os.kill(pid, signal.SIGKILL)


def kill_workers(place: Place) -> None:
    for pid in set(place.processes()) - set(place.pods()):
        os.kill(pid, signal.SIGKILL)


def freeze_pods(place: Place) -> None:
    pods = place.processes()
    for pid in pods:
        os.kill(pid, signal.SIGSTOP)

    def thaw() -> None:
        for pid in pods:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGCONT)

    after(4, thaw)


def stop_etl(place: Place) -> None:
    place.client.etl("imagenet-train").stop()


def delete_etl(place: Place) -> None:
    place.client.etl("imagenet-train").stop()
    place.client.etl("imagenet-train").delete()


ETL = "etl_name="
OOM = b'{"message":"Put \\"http://pod\\": EOF"}'
RAISED = b'{"message":"ETL error: {\\"detail\\":\\"Processing error: injected\\"}"}'
FAULTS: dict[str, Inject] = {
    "ETL pods killed (SIGKILL)": kill_pods,
    "ETL pods hang (SIGSTOP), and go on after 4 s": freeze_pods,
    "ETL stopped": stop_etl,
    "ETL deleted": delete_etl,
    "the pods' workers killed, as for their memory": kill_workers,
    "transform fails for some objects": on_links(Fault("status", "train/cat/1.*etl_name=", body=RAISED), 60),
    "the pod runs out of memory (400 EOF)": on_links(Fault("status", ETL, code=400, body=OOM), 3),
    "answers cut short": on_links(Fault("cut", ETL), 3),
    "answers of the wrong length": on_links(Fault("short", ETL), 3),
    "empty answers with status 200": on_links(Fault("empty", ETL), 3),
    "connections to the target reset": on_links(Fault("reset"), 3),
    "target ten times slower": on_links(Fault("delay", ETL, seconds=0.2), 5),
    "target slow beyond the deadline": on_links(Fault("delay", ETL, seconds=1.5), 5),
    "proxy hangs": on_links(Fault("hang", seconds=5), 5, "to_proxy"),
    "proxy restarts": on_links(Fault("refuse"), 4, "to_proxy"),
    "503 for everything": on_links(Fault("status", code=503), 3, "to_proxy", "to_target"),
    "429 for everything": on_links(Fault("status", code=429), 3, "to_proxy", "to_target"),
    "target gone, and back after 6 s": on_links(Fault("refuse"), 6),
    "the whole cluster gone for 6 s": on_links(Fault("refuse"), 6, "to_proxy", "to_target"),
    "no route: nothing answers for 6 s": on_links(Fault("hang", seconds=30), 6, "to_proxy", "to_target"),
}
WITHOUT_OBJECTS = {  # seconds in which they cannot be had
    "connections to the target reset": 3,
    "503 for everything": 3,
    "429 for everything": 3,
    "target gone, and back after 6 s": 6,
    "the whole cluster gone for 6 s": 6,
    "no route: nothing answers for 6 s": 6,
}
USUAL = ("is running already", "samples equal", "is left alone")
"""What a run says of ETLs without a fault of its own."""
SHORT = ("ETL pods killed (SIGKILL)", "answers cut short", "the whole cluster gone for 6 s")
"""Those of ``make test``."""


def longest_wait(result: Result) -> float:
    """Seconds that a step or a validation waited for data, at most; but for the first ones, when workers start."""
    lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    waits = []
    for kind, images in (("train_step", 12), ("val_epoch", 15)):
        waits += [line["data_wait"] * images / line["img_per_s"] for line in lines if line["kind"] == kind][1:]
    return max(waits)


def assert_the_same(result: Result, whole: Result) -> None:
    assert result.code == 0, result.output
    assert result.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert result.fingerprints() == whole.fingerprints()
    assert (result.run_dir / "stream.bin").read_bytes() == (whole.run_dir / "stream.bin").read_bytes()
    assert sum(result.summary()["samples_by_source"].values()) == 510


@pytest.mark.parametrize(
    "name", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in FAULTS]
)
def test_the_stream_stays_the_same(place: Place, whole: Result, fork_train: ForkedTrain, name: str, seed: int) -> None:
    place.quiet()
    if FAULTS[name] in (kill_pods, kill_workers, freeze_pods):
        place.processes()
    place.to_target.at[100 + seed % 100] = lambda: after(0, partial(FAULTS[name], place))
    result = fork_train(*place.words, variables=place.variables)
    place.quiet()
    assert_the_same(result, whole)
    wait = longest_wait(result)
    summary = result.summary()
    seen = [line for line in result.output.splitlines() if line.startswith(("ETL ", "the cluster"))]
    seen = [line for line in seen if not any(part in line for part in USUAL)]
    print(f"FAULT {name} | {'; '.join(seen)} | {wait:.1f} s | {summary['fallbacks']} | {summary['retries']}")
    assert wait < STALL_S + WITHOUT_OBJECTS.get(name, 0), result.output
    done = summary["fallbacks"] + summary["retries"] > 0
    harmless = ("target ten times slower", "proxy hangs", "proxy restarts")
    assert done or name in harmless, f"nothing has happened\n{result.output}"


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
    result = fork_train(*place.words, variables=place.variables, started=pids.extend)
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
    [(1, 0), (2, 1), *(pytest.param(*values, marks=pytest.mark.long) for values in ((1, 1), (2, 0)))],
)
def test_a_request_to_stop_is_heard_while_waiting(
    place: Place, zygote: Zygote, fork_train: ForkedTrain, tmp_path: Path, world: int, workers: int
) -> None:
    """With two processes the ranks agree to wait and to stop. Without a loader worker the trainer waits itself."""
    place.quiet()
    words = [*place.words, f"data.workers={workers}"]
    undisturbed = ForkedTrain(zygote, tmp_path / "whole")(*words, variables=place.variables, world=world)
    assert undisturbed.code == 0, undisturbed.output
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
    assert_the_same(finished, undisturbed)


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
