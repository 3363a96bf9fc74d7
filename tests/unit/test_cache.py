"""The local cache: whole contents or none, for several processes, and a warning where it cannot be had."""

import multiprocessing
from pathlib import Path

import pytest

from sources.disk import cache_file, read_cached, write_cached


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "imagenet-ais"


def test_contents_by_key(folder: Path) -> None:
    assert read_cached("a") is None
    write_cached("a", b"1")
    write_cached("b", b"2")
    write_cached("a", b"3")
    assert (read_cached("a"), read_cached("b")) == (b"3", b"2")
    assert sorted(path.name for path in folder.iterdir()) == sorted(cache_file(key).name for key in "ab")


def test_the_default_is_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_cached("a", b"1")
    assert cache_file("a").parent == tmp_path / "home" / ".cache" / "imagenet-ais"
    assert read_cached("a") == b"1"


@pytest.mark.parametrize("blocked", ["cache", "cache/imagenet-ais"])
def test_where_nothing_can_be_written_a_warning_names_it(tmp_path: Path, folder: Path, blocked: str) -> None:
    path = tmp_path / blocked
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file, where a folder should be")
    with pytest.warns(UserWarning, match=str(path)):
        write_cached("a", b"1")
    assert read_cached("a") is None


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it answers then
    with pytest.warns(UserWarning, match="~/.cache/imagenet-ais cannot be written to"):
        write_cached("a", b"1")
    assert read_cached("a") is None


def test_a_write_that_fails_leaves_nothing(folder: Path) -> None:
    cache_file("a").mkdir(parents=True)
    with pytest.warns(UserWarning, match=str(cache_file("a"))):
        write_cached("a", b"1")
    assert [path.name for path in folder.iterdir()] == [cache_file("a").name]


def write_often(letter: str) -> None:
    for _ in range(200):
        write_cached("shared", letter.encode() * 100_000)


def test_several_processes_at_once(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_often, args=(letter,)) for letter in "xy"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(read_cached("shared"))
    assert seen <= {None, b"x" * 100_000, b"y" * 100_000} and len(seen) > 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [path.name for path in folder.iterdir()] == [cache_file("shared").name]
