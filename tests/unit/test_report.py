"""The page of a run: what it says of runs of any kind, that it opens offline, and that it stays small."""

import dataclasses
import html.parser
import itertools
import json
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts import report
from tests.conftest import TINY, Result, write_image
from tests.unit.test_command_line import composed
from training.config.options import flatten
from training.report.page import history, recipe
from training.report.page.curves import MOST_POINTS, charts, thin
from training.report.page.plots import HOW_TO_INSTALL, has_bokeh
from training.report.page.recipe import CONF, named_in, read_recipe
from training.report.page.run_page import page
from training.run_dir.run_record import RunRecord

NAMES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def write_run(folder: Path, lines: list[dict[str, Any]] | None = None, **changed: Any) -> Path:
    """A run directory of 2 epochs of 4 steps of 8 images; without a summary it is a run that died."""
    folder.mkdir(parents=True)
    config = {"mode": "train", "train": {"epochs": 2, "batch_size": 8}, **changed.get("config", {})}
    (folder / "config.yaml").write_text(f"# imagenet-ais: python train.py AGAIN\n{json.dumps(config)}")
    environment = {"data": {"train": {"samples": 32}}, "command": ["train.py"], "attempt": 1}
    (folder / "environment.json").write_text(json.dumps(environment | changed.get("environment", {})))
    if lines is not None:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if summary := changed.get("summary"):
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def step(number: int, attempt: int = 1, **figures: float) -> dict[str, Any]:
    known = {"loss": 1 / number, "acc1": 50.0, "lr": 0.1, "grad_norm": 2.0, "img_per_s": 80.0, "data_wait": 0.01}
    place = {"kind": "train_step", "epoch": (number - 1) // 4, "step": number}
    return place | known | figures | {"attempt": attempt, "time": 1000.0 + number}


def end(kind: str, epoch: int, **figures: float) -> dict[str, Any]:
    place = {"kind": kind, "epoch": epoch, "step": 4 * epoch + 4, "loss": 0.5, "acc1": 60.0, "acc5": 90.0}
    return place | {"data_wait": 0.01, "attempt": 1, "time": 1010.0 + epoch} | figures


WHOLE = [*map(step, (1, 2, 3, 4)), end("train_epoch", 0), end("val_epoch", 0, acc1=61.5)]


class Read(html.parser.HTMLParser):
    """What a page holds: its elements, by their names, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.unlabelled: list[dict[str, str | None]] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag in ("input", "select") and "label" not in self._open:
            self.unlabelled.append(dict(attributes))
        if tag not in ("meta", "input", "img", "path", "br", "link"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag != "p" or self._open[-1:] == ["p"]:
            assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self._open[-1:] not in (["script"], ["style"]):
            self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check_rules(content: str) -> Read:
    """What a screen reader and a browser without a network need of any page."""
    read = Read(content)
    assert read._open == [] and content.startswith("<!doctype html>")
    assert read.all("html")[0]["lang"] == "en" and len(read.all("h1")) == len(read.all("main")) == 1
    assert len(read.all("title")) == 1 and read.unlabelled == []
    assert all(image["alt"] and (image["src"] or "").startswith("data:") for image in read.all("img"))
    assert all(cell["scope"] == "col" for cell in read.all("th"))
    assert all(table["aria-label"] for table in read.all("table"))
    named = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(named) == len(set(named))
    assert not any({"src", "href"} & attributes.keys() for tag, attributes in read.elements if tag != "img")
    [policy] = [meta["content"] for meta in read.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in (policy or "")
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    return read


OLD = [{key: value for key, value in line.items() if key not in ("grad_norm", "lr")} for line in WHOLE]
STATES = {
    "done": (WHOLE, {"summary": {"acc1": 61.5, "state_sha256": "ab" * 32}}, "Done after 1 of 2 epochs"),
    "died": (WHOLE, {}, "The run died after 1 of 2 epochs, with acc@1 61.50 %"),
    "of no epoch": (WHOLE[:2], {}, "The run died after 0.5 of 2 epochs"),
    "without validation": (WHOLE[:-1], {}, "The run died after 1 of 2 epochs:"),
    "that has not begun": (None, {}, "No step has been recorded yet."),
    "of an older version": (OLD, {}, "Throughput"),
    "with a loss that is not finite": ([*WHOLE, end("val_epoch", 1, loss=math.nan)], {}, "validation: 0.5000."),
    "with what is no line of ours": ([*WHOLE, {"kind": "train_step", "step": "x"}, {"a": 1}], {}, "Throughput"),
    "an evaluation": ([end("val_epoch", 0)], {"config": {"mode": "evaluate"}}, "The evaluation died"),
    "that names a recipe of another version": (
        WHOLE,
        {"environment": {"command": ["train.py", "experiment=gone"]}},
        "The command names the recipe gone, which this version does not have.",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_runs_of_any_kind_have_a_page(name: str, tmp_path: Path) -> None:
    lines, changed, expected = STATES[name]
    folder = write_run(tmp_path / "run", lines, **changed)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train_step", "epoch"')  # as a kill leaves it
    for sign in folder.iterdir():
        os.utime(sign, (time.time() - 1000,) * 2)
    assert expected in check_rules(page([folder])).words


def test_a_run_that_goes_on_can_be_watched(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", WHOLE)
    content = page([folder], live=True)
    assert "The run goes on: 1 of 2 epochs" in check_rules(content).words
    assert "location.reload()" in content and "location.reload()" not in page([folder])


def test_what_a_later_attempt_repeats_counts_once(tmp_path: Path) -> None:
    lines = [*map(step, (1, 2, 3)), step(2, 2, loss=7.0), step(3, 2, loss=8.0), step(4, 2, loss=9.0)]
    read = history.read_history(RunRecord(write_run(tmp_path / "run", lines), time.time()))
    assert read.steps["loss"].tolist() == [1.0, 7.0, 8.0, 9.0] and read.steps["epoch"].tolist() == [0.25, 0.5, 0.75, 1]
    assert [(start.attempt, start.epoch) for start in read.starts] == [(2, 0.5)]
    words = Read(page([tmp_path / "run"])).words
    assert "run began 2 times: it went on behind epoch 0.5" in words


def test_many_points_become_bins_with_their_bounds() -> None:
    values = np.random.default_rng(0).normal(size=10_007)
    epoch = np.linspace(0.01, 90, len(values))
    [series] = thin("loss", 0, epoch, epoch, values, 400)
    assert len(series.mean) == 400
    assert series.low.min() == values.min() and series.high.max() == values.max()
    assert (series.low <= series.mean).all() and (series.mean <= series.high).all()
    assert series.mean.mean() == pytest.approx(values.mean(), abs=1e-3)
    assert list(thin("loss", 0, epoch, epoch, np.full(len(epoch), math.nan), 400)) == []


def long_run(folder: Path, every: int) -> Path:
    """90 epochs of 5,000 steps, with a line every so many of them."""
    config = {"train": {"epochs": 90, "batch_size": 256}}
    write_run(folder, [], config=config, environment={"data": {"train": {"samples": 5000 * 256}}})
    form = json.dumps(step(1)).replace('"epoch": 0, "step": 1,', '"epoch": %d, "step": %d,')
    with open(folder / "metrics.jsonl", "w") as file:
        for epoch in range(90):
            numbers = range(5000 * epoch + every, 5000 * (epoch + 1) + 1, every)
            file.write("".join(f"{form % (epoch, number)}\n" for number in numbers))
            file.write(json.dumps(end("train_epoch", epoch) | {"step": 5000 * (epoch + 1)}) + "\n")
    return folder


@pytest.mark.parametrize("every", [50, pytest.param(1, marks=pytest.mark.long)])
def test_a_run_of_ninety_epochs_has_a_small_page(every: int, tmp_path: Path) -> None:
    folder = long_run(tmp_path / "run", every)
    read = history.read_history(RunRecord(folder, time.time()))
    assert len(read.steps["loss"]) == 450_000 // every and len(read.epochs) == 90
    assert sum(len(series.mean) for chart in charts(["run"], [read]) for series in chart.series) < 7 * MOST_POINTS
    many = charts([str(number) for number in range(30)], [read] * 30)
    assert sum(len(series.mean) for chart in many for series in chart.series) < 20_000
    assert len(page([folder])) < 2_000_000


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, WHOLE, config={"seed": seed}) for seed, name in enumerate(("first", "second"))]
    read = check_rules(page(runs))
    assert "first · training" in read.words and "second · training" in read.words
    heads = [attributes["aria-label"] for attributes in read.all("table")]
    assert "The runs side by side" in heads and "Options in which the runs differ" in heads


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_what_hydra_composes(name: str) -> None:
    extra = ["data.embedded_root=/x"] if name == "demo" else [] if name == "smoke" else ["data.root=/x"]
    found = read_recipe(name)
    assert found is not None
    expected = flatten(dataclasses.asdict(composed(f"experiment={name}", *extra)))
    without = {"run_dir", "data.root", "data.embedded_root"}
    assert {key: value for key, value in found.options.items() if key not in without} == {
        key: value for key, value in expected.items() if key not in without
    }
    config = {"data": {"root": "/x"}, "optim": {"lr": 77.0}}
    changed = recipe.differing(found, config)
    assert ("optim.lr", "77", True) in [(row.name, row.run, row.changes_result) for row in changed]
    assert ("data.root", False) in [(row.name, row.changes_result) for row in changed]


def test_a_recipe_judges_a_result() -> None:
    resnet50, demo = read_recipe("resnet50_v2"), read_recipe("demo")
    assert resnet50 is not None and demo is not None and read_recipe("none_such") is None
    assert resnet50.published.startswith("80.858 % acc@1") and not resnet50.expected.endswith("original:")
    assert resnet50.judged(80.6) == "acc@1 80.60 % is within the band of 80.5 to 80.9 %."
    assert "below the band" in resnet50.judged(80.4) and "above the band" in resnet50.judged(81.0)
    assert demo.judged(96.25) == "acc@1 96.25 % is at least the 90 % that the recipe promises."
    assert named_in({"command": ["train.py", "experiment=../x"]}) == named_in({}) == ""


def evaluated(folder: Path, photos: Path, predictions: bool = True) -> Path:
    """An evaluation of four photos, two of them wrong, whose classes have hostile names."""
    config = {"mode": "evaluate", "data": {"root": str(photos)}}
    figures = {"acc1": 50.0, "acc1_interval": [15.0, 85.0], "images": 4, "ece": 0.1}
    write_run(folder, [end("val_epoch", 0)], config=config, summary={"acc1": 50.0, "evaluation": figures})
    classes = "class,name,images,acc1,acc1_low,acc1_high,acc5,answered\n"
    classes += "0,</script><b>cat,2,50.00,9.45,90.55,100.00,1\n1,dog,2,50.00,9.45,90.55,100.00,3\n2,eel,0,,,,,0\n"
    (folder / "per_class.csv").write_text(classes)
    pairs = "class,name,answer,answer_name,count,images,share\n0,</script><b>cat,1,dog,1,2,50.00\n"
    (folder / "confusion.csv").write_text(pairs)
    if predictions:
        rows = "name,label,class1,class2,p1,p2\ncat/1.jpg,0,0,1,0.9,0.1\ncat/2.jpg,0,1,0,0.8,0.2\n"
        (folder / "predictions.csv").write_text(rows + "dog/1.jpg,1,1,0,0.7,0.3\n../../secret.jpg,1,0,1,0.95,0.05\n")
    return folder


def test_an_evaluation_shows_what_is_surely_wrong(tmp_path: Path) -> None:
    write_image(tmp_path / "photos/val/cat/2.jpg", 1)
    write_image(tmp_path / "secret.jpg", 2)
    content = page([evaluated(tmp_path / "run", tmp_path / "photos")])
    read = check_rules(content)
    places = [read.words.index(name) for name in ("../../secret.jpg", "cat/2.jpg")]
    assert places == sorted(places) and "cat/1.jpg" not in read.words, "the surest first, and none that is right"
    assert len(read.all("img")) == 1, "nothing outside of the evaluated folder is shown"
    assert "0 (</script><b>cat), taken for 1 (dog) with 80.0 %" in read.words
    assert "Curves" not in read.words and "Speed" not in read.words, "which an evaluation does not have"
    assert "with a 95 % interval from 15.00 to 85.00 %" in read.words and not read.all("b")


def test_an_evaluation_without_predictions_says_how_to_get_them(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "run", tmp_path, predictions=False)
    assert "eval.predictions=csv makes the evaluation write what this needs." in Read(page([folder])).words


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "runs/one", WHOLE)
    assert report.main([str(folder)]) == 0
    check_rules((folder / "report.html").read_text())
    output = capsys.readouterr().out
    assert f"{folder}/report.html is written" in output and (HOW_TO_INSTALL in output) == (not has_bokeh())
    write_run(tmp_path / "runs/two", WHOLE)
    monkeypatch.chdir(tmp_path)
    assert report.main(["runs"]) == 0 and "2 runs: one, two" in Path("report.html").read_text()


def test_the_command_has_a_sentence_for_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path)]) == 2
    assert "is not the directory of a run and holds none" in capsys.readouterr().err
    folder = write_run(tmp_path / "run", WHOLE)
    assert report.main([str(folder), "--out", str(tmp_path / "none/page.html")]) == 1
    assert "Choose another place with --out." in capsys.readouterr().err
    for name, content in {"per_class.csv": "class,name\n1,x\n", "environment.json": '{"data": []}'}.items():
        (folder / name).write_text(content)
        assert report.main([str(folder)]) == 1
        assert f"error: {folder} holds a record or a table that is damaged" in capsys.readouterr().err
        (folder / name).unlink()


def test_without_bokeh_the_page_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.report.page.plots.has_bokeh", lambda: False)
    read = check_rules(page([write_run(tmp_path / "run", WHOLE)]))
    assert HOW_TO_INSTALL in read.words and read.all("script") == []


def test_with_bokeh_each_chart_has_its_place(tmp_path: Path) -> None:
    pytest.importorskip("bokeh", reason="bokeh is in the extra report")
    content = page([write_run(tmp_path / "run", WHOLE), evaluated(tmp_path / "evaluated", tmp_path)])
    read = check_rules(content)
    drawn = {element["id"] for element in read.all("div") if element.get("class") == "plot"}
    data = re.search(r'<script type="application/json" id="plots">(.*)</script>', content)
    assert data is not None and "<" not in data[1]
    kinds = re.findall(
        r'"name": "GlyphRenderer", "id": "\w+", "attributes": \{"name": "training", "tags": \["loss-0"\]', data[1]
    )
    assert len(kinds) == 3, "a band, points and a line, which the box of the legend hides"
    [item] = json.loads(data[1])["items"]
    assert set(item["roots"].values()) == drawn >= {"plot-loss", "plot-accuracy", "plot-norm", "plot-classes-1"}


def test_a_run_writes_its_page(train: Any, small_folder: Path) -> None:
    done: Result = train(f"data.root={small_folder}", *TINY, "log.report=true")
    assert done.code == 0 and "  report         run/report.html\n" in done.output
    assert "Done after 2 of 2 epochs" in check_rules((done.run_dir / "report.html").read_text()).words
    off: Result = train(f"data.root={small_folder}", *TINY, "log.tensorboard=false", "run_dir=off")
    assert off.code == 0 and "report" not in off.output and "tensorboard" not in off.output
    assert not (off.run_dir / "report.html").exists() and not (off.run_dir / "tensorboard").exists()


def test_a_page_that_cannot_be_made_ends_no_run(
    train: Any, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise RuntimeError("no page")

    monkeypatch.setattr("training.report.page.run_page.page", fail)
    done: Result = train(f"data.root={small_folder}", *TINY, "log.report=true")
    assert done.code == 0 and "done: acc@1" in done.output
    assert "warning: report.html was not written (RuntimeError: no page); python -m scripts.report run" in done.output
