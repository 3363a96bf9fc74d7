"""The progress of a long task: when it is shown, and what it says."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sources import folder, progress_bar, walk
from sources.progress_bar import Progress


class Clock:
    """Time that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 50.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=clock.monotonic))
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    return clock


def work(clock: Clock, seconds: int, total: int | None = None, size: int = 0) -> None:
    """100 items a second, in steps of a quarter."""
    with Progress("things", total) as shown:
        for _ in range(4 * seconds):
            clock.now += 0.25
            shown.add(25, size)


def test_a_short_task_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("things", 5) as shown:
        clock.now += 0.9
        shown.add(5)
    assert capsys.readouterr() == ("", "")


def test_lines_where_there_is_no_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(clock, 150, 15_000, 1_250_000)
    assert capsys.readouterr() == (
        "",
        "1,000 of 15,000 things, 50.0 MB, 100/s, ETA 2m20s\n"
        "7,000 of 15,000 things, 350.0 MB, 100/s, ETA 1m20s\n"
        "13,000 of 15,000 things, 650.0 MB, 100/s, ETA 20s\n"
        "15,000 of 15,000 things, 750.0 MB, 100/s\n",
    )
    work(clock, 5)
    assert capsys.readouterr().err == "500 things, 100/s\n"


def test_items_that_are_found_one_by_one(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def found() -> Iterator[int]:
        for number in range(250):
            clock.now += 0.5
            yield number

    with Progress("things found") as shown:
        assert list(shown.over(found())) == list(range(250))
    assert capsys.readouterr().err == "100 things found, 2/s\n250 things found, 2/s\n"


def test_a_folder_that_takes_long_to_read_says_how_far_it_is(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ant", "bee"):
        for number in range(60):
            path = tmp_path / name / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"photo")
    look = walk.images_below

    def slowly(*where: Any) -> Iterator[tuple[bytes, int]]:
        for photo in look(*where):
            clock.now += 1.0
            yield photo

    monkeypatch.setattr(folder, "images_below", slowly)
    assert len(folder.manifest_of(tmp_path, ["ant", "bee"], ["ant", "bee"], print)) == 120
    assert capsys.readouterr().err.splitlines() == [
        f"60 photos of {tmp_path} found, 1/s",
        f"120 photos of {tmp_path} found, 1/s",
    ]


@pytest.mark.parametrize("rank", ["RANK", "SLURM_PROCID"])
def test_rank_0_alone_prints(
    rank: str, clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value, prints in (("0", True), ("1", False)):
        monkeypatch.setenv(rank, value)
        work(clock, 5)
        assert (capsys.readouterr().err != "") == prints


def test_a_line_that_is_replaced_on_a_terminal(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    work(clock, 3)
    shown = capsys.readouterr().err
    assert shown.startswith("\r\x1b[K100 things, 100/s\r\x1b[K1")
    assert shown.endswith("\r\x1b[K300 things, 100/s\n") and shown.count("\n") == 1
    assert 4 <= shown.count("\r") <= 6
    work(clock, 3, 300)
    bar = capsys.readouterr().err
    assert "\r\x1b[K[========                ]  33 %  100 of 300 things, 100/s, ETA 2s" in bar
    assert bar.endswith("\r\x1b[K[========================] 100 %  300 of 300 things, 100/s\n")


def test_an_error_leaves_the_line_whole(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError), Progress("things", 9) as shown:
        clock.now += 2
        shown.add(3)
        raise OSError
    assert capsys.readouterr().err == "3 of 9 things, 2/s, ETA 4s\n"


def test_of_several_processes_the_first_alone_speaks(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    work(clock, 12)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("RANK", "0")
    work(clock, 12)
    assert len(capsys.readouterr().err.splitlines()) == 2
