"""Progress from afar: what a run directory alone tells of a run."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import status
from sources.lease import LOCK_PREFIX
from tests.conftest import PROJECT, TINY, ForkedTrain, Result, Zygote, make_small_folder
from tests.support.zygote import Request
from training.run_dir.run_record import TAIL_BYTES

Train = Callable[..., Result]
Show = Callable[..., dict[str, dict[str, str]]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_folder(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def finished(zygote: Zygote, small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    train = ForkedTrain(zygote, tmp_path_factory.mktemp("finished") / "cwd")
    result = train(f"data.root={small}", *TINY, "train.log_every=1")
    assert result.code == 0, result.output
    return result.run_dir


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    """A finished run of 2 epochs of 3 steps, in a folder of its own."""
    return Path(shutil.copytree(finished, tmp_path / "runs" / "run"))


def doctored(run: Path, name: str, *without: str, age_s: float = 0.0, lock: bool = False) -> Path:
    """A copy of a run without some files, whose signs of life are ``age_s`` old."""
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    for entry in without:
        (copy / entry).unlink()
    if lock:
        (copy / f"{LOCK_PREFIX}somebody").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    then = time.time() - age_s
    for path in copy.iterdir():
        os.utime(path, (then, then))
    return copy


def write_lines(run: Path, lines: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    def call(*words: object) -> dict[str, dict[str, str]]:
        """Each run's cells by title."""
        capsys.readouterr()
        assert status.main([str(word) for word in words]) == 0
        title, *rows = capsys.readouterr().out.splitlines()
        ends = [title.index(name) + len(name) for name in status._TITLES[2:]]
        shown = {}
        for text in rows:
            cells = dict(zip(status._TITLES, re.split(" {2,}", text), strict=True))
            assert text.index(f" {cells['state']} ") + 1 == title.index("state")
            assert all(text[end - 1] != " " and text[end : end + 2] in ("  ", "") for end in ends), text
            shown[Path(cells["run"]).name] = cells
        return shown

    return call


def test_a_finished_run(done: Path, show: Show) -> None:
    summary = json.loads((done / "summary.json").read_text())
    cells = show(done)["run"]
    assert cells.pop("run") == str(done) and cells.pop("seen").endswith("s")
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train_epoch"][-1]  # validation is faster, and no measure
    assert cells.pop("img/s") == f"{trained['img_per_s']:,.0f}"
    assert cells.pop("data wait") == f"{100 * trained['data_wait']:.0f} %"
    assert cells == {
        "state": "done", "epoch": "2/2", "acc@1": f"{summary['acc1']:.2f}", "restarts": "0", "ETA": "-",
    }  # fmt: skip


def test_a_run_while_it_goes_on_and_when_it_is_killed(zygote: Zygote, small: Path, tmp_path: Path, show: Show) -> None:
    words = [f"data.root={small}", *TINY, "train.epochs=4", "train.log_every=1", "run_dir=run"]
    request = Request(words, str(tmp_path), str(tmp_path / "output"), accident="between steps", number=8)
    request.signal = signal.SIGSTOP
    pid, run = zygote.start(request), tmp_path / "run"
    try:
        end = time.monotonic() + 60
        while len(list(run.glob("metrics.jsonl"))) == 0 or b'"step": 7' not in (run / "metrics.jsonl").read_bytes():
            assert time.monotonic() < end, (tmp_path / "output").read_text()
            time.sleep(0.1)
        cells = show(run)["run"]
        assert (cells["state"], cells["epoch"], cells["restarts"]) == ("running", "2.3/4", "0"), cells
        assert cells["acc@1"] != "-" and cells["ETA"].endswith("s")
    finally:
        os.kill(pid, signal.SIGKILL)
    assert zygote.wait(pid) == -signal.SIGKILL
    for path in run.iterdir():
        os.utime(path, (time.time() - 9010,) * 2)
    cells = show(run)["run"]
    assert (cells["state"], cells["seen"], cells["ETA"]) == ("died", "2h30m", "-")


def test_a_run_that_was_stopped_and_goes_on(fork_train: Train, small: Path, show: Show) -> None:
    words = [f"data.root={small}", *TINY, "train.log_every=1"]
    stopped = fork_train(*words, accident="between steps", number=5, signal=signal.SIGTERM)
    assert stopped.code == 85, stopped.output
    cells = show(stopped.run_dir)["run"]
    assert (cells["state"], cells["epoch"], cells["restarts"], cells["ETA"]) == ("stopped", "1.6/2", "0", "-")
    held = doctored(stopped.run_dir, "held", lock=True)
    assert show(held)["held"]["state"] == "waiting"  # its next attempt reads the list of its data
    assert fork_train(*words).code == 0
    cells = show(stopped.run_dir)["run"]
    assert (cells["state"], cells["epoch"], cells["restarts"]) == ("done", "2/2", "1")


def test_states_by_what_is_there(done: Path, show: Show) -> None:
    unfinished = ["summary.json"]
    new = [*unfinished, "environment.json", "metrics.jsonl", "stream.bin"]
    doctored(done, "lives", *unfinished, age_s=20, lock=True)
    doctored(done, "lock-ahead", *unfinished, age_s=-40, lock=True)
    doctored(done, "silent", *unfinished, age_s=90, lock=True)
    doctored(done, "failed", *unfinished, age_s=90)
    doctored(done, "submitted", *new, age_s=9000)
    doctored(done, "begins", *new, lock=True)
    doctored(done, "never-began", *new, age_s=9010, lock=True)
    long_ago = doctored(done, "long-ago", age_s=200_010)
    only_locked = done.with_name("only-locked")
    only_locked.mkdir()
    (only_locked / f"{LOCK_PREFIX}x").touch()
    shown = show(done.parent)
    assert {name: cells["state"] for name, cells in shown.items()} == {
        "run": "done", "lives": "running", "lock-ahead": "running", "silent": "died", "failed": "died",
        "submitted": "waiting", "begins": "waiting", "never-began": "died", "long-ago": "done", "only-locked": "waiting",
    }  # fmt: skip
    assert list(shown) == sorted(shown)
    assert shown["never-began"]["seen"] == "2h30m" and shown["long-ago"]["seen"] == "2d07h"
    assert shown["submitted"]["epoch"] == "0/2" and shown["submitted"]["img/s"] == "-"
    assert list(show(long_ago, only_locked)) == ["long-ago", "only-locked"]


def imagenet_lines(epochs: float, step_s: float, validation_s: float) -> Iterator[dict[str, Any]]:
    """What a run on ImageNet writes in its first epochs, of 5,004 steps each."""
    now, steps = 1e9, 5004
    for step in range(1, int(epochs * steps) + 1):
        now += step_s
        figures = {"epoch": (step - 1) // steps, "step": step, "loss": 6.9, "acc1": 0.1, "acc5": 0.5, "attempt": 1}
        speed = {"lr": 0.1, "img_per_s": 256 / step_s, "data_wait": 0.034}
        if step % steps == 0 or step % 50 == 0:
            yield {"kind": "train_step", **figures, **speed, "time": now}
        if step % steps == 0:
            yield {"kind": "train_epoch", **figures, **speed, "time": now}
            now += validation_s
            yield {"kind": "val_epoch", **figures, "acc1": 70.123, "time": now}


def test_the_time_left_follows_the_recent_pace(done: Path, show: Show) -> None:
    run = doctored(done, "imagenet", "summary.json", lock=True)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        text.replace("  epochs: 2\n", "  epochs: 90\n").replace("batch_size: 12\n", "batch_size: 256\n")
    )
    environment = json.loads((run / "environment.json").read_text())
    environment["data"]["train"]["samples"] = 1281167
    (run / "environment.json").write_text(json.dumps(environment))

    lines = list(imagenet_lines(60.5, step_s=0.25, validation_s=60))
    write_lines(run, lines)
    cells = show(run)["imagenet"]
    assert (cells["epoch"], cells["acc@1"], cells["img/s"], cells["data wait"]) == ("60.4/90", "70.12", "1,024", "3 %")
    left_s = (90 * 5004 - lines[-1]["step"]) * (0.25 + 60 / 5004)
    assert cells["ETA"] == "10h44m" and abs(left_s - (10 * 3600 + 44 * 60)) < 60

    # Gone on twice as fast a day later: neither the pause nor the former pace counts.
    step, then = lines[-1]["step"], lines[-1]["time"] + 86400
    again = [lines[-1] | {"step": step + 50 * n, "time": then + 6.25 * n, "attempt": 2} for n in range(1, 5)]
    write_lines(run, [*lines, *again])
    cells = show(run)["imagenet"]
    assert (cells["restarts"], cells["epoch"]) == ("1", "60.5/90")
    assert cells["ETA"] == status.format_duration((90 * 5004 - step - 200) * 0.125) == "5h07m"
    write_lines(run, [*lines, again[0] | {"img_per_s": 256 / 0.1}])  # one line alone: what it says of itself
    assert show(run)["imagenet"]["ETA"] == status.format_duration((90 * 5004 - step - 50) * 0.1)
    write_lines(run, [*lines, again[0], again[1] | {"time": 0}])  # a clock that was set back
    assert show(run)["imagenet"]["ETA"] == status.format_duration((90 * 5004 - step - 100) * 0.25)


def test_half_written_and_long_files_are_read(done: Path, show: Show) -> None:
    expected = show(done)["run"]
    with open(done / "metrics.jsonl", "ab") as file:
        file.write(b'\x00\x00\xff\n[1]\n{"kind": "train_step"}\n{"kind": "train_step", "epoch": 1, "ste')
    (done / "environment.json").write_text('{"versions": ')
    cells = show(done)["run"]
    assert {name: cells[name] for name in ("state", "acc@1", "img/s")} == {
        name: expected[name] for name in ("state", "acc@1", "img/s")
    }

    first = {"kind": "val_epoch", "epoch": 0, "step": 3, "acc1": 1.0, "attempt": 1, "time": 1.0}
    lines = [first | {"kind": "train_step", "step": 4, "img_per_s": 7.0, "padding": "x" * 5000}] * 2000
    last = first | {"kind": "val_epoch", "epoch": 1, "step": 6, "acc1": 55.5}
    long = doctored(done, "long", "summary.json", lock=True)
    write_lines(long, [first, *lines, last])
    assert (long / "metrics.jsonl").stat().st_size > TAIL_BYTES
    cells = show(long)["long"]
    assert (cells["acc@1"], cells["img/s"]) == ("55.50", "7")


def test_an_evaluation(fork_train: Train, done: Path, small: Path, show: Show) -> None:
    weights = f"model.weights={done}/checkpoints/last.pt"
    result = fork_train(f"data.root={small}", *TINY, "mode=evaluate", weights, "run_dir=evaluated")
    assert result.code == 0, result.output
    cells = show(result.run_dir)["evaluated"]
    assert (cells["state"], cells["epoch"], cells["acc@1"]) == ("done", "-", f"{result.summary()['acc1']:.2f}")
    assert cells["img/s"].replace(",", "").isdigit()


def test_what_is_no_run_is_said(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos" / "of").mkdir(parents=True)
    for path in (tmp_path / "photos", tmp_path / "nowhere", done / "config.yaml"):
        assert status.main([str(done), str(path)]) == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.startswith(f"error: {path} is not the directory of a run")


def test_watching_shows_runs_that_come_later(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            raise KeyboardInterrupt
        shutil.copytree(done, done.with_name("later"))

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert status.main([str(done.parent), "--watch"]) == 0
    first, second = (table.splitlines() for table in capsys.readouterr().out.split("\n\n"))
    assert len(first) == 2 and len(second) == 3 and "later" in second[1] and waits == [status.WATCH_S] * 2


def test_a_narrow_terminal_shortens_the_name_alone() -> None:
    cells = ["runs/resnet50-2026-11-23", "running", "12.3/90", "70.12", "12,345", "12 %", "0", "3s", "10h44m"]
    wide = status.table([cells]).splitlines()
    assert wide[1].startswith("runs/resnet50-2026-11-23  running  12.3/90")
    narrow = status.table([cells], 80).splitlines()
    assert len(narrow[1]) == 80 and narrow[1].startswith("…") and narrow[1].endswith(wide[1][24:])
    assert status.table([cells], 200) == "\n".join(wide)


def test_it_starts_without_torch(done: Path) -> None:
    code = "import sys, scripts.status as s; s.main(sys.argv[1:]); sys.exit('torch' in sys.modules or 'hydra' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code, str(done)], cwd=PROJECT, capture_output=True, text=True)
    assert process.returncode == 0 and "done" in process.stdout, process.stderr
