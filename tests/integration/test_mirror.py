"""Runs of pods that share no volume: their state is in a bucket, and whoever takes over ends the same."""

import json
import re
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aistore import Client

from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.client.sdk import make_client
from aistore_data.embedded import EmbeddedAIS
from tests.conftest import SMALL_MODEL, ForkedTrain, Result, Zygote, make_small_folder
from tests.integration.test_bad_input import error
from tests.integration.test_repeatable import RUN as STEPS
from tests.integration.test_repeatable import assert_the_same
from training.run_dir.mirror import LAST, OWNER, Mirror

Train = Callable[..., Result]
RUN = [*STEPS, *SMALL_MODEL]
"""9 steps in 3 epochs, with checkpoints of 5.9 MB after steps 2, 3, 5, 6, 8 and 9."""


@dataclass(frozen=True)
class Ais:
    """A server with a bucket ``runs``, and the environment that names it."""

    client: Client
    variables: dict[str, str]

    def objects(self, prefix: str) -> dict[str, bytes]:
        bucket = self.client.bucket("runs")
        names = [entry.name for entry in bucket.list_all_objects(prefix=f"{prefix}/")]
        return {name.removeprefix(f"{prefix}/"): bucket.object(name).get_reader().read_all() for name in names}


def started(server: EmbeddedAIS) -> Ais:
    client = make_client(Access(server.endpoint, server.token))
    client.bucket("runs").create(exist_ok=True)
    return Ais(client, {"AIS_ENDPOINT": server.endpoint, "AIS_AUTHN_TOKEN": server.token})


@pytest.fixture(scope="module")
def ais(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ais]:
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as server:
        yield started(server)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_folder(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def whole(zygote: Zygote, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Result]:
    """A run of one process, or of several, that nobody disturbed and that had no mirror."""
    made: dict[int, Result] = {}

    def call(world: int) -> Result:
        if world not in made:
            train = ForkedTrain(zygote, tmp_path_factory.mktemp("whole") / "cwd")
            made[world] = train(f"data.root={small}", *RUN, world=world)
            assert made[world].code == 0, made[world].output
        return made[world]

    return call


def records(run_dir: Path) -> dict[str, bytes]:
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    return {path.relative_to(run_dir).as_posix(): path.read_bytes() for path in files}


def assert_mirrored(ais: Ais, prefix: str, run_dir: Path) -> None:
    objects = ais.objects(prefix)
    del objects[OWNER]
    assert objects == records(run_dir)


def test_a_killed_pod_goes_on_on_another_machine(
    fork_train: Train, ais: Ais, small: Path, whole: Callable[[int], Result]
) -> None:
    words = [f"data.root={small}", *RUN, "run_mirror=ais://runs/killed/again", "train.keep=1"]
    options: dict[str, Any] = {"variables": ais.variables, "accident": "between steps", "patches": ["uploads at once"]}
    first = fork_train(*words, **options, number=5)
    assert first.code == -signal.SIGKILL and _steps_in(ais.objects("killed/again")) == 3, first.output
    shutil.rmtree(first.run_dir)
    second = fork_train(*words, **options, number=4)
    assert second.code == -signal.SIGKILL and _steps_in(ais.objects("killed/again")) == 6, second.output
    assert "from ais://runs/killed/again in " in second.output and "epoch 2, 0 of 3 batches done" in second.output
    shutil.rmtree(second.run_dir)
    finished = fork_train(*words, variables=ais.variables)
    assert "epoch 3, 0 of 3 batches done" in finished.output
    assert_the_same(finished, whole(1))
    assert_mirrored(ais, "killed/again", finished.run_dir)
    assert json.loads((finished.run_dir / "environment.json").read_text())["attempt"] == 3
    assert "run_dir=NEW run_mirror=\n" in finished.output

    shutil.rmtree(finished.run_dir)
    nothing = fork_train(*words, variables=ais.variables)
    assert nothing.code == 0 and "nothing to do" in nothing.output
    assert_mirrored(ais, "killed/again", nothing.run_dir)


def _steps_in(objects: dict[str, bytes]) -> int:
    epoch, batches = json.loads(objects[OWNER])["position"]
    return 3 * int(epoch) + int(batches)


def test_a_run_that_stops_on_request_is_uploaded_before_it_ends(
    fork_train: Train, ais: Ais, small: Path, whole: Callable[[int], Result]
) -> None:
    words = [f"data.root={small}", *RUN, "run_mirror=ais://runs/stopped"]
    stopped = fork_train(*words, variables=ais.variables, accident="between steps", number=5, signal=signal.SIGTERM)
    assert stopped.code == 85, stopped.output
    objects = ais.objects("stopped")
    assert "PREEMPTED" in objects and _steps_in(objects) == 5
    assert_mirrored(ais, "stopped", stopped.run_dir)
    shutil.rmtree(stopped.run_dir)
    finished = fork_train(*words, variables=ais.variables)
    assert "epoch 2, 2 of 3 batches done" in finished.output
    assert_the_same(finished, whole(1))
    assert_mirrored(ais, "stopped", finished.run_dir)
    assert finished.metrics("train_step")[0]["attempt"] == 1 and finished.metrics("train_step")[-1]["attempt"] == 2


def test_two_machines_without_a_common_disk(
    fork_train: Train, ais: Ais, small: Path, whole: Callable[[int], Result]
) -> None:
    words = [f"data.root={small}", *RUN, "run_mirror=ais://runs/two"]
    options: dict[str, Any] = {"world": 2, "variables": ais.variables, "apart": True}
    stopped = fork_train(*words, **options, accident="between steps", number=5, signal=signal.SIGTERM)
    assert stopped.code == 85, stopped.output
    assert not list(stopped.run_dir.parent.with_name("cwd-1").iterdir())  # rank 0 alone writes
    shutil.rmtree(stopped.run_dir)
    finished = fork_train(*words, **options)
    assert "epoch 2, 2 of 3 batches done" in finished.output
    assert_the_same(finished, whole(2))
    assert_mirrored(ais, "two", finished.run_dir)


@pytest.fixture
def train_here(train: Train, small: Path, ais: Ais, monkeypatch: pytest.MonkeyPatch) -> Train:
    """As ``train``, with the data, the options and the cluster of this module."""
    for name, value in ais.variables.items():
        monkeypatch.setenv(name, value)
    return lambda *words: train(f"data.root={small}", *RUN, *words)


def test_never_replaces_the_former_run_with_the_first_checkpoint(
    fork_train: Train, ais: Ais, small: Path, whole: Callable[[int], Result]
) -> None:
    words = [f"data.root={small}", *RUN, "run_mirror=ais://runs/never"]
    assert fork_train(*words, "seed=1", "train.keep=3", variables=ais.variables).code == 0
    former = ais.objects("never")
    assert "checkpoints/epoch-0002.pt" in former and "summary.json" in former
    other = fork_train(*words, "run_dir=other", variables=ais.variables)
    assert "to go on from other/checkpoints/last.pt would not be the same run" in error(other, 2)
    assert "\n  seed: 1 → 0\n" in other.output and ais.objects("never") == former
    never = [*words, "resume=never", "run_dir=new"]
    killed = fork_train(*never, variables=ais.variables, accident="between steps", number=2)
    assert killed.code == -signal.SIGKILL
    now = ais.objects("never")
    assert {name: now[name] for name in former if name != OWNER} == {
        name: former[name] for name in former if name != OWNER
    }
    finished = fork_train(*never, variables=ais.variables)
    assert_the_same(finished, whole(1))
    assert_mirrored(ais, "never", finished.run_dir)


def test_a_mirror_that_is_gone_in_the_middle_fails_the_run_at_its_end(
    train: Train,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: Callable[[int], Result],
) -> None:
    words = [f"data.root={small}", *RUN, "run_mirror=ais://runs/gone"]
    with EmbeddedAIS(tmp_path / "ais", token="secret") as server:
        for name, value in started(server).variables.items():
            monkeypatch.setenv(name, value)
        push, pushes = Mirror.push, []

        def push_and_stop(mirror: Mirror, position: tuple[int, int]) -> None:
            pushes.append(position)
            if len(pushes) == 3:
                server._stop()
            push(mirror, position)

        monkeypatch.setattr(Mirror, "push", push_and_stop)
        result = train(*words)
        message = error(result, 1)
        assert "run_mirror=ais://runs/gone: could not " in message and "the mirror is not complete" in message
        assert "All is whole in run_dir=run: the same command goes on from there" in message
        assert re.search(r"The next checkpoint will be tried \(\d uploads failed so far\)", result.output)
        assert len(pushes) == 10 and "done: " not in result.output
        assert result.summary()["state_sha256"] == whole(1).summary()["state_sha256"]
    monkeypatch.setattr(Mirror, "push", push)
    with EmbeddedAIS(tmp_path / "ais", token="secret") as server:
        ais = started(server)
        monkeypatch.setenv("AIS_ENDPOINT", server.endpoint)
        assert "summary.json" not in ais.objects("gone")
        again = train(*words)
        assert again.code == 0 and "nothing to do" in again.output, again.output
        assert_mirrored(ais, "gone", again.run_dir)


def test_a_stop_whose_upload_fails_is_an_error(train_here: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Mirror.finish

    def without_a_cluster(mirror: Mirror, position: tuple[int, int]) -> None:
        def fail(store: AisStore, name: str) -> bytes:
            from sources.errors import ClusterError

            raise ClusterError("run_mirror=ais://runs/late: no answer.")

        monkeypatch.setattr(AisStore, "get", fail)
        finish(mirror, position)

    from training.engine.objective import Objective

    steps = iter(range(100))
    prepare = Objective.prepare

    def stop_at_the_fourth(*arguments: Any) -> Any:
        if next(steps) == 3:
            signal.raise_signal(signal.SIGTERM)
        return prepare(*arguments)

    monkeypatch.setattr(Objective, "prepare", stop_at_the_fourth)
    monkeypatch.setattr(Mirror, "finish", without_a_cluster)
    result = train_here("run_mirror=ais://runs/late")
    assert "no answer. That was the last upload of this run" in error(result, 1)
    assert (result.run_dir / "PREEMPTED").exists() and "stopped on request" not in result.output


def test_mirrors_that_cannot_be_used(train_here: Train, ais: Ais, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = error(train_here("run_mirror=ais://nowhere/run"), 1)
    assert "run_mirror=ais://nowhere/run: the bucket ais://nowhere does not exist" in missing
    ais.client.bucket("runs").object("photos/dog.jpg").get_writer().put_content(b"x")
    foreign = error(train_here("run_mirror=ais://runs/photos"), 2)
    assert "run_mirror=ais://runs/photos holds objects, but no mirror of a run" in foreign
    assert not list(Path("run").iterdir())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with monkeypatch.context() as other:
        other.setenv("AIS_ENDPOINT", f"http://127.0.0.1:{port}")
        down = error(train_here("run_mirror=ais://runs/x"), 1)
        assert f"run_mirror=ais://runs/x: no AIStore answers at http://127.0.0.1:{port}" in down
        other.setenv("AIS_AUTHN_TOKEN", "wrong")
        other.setenv("AIS_ENDPOINT", ais.variables["AIS_ENDPOINT"])
        assert "refuses the token" in error(train_here("run_mirror=ais://runs/x"), 1)
        other.delenv("AIS_ENDPOINT")
        assert "run_mirror=ais://runs/x needs a cluster" in error(train_here("run_mirror=ais://runs/x"), 1)
    assert not list(Path("run").iterdir()) and LAST not in ais.objects("x")


def test_a_last_checkpoint_that_is_damaged_gives_way_to_the_next(
    fork_train: Train, ais: Ais, small: Path, whole: Callable[[int], Result]
) -> None:
    words = [f"data.root={small}", *RUN, "run_mirror=ais://runs/damaged"]
    stopped = fork_train(*words, variables=ais.variables, accident="between steps", number=5, signal=signal.SIGTERM)
    shutil.rmtree(stopped.run_dir)
    half = ais.objects("damaged")[LAST][:5000]
    ais.client.bucket("runs").object(f"damaged/{LAST}").get_writer().put_content(half)
    finished = fork_train(*words, variables=ais.variables)
    assert "is damaged" in finished.output and "epoch 2, 0 of 3 batches done" in finished.output
    assert_the_same(finished, whole(1))
