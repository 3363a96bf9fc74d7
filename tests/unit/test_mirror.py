"""A mirror in memory: what a reader finds whenever its writer was killed, and what the training loop waits for."""

import dataclasses
import functools
import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from aistore_data.bucket.store import Entry
from sources.errors import ClusterError, ConfigError, UserError
from tests.support.checkpoints import sound_state
from tests.unit.test_command_line import composed
from training.config.schema import Config
from training.run_dir import checkpoint
from training.run_dir.mirror import LAST, OWNER, Mirror

Position = tuple[int, int]


class Killed(BaseException):
    """The process is gone."""


class MemoryBucket:
    """An ``ObjectStore``; each operation first calls ``before``."""

    uri = "ais://memory/run"
    is_cloud = False

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.before: Callable[[str, str], None] = lambda operation, name: None
        self.puts: list[str] = []

    def head(self) -> None:
        raise AssertionError("nobody asks for it")

    def list(self, prefix: str = "") -> Iterator[Entry]:
        self.before("list", "")
        yield from [Entry(name, len(content)) for name, content in self.objects.items() if name.startswith(prefix)]

    def get(self, name: str, most: int = 0) -> bytes:
        self.before("get", name)
        return self.objects[name]

    def get_many(self, names: Sequence[str]) -> Iterator[Sequence[bytes]]:
        yield [self.get(name) for name in names]

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
        self.before("read", name)
        for at in range(0, len(self.objects[name]), 1000):
            yield self.objects[name][at : at + 1000]

    def put(self, name: str, content: bytes) -> None:
        self.before("put", name)
        self.objects[name] = bytes(content)
        self.puts.append(name)

    def delete(self, name: str) -> None:
        self.before("delete", name)
        del self.objects[name]

    def explain(self, error: Exception) -> str:
        return f"{error}."


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> MemoryBucket:
    made = MemoryBucket()
    monkeypatch.setattr("training.run_dir.mirror._open_store", lambda config: made)
    return made


@functools.cache
def configuration() -> Config:
    """Composed once: that takes a tenth of a second, and hundreds of mirrors are opened here."""
    return composed("run_mirror=ais://memory/run", "data.root=/data")


def mirror_of(folder: Path, said: list[str] | None = None) -> Mirror:
    config = dataclasses.replace(configuration(), run_dir=str(folder))
    return Mirror(config, said.append if said is not None else print)


class Local:
    """A run directory whose run takes one step an epoch."""

    def __init__(self, folder: Path, identity: str = "one") -> None:
        self.folder = folder
        self.keep = 2
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text("# imagenet-ais")
        (folder / "environment.json").write_text(json.dumps({"id": identity}))
        (folder / "stream.bin").touch()
        (folder / "tensorboard").mkdir(exist_ok=True)

    def save(self, epoch: int) -> Position:
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"epoch": epoch}) + "\n")
        (self.folder / "tensorboard" / "events").write_bytes(bytes(epoch))
        state = sound_state(epoch) | {"weights": torch.full((9,), epoch)}
        folder = self.folder / "checkpoints"
        checkpoint.save(folder, state, [checkpoint.epoch_name(epoch), *(["best.pt"] if epoch % 2 else [])])
        checkpoint.keep_last_epochs(folder, self.keep)
        return epoch, 0

    def lines(self) -> list[int]:
        return [json.loads(line)["epoch"] for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def without_owner(bucket: MemoryBucket) -> dict[str, bytes]:
    return {name: content for name, content in bucket.objects.items() if name != OWNER}


def upload(local: Local, epochs: range, *, fresh: bool = True) -> None:
    mirror = mirror_of(local.folder)
    mirror.fetch(wanted=not fresh)
    mirror.take_over(fresh=fresh)
    with mirror:
        for epoch in epochs:
            mirror.finish(local.save(epoch))


def test_the_mirror_is_the_directory_and_only_changes_travel(bucket: MemoryBucket, tmp_path: Path) -> None:
    local = Local(tmp_path / "run")
    (local.folder / "run.lock.x").touch()
    (local.folder / "notes.txt").touch()
    upload(local, range(1, 2))
    expected = files_of(local.folder)
    del expected["run.lock.x"], expected["notes.txt"]
    assert without_owner(bucket) == expected and set(expected) > {LAST, "checkpoints/epoch-0001.pt", "stream.bin"}
    upload(local, range(2, 5), fresh=False)
    assert set(without_owner(bucket)) == set(files_of(local.folder)) - {"run.lock.x", "notes.txt"}
    assert "checkpoints/epoch-0001.pt" not in bucket.objects  # no longer kept

    again = Local(tmp_path / "again")
    shutil.rmtree(again.folder)
    mirror = mirror_of(again.folder)
    mirror.fetch()
    assert files_of(again.folder) == without_owner(bucket)
    bucket.puts.clear()
    mirror.take_over(fresh=False)
    with mirror:
        mirror.finish((4, 0))
        assert bucket.puts == [OWNER, OWNER]  # nothing that was fetched goes back
        bucket.puts.clear()
        mirror.finish(again.save(6))
    assert sorted(bucket.puts) == sorted(
        ["metrics.jsonl", "tensorboard/events", "checkpoints/epoch-0006.pt", LAST, OWNER]
    )


@pytest.mark.parametrize("former", [False, True], ids=["empty", "replaced"])
def test_a_writer_killed_at_any_operation_leaves_a_consistent_mirror(
    bucket: MemoryBucket, tmp_path: Path, former: bool
) -> None:
    """With resume=never too: a reader finds the former run, nothing, or the new one, and never a mixture."""
    if former:
        upload(Local(tmp_path / "former", "former"), range(11, 13))
    at_first = dict(bucket.objects)
    for killed_at in itertools.count(1):
        bucket.objects = dict(at_first)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        local, left = Local(tmp_path / "run"), killed_at
        mirror = mirror_of(local.folder)
        mirror.fetch(wanted=False)

        def kill(operation: str, name: str) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                raise Killed

        bucket.before = kill
        try:
            mirror.take_over(fresh=True)
            for epoch in range(1, 4):
                mirror._upload(mirror._snapshot(local.save(epoch)))
        except Killed:
            pass
        bucket.before = lambda operation, name: None
        reader = Local(tmp_path / "reader")
        shutil.rmtree(reader.folder)
        mirror_of(reader.folder).fetch()
        if reader.folder.exists():
            position = checkpoint.newest_position(reader.folder / "checkpoints")
            assert position
            of_former = json.loads((reader.folder / "environment.json").read_text())["id"] == "former"
            saved = range(11 if of_former else 1, position[0] + 1)
            assert reader.lines()[: len(saved)] == list(saved), killed_at
            assert len(reader.lines()) <= len(saved) + 1 and len({epoch > 10 for epoch in reader.lines()}) == 1
            for path in (reader.folder / "checkpoints").iterdir():
                assert (checkpoint.load(path)["epoch"] > 10) == of_former, killed_at
            shutil.rmtree(reader.folder)
        if left > 0:
            break
    assert killed_at > 25 and position == (3, 0)


def test_training_does_not_wait_and_the_newest_wins(bucket: MemoryBucket, tmp_path: Path) -> None:
    local, goes_on, uploaded = Local(tmp_path / "run"), threading.Event(), []
    mirror = mirror_of(local.folder)
    mirror.fetch()
    mirror.take_over(fresh=True)

    def slowly(operation: str, name: str) -> None:
        if operation == "put" and name == LAST:
            assert goes_on.wait(20)

    bucket.before = slowly
    with mirror:
        first = local.save(1)
        expected = (local.folder / LAST).read_bytes()
        mirror.push(first)
        while not mirror._busy:
            time.sleep(0.01)
        for epoch in range(2, 9):
            mirror.push(local.save(epoch))
        bucket.before = lambda operation, name: uploaded.append(bucket.objects.get(LAST)) if name == LAST else None
        goes_on.set()
        mirror.finish((8, 0))
    assert uploaded == [expected]  # what was there before the second upload: the first, and no other
    assert bucket.objects[LAST] == (local.folder / LAST).read_bytes() != expected
    assert without_owner(bucket) == files_of(local.folder)


def test_a_failed_upload_is_counted_said_and_tried_again(bucket: MemoryBucket, tmp_path: Path) -> None:
    local, said = Local(tmp_path / "run"), []
    mirror = mirror_of(local.folder, said)
    mirror.fetch()
    mirror.take_over(fresh=True)

    def fail(operation: str, name: str) -> None:
        raise ClusterError("run_mirror=ais://memory/run: no answer.")

    with mirror:
        bucket.before = fail
        for epoch in (1, 2):
            with pytest.raises(ClusterError, match=rf"{epoch} failed in all.*All is whole in run_dir={local.folder}"):
                mirror.finish(local.save(epoch))
        assert [line for line in said if "no answer. The next checkpoint" in line] == said and len(said) == 2
        assert "(2 uploads failed so far)" in said[1]
        bucket.before = lambda operation, name: None
        mirror.finish(local.save(3))
    assert without_owner(bucket) == files_of(local.folder) and mirror.failures == 2


def test_a_mistake_of_ours_reaches_the_training_thread(bucket: MemoryBucket, tmp_path: Path) -> None:
    local = Local(tmp_path / "run")
    mirror = mirror_of(local.folder)
    mirror.fetch()
    mirror.take_over(fresh=True)

    def fail(operation: str, name: str) -> None:
        raise AssertionError("a mistake")

    with mirror:
        bucket.before = fail
        for _ in range(2):
            with pytest.raises(AssertionError, match="a mistake"):
                mirror.finish(local.save(1))


def test_who_lost_the_mirror_stops_and_overwrites_nothing(bucket: MemoryBucket, tmp_path: Path) -> None:
    one, other = Local(tmp_path / "one"), Local(tmp_path / "other")
    first, second = mirror_of(one.folder), mirror_of(other.folder)
    first.fetch()
    first.take_over(fresh=True)
    with first:
        first.finish(one.save(1))
        second.fetch()
        assert other.lines() == [1]
        second.take_over(fresh=False)
        before = dict(bucket.objects)
        with pytest.raises(UserError, match="was taken over by a run on .* its state is in"):
            first.finish(one.save(2))
        with pytest.raises(UserError, match="was taken over"):
            first.push(one.save(3))
        assert bucket.objects == before
    with second:
        second.finish(other.save(2))
    assert without_owner(bucket) == files_of(other.folder)


def test_the_newer_state_of_directory_and_mirror_counts(bucket: MemoryBucket, tmp_path: Path) -> None:
    local = Local(tmp_path / "run")
    upload(local, range(1, 3))
    local.save(3)
    ahead = files_of(local.folder)
    mirror = mirror_of(local.folder)
    mirror.fetch()
    assert files_of(local.folder) == ahead and mirror.is_behind((3, 0))
    mirror.take_over(fresh=False)
    with mirror:
        (local.folder / "summary.json").write_text("{}")
        mirror.finish((3, 0))
    assert without_owner(bucket) == files_of(local.folder)

    older = Local(tmp_path / "older")
    older.save(1)
    (older.folder / "PREEMPTED").touch()
    mirror = mirror_of(older.folder)
    mirror.fetch()
    assert files_of(older.folder) == without_owner(bucket) and not mirror.is_behind((3, 0))

    (older.folder / LAST).write_bytes(b"damaged")
    for path in (older.folder / "checkpoints").glob("[be]*.pt"):
        path.unlink()
    mirror_of(older.folder).fetch()
    assert files_of(older.folder) == without_owner(bucket)


def test_another_run_or_something_else_is_refused(bucket: MemoryBucket, tmp_path: Path) -> None:
    upload(Local(tmp_path / "run"), range(1, 3))
    other = Local(tmp_path / "other", "other")
    other.save(1)
    before = files_of(other.folder)
    with pytest.raises(ConfigError, match="run_mirror=ais://memory/run holds another run than run_dir="):
        mirror_of(other.folder).fetch()
    assert files_of(other.folder) == before
    bucket.objects[OWNER] = b'{"whose": 1}'
    with pytest.raises(ClusterError, match="owner.json is not as this trainer writes it"):
        mirror_of(tmp_path / "new").fetch()
    del bucket.objects[OWNER]
    with pytest.raises(ConfigError, match="holds objects, but no mirror of a run"):
        mirror_of(tmp_path / "new").fetch(wanted=False)


def test_a_fetch_that_fails_leaves_the_directory_as_it_was(bucket: MemoryBucket, tmp_path: Path) -> None:
    upload(Local(tmp_path / "run"), range(1, 4))
    count = len(without_owner(bucket))
    older = Local(tmp_path / "older")
    older.save(1)
    before = files_of(older.folder)
    for fails_at in range(1, count + 1):
        left = fails_at

        def fail(operation: str, name: str) -> None:
            nonlocal left
            left -= operation == "read"
            if left == 0:
                raise ClusterError("no answer")

        bucket.before = fail
        with pytest.raises(ClusterError, match="no answer"):
            mirror_of(older.folder).fetch()
        assert files_of(older.folder) == before
    bucket.before = lambda operation, name: None
    mirror_of(older.folder).fetch()
    assert files_of(older.folder) == without_owner(bucket)


def test_no_name_leads_out_of_the_directory(bucket: MemoryBucket, tmp_path: Path) -> None:
    upload(Local(tmp_path / "run"), range(1, 2))
    bucket.objects["checkpoints/../../escaped"] = bucket.objects["elsewhere"] = b"x"
    mirror_of(tmp_path / "new" / "run").fetch()
    assert not (tmp_path / "new" / "escaped").exists() and not list(tmp_path.rglob("elsewhere"))
