"""What benchmarks print, keep and draw; a peer that fails is named, with the reason."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from benchmarks import growth, measure, results
from benchmarks.__main__ import BENCHMARKS
from benchmarks.environment import package_of, reason, requirement_lines
from benchmarks.report import page
from benchmarks.results import Row, Table
from tests.conftest import PROJECT

TABLE = Table(
    "cpu", "Samples", "ms", [Row("peer", [4.0, 6.0, 5.0]), Row("ours", [2.0]), Row("gone", failed="it is")], "peer"
)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    words = ["--repeats", "3", "--json", str(tmp_path / "new" / "decode.json")]
    monkeypatch.setattr(sys, "argv", [str(PROJECT / "benchmarks" / "decode.py"), *words])
    parser = results.parser("doc")
    parser.add_argument("--repeats", type=int)
    return parser.parse_args()


def test_file(options: argparse.Namespace) -> None:
    result = results.begin(options)
    result.add(TABLE)
    result.add(Table("b", "B", "images/s", [Row("a", [1.0], "noted", series="s", x=3)], better="more"))
    kept = json.loads(options.json.read_text())
    assert set(kept) == {"benchmark", "command", "date", "machine", "versions", "tables"}
    assert (kept["benchmark"], kept["command"]) == ("decode", "python -m benchmarks.decode --repeats 3")
    assert kept["machine"]["cores"] >= 1 and kept["machine"]["cpu"]
    assert kept["versions"].keys() >= {"Python", "torch", "numpy"}
    first, second = kept["tables"]
    assert (first["unit"], first["baseline"], first["better"]) == ("ms", "peer", "less")
    assert first["rows"][0] == {
        "name": "peer", "values": [4, 6, 5], "median": 5, "times_better": 1, "note": "", "failed": "", "series": "",
        "x": None,
    }  # fmt: skip
    assert first["rows"][1]["times_better"] == 2.5
    assert first["rows"][2]["values"] == [] and first["rows"][2]["median"] is None
    assert first["rows"][2]["failed"] == "it is"
    assert second["rows"][0] | {"x": 3, "series": "s", "note": "noted", "times_better": None} == second["rows"][0]


def test_a_way_alone_has_the_options_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = results.parser("doc", workers=2, seconds=0.5, model="resnet18", eager=False, memory=False)
    monkeypatch.setattr(sys, "argv", ["benchmarks/loader.py"])
    options = parser.parse_args(["--workers", "0", "--eager", "--json", "file"])
    words = results.alone(options, "/photos", 8080)("a way")
    options_alone = ("--workers=0", "--seconds=0.5", "--model=resnet18", "--eager")
    assert words == ("benchmarks.loader", *options_alone, "--one", "a way", "/photos", "8080")
    again = vars(parser.parse_args(list(words[1:])))
    assert again == vars(options) | {"json": None, "one": ["a way", "/photos", "8080"]}


def test_growth_asks_the_loader() -> None:
    assert growth.words(growth.OURS, "batch", 512, 1000) == (
        "--workers=2", "--batch=512", "--size=224", "--names=1000", "--images=2048", "--repeats=1", "--one", growth.OURS,
    )  # fmt: skip


def test_console() -> None:
    lines = str(TABLE).splitlines()
    assert lines[1] == "Samples (ms; less is better)"
    assert [word in lines[3] for word in ("peer", "(4–6)", "1.00")] == [True] * 3
    assert "2.50" in lines[4]
    assert lines[5].split(None, 1) == ["gone", "not measured: it is"]


def test_more_is_better() -> None:
    table = Table("a", "a", "images/s", [Row("peer", [50.0]), Row("ours", [150.0])], "peer", "more")
    assert table.times_better(table.rows[1]) == 3


def test_a_baseline_that_failed() -> None:
    table = Table("a", "a", "ms", [Row("peer", failed="gone"), Row("ours", [1.0])], "peer")
    assert table.times_better(table.rows[1]) is None
    assert "not measured: gone" in str(table)


def test_a_peer_may_fail_and_is_named() -> None:
    def command(kind: str) -> tuple[str, str]:
        return "tests.support.measured", kind

    made = measure.compare(["ours", "peer"], 2, command, {"peer": "ffcv"})
    assert [(row.name, row.values) for row in made["ms"]] == [("ours", (1.0, 2.0)), ("peer", ())]
    assert made["ms"][1].failed == "ModuleNotFoundError: No module named 'ffcv'"
    with pytest.raises(measure.NotMeasuredError):
        measure.compare(["ours", "peer"], 1, command, {})


def test_what_is_not_measured_stands_still_and_ends() -> None:
    def states(*pids: int) -> set[str]:
        found = (Path(f"/proc/{pid}/stat") for pid in pids)
        return {path.read_text().rpartition(")")[2].split()[0] for path in found if path.exists()}

    session = measure.Session("tests.support.measured", "ours")
    try:
        first = session.measure()
        pids = session.pid, int(first["worker"])
        _wait_until(lambda: states(*pids) == {"T"})
        assert session.measure()["ms"] == 2
        _wait_until(lambda: states(*pids) == {"T"})
    finally:
        session.close()
    _wait_until(lambda: states(*pids) <= {"Z"})


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ready_batches_are_not_measured() -> None:
    def batches() -> Iterator[int]:
        for number in count():
            time.sleep(0 if number < 4 else 0.05)
            yield number

    found = measure.cpu_and_wall(batches(), count=4, batch_size=10, ready=4)
    assert next(found)["wall_ms"] >= 5
    assert next(found)["wall_ms"] >= 5


def test_why_is_the_installations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "not-installed.json"
    kept.write_text(json.dumps({"ffcv": "RuntimeError: no opencv"}))
    monkeypatch.setattr(results, "NOT_INSTALLED", kept)
    error = ImportError("No module named 'ffcv'\nand more")
    assert results.why(error, "ffcv") == "not installed: RuntimeError: no opencv"
    assert results.why(error, "spdl") == "ImportError: No module named 'ffcv'"


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(measure.NotMeasuredError, match="No module named benchmarks.nothing"):
        measure.in_own_session("benchmarks.nothing")


def test_reasons_of_pip() -> None:
    build = "  error: subprocess-exited-with-error\n      RuntimeError: Could not find opencv.\nerror: metadata"
    assert reason(build) == "RuntimeError: Could not find opencv."
    assert reason("warning\nERROR: No matching distribution\nhint") == "ERROR: No matching distribution"


def test_requirements_are_pinned() -> None:
    lines = requirement_lines((PROJECT / "benchmarks" / "requirements.txt").read_text())
    packages = [word for words in lines for word in words if not word.startswith("-")]
    assert all("==" in package for package in packages)
    assert {"simplejpeg", "torchcodec", "nvidia-dali-cuda120", "ffcv", "spdl", "mosaicml-streaming"} <= set(
        map(package_of, packages)
    )


def test_every_benchmark_exists() -> None:
    for benchmark in BENCHMARKS:
        assert (PROJECT / "benchmarks" / f"{benchmark.name}.py").exists()


def test_page() -> None:
    head = {"benchmark": "decode", "machine": {"cpu": "a CPU", "cores": 2, "system": "Linux"}, "date": "2026-01-01"}
    head |= {"command": "python -m benchmarks.decode", "versions": {"torch": "1"}}
    text = page([head | {"tables": [TABLE.as_dict()]}])
    assert "| ours | 2 (2–2) | 2.50 |  |" in text
    assert "| gone | not measured | | it is |" in text


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the benchmarks' environment")
    from benchmarks.plots import draw

    head = {"machine": {"cpu": "a CPU", "cores": 2}, "date": "2026-01-01", "command": "python -m benchmarks.x"}
    line = Table("l", "L", "MB", [Row(f"{x}", [1.0 * x], series=who, x=x) for who in "ab" for x in (1, 10)])
    for name, tables in (("bars", [TABLE, TABLE]), ("lines", [line, line, line])):
        draw(head | {"tables": [table.as_dict() for table in tables]}, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
