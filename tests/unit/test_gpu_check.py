"""`make gpu-check`: a part that fails or hangs costs the others nothing, and all of it runs on a CPU."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from benchmarks.gpu import __main__ as gpu_check
from benchmarks.gpu import decoders, speeds
from benchmarks.gpu.__main__ import chosen, parts_of
from benchmarks.gpu.parts import Line, Outcome, Part, Settings, ended_tests, lines_of, row_of, run_part, tables_of
from benchmarks.gpu.photos import make
from benchmarks.gpu.report import Report
from benchmarks.receive import NAMES, ready_samples, static_server
from benchmarks.results import Row, Table
from benchmarks.static_server import SAMPLES, sample
from tests.conftest import PROJECT
from training.engine import numerics as numerics_of_runs
from training.report.limits import LIMITS

SETTINGS = Settings("/photos", "photos", ("http://a", "http://b"), 256, 20, 4, "auto", "bf16")
PART = "tests.support.part"


def ends(part: Part, folder: Path, seconds: float = 600) -> tuple[Outcome, list[Line]]:
    return run_part(part, SETTINGS, time.monotonic() + seconds, folder)


def test_what_a_part_answered_is_kept_when_it_fails(tmp_path: Path) -> None:
    outcome, lines = ends(Part("well", (PART, "ends"), 0, 600), tmp_path)
    assert (outcome.state, outcome.why, lines) == ("done", "", [{"begun": "a"}])
    outcome, lines = ends(Part("Not, well/at all", (PART, "raises"), 0, 600), tmp_path)
    assert (outcome.state, lines) == ("failed", [{"begun": "a"}])
    assert outcome.why == f"ValueError: it cannot be ({tmp_path}/not-well-at-all.log)"
    assert "printed" in (tmp_path / "not-well-at-all.log").read_text()


def test_a_part_that_hangs_is_ended_with_its_processes(tmp_path: Path) -> None:
    """Nothing is said of what it had answered by then, which depends on how busy the machine is."""
    outcome, _ = ends(Part("hangs", (PART, "hangs"), 0, 0.5), tmp_path)
    assert outcome.state == "failed" and outcome.why.startswith("it had not ended after ")
    for pid in map(int, (tmp_path / "hangs.log").read_text().split()):
        stat = Path(f"/proc/{pid}/stat")
        assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
    outcome, _ = ends(Part("hangs", (PART, "hangs"), 0, 600), tmp_path, 0.5)
    assert (outcome.state, outcome.why) == ("cut short", "the time for all parts was over")


def test_a_part_without_time_is_left_out(tmp_path: Path) -> None:
    outcome, lines = ends(Part("late", (PART, "raises"), 20, 600), tmp_path, 10.5)
    assert (outcome.state, outcome.why, lines) == ("left out", "10 s were left, and it takes 20 s or more", [])
    assert list(tmp_path.iterdir()) == []


def test_a_line_half_written_and_a_test_that_hung() -> None:
    lines = lines_of('{"begun": "a"}\n{"test": "a", "outcome": "passed"}\n{"begun": "b"}\n{"test": "b", "outc')
    assert len(lines) == 3
    assert [
        (line["test"], line["outcome"], line.get("why"))
        for line in ended_tests(lines, Outcome("tests", "failed", "over"))
    ] == [
        ("a", "passed", None),
        ("b", "failed", "over"),
    ]
    assert ended_tests(lines, Outcome("tests", "cut short", "over"))[1]["outcome"] == "cut short"


def table(name: str, row: Row) -> Table:
    return Table(name, "Speed", "images/s", [row], "a", "more")


def test_rows_of_several_parts_become_one_table() -> None:
    rows = [Row("a", [1.0, 3.0]), Row("b", [], failed="gone"), Row("c", [8.0], "noted")]
    lines = [
        row_of(table("x", rows[0])),
        row_of(table("y", rows[0])),
        {"begun": "t"},
        *(row_of(table("x", row)) for row in rows[1:]),
    ]
    first, second = tables_of(json.loads(json.dumps(lines)))
    assert list(first.rows) == rows and [row.name for row in second.rows] == ["a"]
    assert first.times_better(first.rows[2]) == 4


def test_the_report_names_what_failed_and_what_did_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(tmp_path, "a GPU", "python -m benchmarks.gpu")
    tests = [{"test": name, "outcome": name, "why": "", "seconds": 1.0} for name in ("passed", "skipped")]
    report.add(Outcome("tests", "done"), tests)
    report.add(Outcome("resnet50", "done", seconds=9), [row_of(table("x", Row("a", [2.0])))])
    report.add(Outcome("DALI", "left out", "2 s were left"), [])
    assert report.end(7) == 0
    assert "did not fit into 7 minutes: DALI" in capsys.readouterr().out
    report.add(Outcome("vit", "failed", "ValueError: no"), [{"begun": "hung"}])
    assert report.end(7) == 1
    printed = capsys.readouterr().out
    assert "vit: failed, ValueError: no" in printed and "failed: vit; hung" in printed
    assert "tests: 1 passed, 1 failed, 1 skipped" in printed
    kept = json.loads((tmp_path / "gpu-check.json").read_text())
    assert [part["state"] for part in kept["parts"]] == ["done", "done", "left out", "failed"]
    assert kept["device"] == "a GPU" and kept["tables"][0]["rows"][0]["median"] == 2
    assert [test["outcome"] for test in kept["tests"]] == ["passed", "skipped", "failed"]
    assert "failed: vit; hung" in (tmp_path / "gpu-check.txt").read_text()


def test_a_check_that_found_nothing_has_failed(tmp_path: Path) -> None:
    report = Report(tmp_path, "a GPU", "python -m benchmarks.gpu")
    report.add(Outcome("tests", "left out", "1 s was left"), [])
    assert report.end(0.1) == 1


def test_a_test_that_failed_fails_the_check_though_its_part_is_done(tmp_path: Path) -> None:
    report = Report(tmp_path, "a GPU", "python -m benchmarks.gpu")
    report.add(Outcome("tests", "done"), [{"test": "t", "outcome": "failed", "why": "", "seconds": 1.0}])
    assert report.end(7) == 1


def test_the_parts_and_which_are_chosen() -> None:
    parts = parts_of(quick=False)
    assert [part.name for part in parts] == [
        *("tests", "resnet50, eager", "resnet50, compiled"),
        *("timm/vit_small_patch16_224, eager", "timm/vit_small_patch16_224, compiled", "our loader", "nvJPEG", "DALI"),
    ]
    assert Settings.of(str(SETTINGS)) == SETTINGS
    assert [part.name for part in chosen(parts, ["DALI", "resnet50"])] == [
        "resnet50, eager",
        "resnet50, compiled",
        "DALI",
    ]
    assert chosen(parts, []) == parts
    with pytest.raises(ValueError, match="there is no resnet18, but 'tests', 'resnet50, eager'"):
        chosen(parts, ["resnet18"])


def test_turns_warm_up_and_fill_their_time() -> None:
    turns = ((float(number), 0.5) for number in itertools.count())
    assert speeds.sampled(turns, 2, 8.0) == [(2.0, 0.5), (3.0, 0.5), (4.0, 0.5)]
    assert speeds.sampled(iter([(9.0, 0.0), (1.0, 0.0)]), 1, 0) == [(1.0, 0.0)]


TESTS = """
import pytest

def test_passes(): pass

def test_fails(): assert 1 == 2, "one is not two"

@pytest.mark.skip(reason="no time")
def test_skipped(): pass

@pytest.fixture
def broken(): raise OSError("no disk")

def test_without(broken): pass
"""


def test_each_test_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name")
    words = ["--rootdir", str(tmp_path), "--continue-on-collection-errors", str(tmp_path)]
    code = f"import sys; from benchmarks.gpu import checks; sys.exit(checks.main(checks.answering(), *{words}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    lines = lines_of(done.stdout)
    found = [(line["test"].rpartition(":")[2], line["outcome"], line["why"]) for line in lines if "test" in line]
    assert found == [
        ("test_broken.py", "failed", found[0][2]),
        ("test_passes", "passed", ""),
        ("test_fails", "failed", "AssertionError: one is not two"),
        ("test_skipped", "skipped", "no time"),
        ("test_without", "failed", "OSError: no disk"),
    ]
    assert done.returncode == 1 and [line["begun"].rpartition(":")[2] for line in lines if "begun" in line] == [
        name for name, *_ in found[1:]
    ]


def test_ready_samples_come_from_several_servers() -> None:
    with static_server() as first, static_server() as second:
        endpoints = [f"http://127.0.0.1:{ports[0]}" for ports in (first, second)]
        source = ready_samples(*endpoints)
        batch = source.__getitems__([(0, index) for index in range(0, NAMES, NAMES // 16)])
        places = source.remote.placement.numbers_of([f"ais/@#/bench/{number:06}.jpg" for number in range(64)])
    assert set(places) == {0, 1}
    for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
        assert image.numpy().tobytes() == sample(index % SAMPLES)
    assert batch.counts.etl == 16


@pytest.fixture
def numerics() -> Iterator[None]:
    """Gives back what a part sets for its process."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


@pytest.mark.usefixtures("numerics", "one_thread")
@pytest.mark.parametrize("mode", [pytest.param("eager", marks=pytest.mark.long), "compiled"])
def test_a_model_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Compiled it is traced alone, by the first loop for all of them: what it traces is run as it is."""
    graphs: list[Any] = []

    def traced(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=traced))
    monkeypatch.setattr(numerics_of_runs, "check_compiler", lambda device: None)
    make(tmp_path, 4)
    lines: list[Line] = []
    with static_server() as ports:
        settings = Settings(str(tmp_path), "4 photos", (f"http://127.0.0.1:{ports[0]}",), 2, 1, 0, 1, "fp32")
        assert speeds.main(lines.append, "squeezenet1_1", mode, str(settings)) == 0
    assert len(graphs) == (mode == "compiled")
    speed, wait = tables_of(lines)
    assert speed.title == "Training squeezenet1_1 at 224 pixels, batch 2, fp32, channels_last, CPU; 4 photos"
    kinds = [f"{kind}, {mode}" for kind in speeds.KINDS]
    assert [row.name for row in speed.rows] == kinds and all(row.values[0] > 0 for row in speed.rows)
    assert [row.name for row in wait.rows] == kinds[1:]
    assert all(0 <= row.values[0] < 100 and row.note.startswith("limited by ") for row in wait.rows)


@pytest.mark.usefixtures("numerics", "one_thread")
def test_a_loop_that_fails_is_named_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_some(kind: str, *_: Any) -> tuple[list[speeds.Turn], str]:
        if kind == speeds.JPEGS:
            raise RuntimeError("there are none")
        return [(2.0, 1.0 if kind == speeds.INDEXED else 0.01)], "cpus" if kind == speeds.INDEXED else "model"

    monkeypatch.setattr(speeds, "measure", without_some)
    lines: list[Line] = []
    assert speeds.main(lines.append, "shufflenet_v2_x0_5", "eager", str(replace(SETTINGS, precision="fp32"))) == 1
    speed, wait = tables_of(lines)
    assert [row.failed for row in speed.rows] == ["", "", "", "RuntimeError: there are none", ""]
    assert [list(row.values) for row in speed.rows] == [[2560.0]] * 3 + [[]] + [[2560.0]]
    assert [row.values[0] for row in wait.rows] == [0.5, 0.5, 50]
    assert [row.note for row in wait.rows][1:] == [
        "limited by the model",
        f"limited by data: {LIMITS['cpus']}",
    ]


@pytest.mark.usefixtures("one_thread")
def test_decoders_on_a_cpu(tmp_path: Path) -> None:
    make(tmp_path, 4)
    settings = Settings(str(tmp_path), "4 photos", (), 2, 1, 0, 1, "fp32")
    rows = [*decoders.loader(settings, torch.device("cpu")), *decoders.nvjpeg(settings, torch.device("cpu"))]
    assert [row.name for row in rows] == [
        *("imagenet-ais", "imagenet-ais, index"),
        *("torchvision, CPU, decoded alone", "torchvision, CPU, and v2's crop"),
    ]
    assert all(row.values[0] > 0 for row in rows)
    (dali,) = decoders.dali(settings, torch.device("cpu"))
    assert dali.values or dali.failed.startswith("not installed: ")


@pytest.mark.usefixtures("one_thread")
def test_a_photo_that_a_peer_refuses_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nvJPEG refuses some colours, and with one photo the whole list."""
    make(tmp_path, 4)
    refused, decode = (tmp_path / "train" / "class2" / "2.jpg").stat().st_size, torchvision.io.decode_jpeg

    def picky(tensors: list[torch.Tensor], *words: Any, **named: Any) -> Any:
        if refused in map(len, tensors):
            raise RuntimeError("other colours")
        return decode(tensors, *words, **named)

    monkeypatch.setattr(torchvision.io, "decode_jpeg", picky)
    settings = Settings(str(tmp_path), "4 photos", (), 2, 1, 0, 1, "fp32")
    for row in decoders.nvjpeg(settings, torch.device("cpu")):
        assert row.values[0] > 0 and row.note == "one process, lists of 64; 1 of 4 photos refused"
    monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda *words, **named: picky([range(refused)]))  # type: ignore[list-item]
    (row,) = decoders.nvjpeg(settings, torch.device("cpu"))
    assert row.failed == "not installed: RuntimeError: other colours"


@pytest.mark.long
def test_all_of_it_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--quick", "--out", str(tmp_path), "--minutes", "20"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads((tmp_path / "gpu-check.json").read_text())
    assert {part["state"] for part in kept["parts"]} == {"done"}
    assert {test["outcome"] for test in kept["tests"]} == {"passed", "skipped"}
    (rows,) = [found["rows"] for found in kept["tables"] if found["name"] == "decoders"]
    assert [row["name"] for row in rows] == [
        *("imagenet-ais", "imagenet-ais, index"),
        *("torchvision, CPU, decoded alone", "torchvision, CPU, and v2's crop", "DALI, CPU"),
    ]
    assert all(row["median"] or row["failed"].startswith("not installed: ") for row in rows)


def test_without_a_gpu_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_check, "device_name", lambda: "")
    assert refused() == 2
    assert "torch sees no GPU here: python -m benchmarks.gpu --quick" in capsys.readouterr().err


def refused(*words: str) -> Any:
    """The exit code for a command line that measures nothing."""
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(words)
    return ended.value.code


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--minutes", "0"], "--minutes=0: give a positive number"),
        (["--minutes", "nan"], "--minutes=nan: give a positive number"),
        (["--batch", "1001"], "--batch=1001: give a number from 1 to 1000, which is how many photos there are"),
        (["--out", "{file}/below"], "--out={file}/below cannot be written to: Not a directory"),
        (["--parts", "vit"], "--parts: there is no vit, but 'tests'"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], sentence: str
) -> None:
    monkeypatch.setattr(gpu_check, "device_name", lambda: "a GPU")
    (tmp_path / "file").write_text("")
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    file = str(tmp_path / "file")
    assert refused(*(word.format(file=file) for word in words), *out) == 2
    assert sentence.format(file=file) in capsys.readouterr().err


def test_photos_that_cannot_be_read_are_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu_check, "device_name", lambda: "a GPU")
    monkeypatch.setenv("IMAGENET_TRAINER_DATA", str(tmp_path))
    (tmp_path / "imagenet-sample.tar").write_text("no tar")
    assert refused("--out", str(tmp_path / "out")) == 2
    assert f"the photos of IMAGENET_TRAINER_DATA={tmp_path} cannot be read" in capsys.readouterr().err
