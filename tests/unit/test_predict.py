"""Photos classified at the command line: names, shares, a contact sheet, and a sentence for what is no photo."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from etl import transform
from scripts.contact_sheet import Cell, draw_sheet
from scripts.export.__main__ import main as export
from scripts.export.tensors import write_safetensors
from scripts.predict import answer_of, main, open_others
from sources.errors import ConfigError
from tests.conftest import write_image
from tests.support.made_runs import CLASSES, make_run
from training.model.bundle import Preprocessing, normalise
from training.model.trained import open_trained

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, and photos in the working directory."""
    for number in range(20):
        write_image(tmp_path / "photos" / "some" / f"{number:02d}.jpg", number)
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "run")


def test_the_answers_are_the_models(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--json", "--top", "2", "photos"]) == 0
    output = capsys.readouterr()
    assert "best.pt: shufflenet_v2_x0_5 with 3 classes, epoch 2 of 2 (the run is finished); acc@1 70.00 %" in output.err
    lines = [json.loads(line) for line in output.out.splitlines()]
    assert [line["photo"] for line in lines] == [f"photos/some/{number:02d}.jpg" for number in range(20)]
    trained = open_trained(run)
    for line in lines:
        sample = torch.from_numpy(transform(Path(line["photo"]).read_bytes(), trained.spec))[None]
        shares = trained.bundle.module(normalise(sample, trained.bundle.mean, trained.bundle.std, False)).softmax(1)[0]
        values, indices = shares.topk(2)
        assert [answer["index"] for answer in line["top"]] == indices.tolist()
        assert [answer["class"] for answer in line["top"]] == [CLASSES[index] for index in indices.tolist()]
        assert [answer["share"] for answer in line["top"]] == pytest.approx(values.tolist(), abs=1e-5)


def test_an_export_answers_what_its_run_does(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "photos"]) == 0
    before = capsys.readouterr().out
    write_safetensors(open_trained(run), Path("x.safetensors"))
    assert main(["x.safetensors", "photos"]) == 0
    assert capsys.readouterr().out == before
    assert before.startswith("photos/some/00.jpg\n   ") and before.count(" %  ") == 60


def test_an_onnx_file_answers_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"ONNX needs {name}: pip install onnx onnxruntime onnxscript")
    import onnx

    assert export([str(run), "--format", "onnx", "--uint8", "--photos", "photos"]) == 0
    capsys.readouterr()
    answers = []
    for file in (str(run), "run.onnx"):
        assert main([file, "photos", "--json"]) == 0
        answers.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    for ours, theirs in zip(*answers, strict=True):
        assert ours["photo"] == theirs["photo"]
        for one, other in zip(ours["top"], theirs["top"], strict=True):
            assert one["class"] == other["class"] and one["share"] == pytest.approx(other["share"], abs=1e-4)
    model = onnx.load("run.onnx")
    model.metadata_props[0].value = model.metadata_props[0].value.replace("resize", "size")
    onnx.save(model, "changed.onnx")
    del model.metadata_props[:]
    onnx.save(model, "foreign.onnx")
    Path("cut.onnx").write_bytes(Path("run.onnx").read_bytes()[:1000])
    for name, said in (
        ("changed", "changed.onnx has metadata that were changed: 'resize'. Export it again."),
        ("foreign", "foreign.onnx is ONNX, but no export of this trainer"),
        ("cut", "onnxruntime cannot read cut.onnx: "),
    ):
        assert main([f"{name}.onnx", "photos"]) == 1
        assert said in capsys.readouterr().err


def test_a_file_that_is_no_image_gets_a_sentence_and_the_others_go_on(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes.txt").write_text("no photo at all")
    Path("half.jpg").write_bytes(Path("photos/some/00.jpg").read_bytes()[:200])
    Path("empty").mkdir()
    words = ["notes.txt", "photos/some/03.jpg", "gone.jpg", "half.jpg", "empty", "photos/some/04.jpg"]
    assert main([str(run), *words, "--sheet", "sheet.png"]) == 1
    output = capsys.readouterr()
    assert [line for line in output.out.splitlines() if not line.startswith(" ")] == [words[1], words[5]]
    for said in (
        "error: notes.txt is not an image: 15 bytes that start with",
        "error: gone.jpg cannot be read: No such file or directory.",
        "error: half.jpg is a broken image",
        "error: empty holds no photos.",
        "sheet.png: 2 photos\n",
    ):
        assert said in output.err


def test_the_sheet(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "photos", "--sheet", "sheet.png"]) == 0
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 500 and 0.6 < sheet.width / sheet.height < 1.6
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000
    assert sorted(entry.name for entry in Path().iterdir()) == ["photos", "run", "sheet.png"]
    before = Path("sheet.png").read_bytes()
    assert main([str(run), "photos", "--sheet", "sheet.png"]) == 2
    assert "sheet.png exists already: name another file for --sheet, or add --replace." in capsys.readouterr().err
    assert Path("sheet.png").read_bytes() == before
    assert main([str(run), "photos/some/01.jpg", "--sheet", "sheet.png", "--replace"]) == 0
    assert Path("sheet.png").read_bytes() != before


def test_a_sheet_holds_long_and_odd_names() -> None:
    cell = Cell(np.zeros((32, 32, 3), np.uint8), "ñ" * 200 + "\x1b[2J.jpg", [("語" * 90, 0.99), ("b", 0.01)])
    one, many = draw_sheet([cell], "title " * 200), draw_sheet([cell] * 50, "t")
    assert one.width < 700 and many.height > one.height


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run"], "no photos: name files, or folders that hold some."),
        (["run", "photos", "--sheet", "sheet.pdf"], "--sheet sheet.pdf must end in .png, .jpg, .jpeg."),
        (["run", "photos", "--sheet", "no/sheet.png"], "no is not a folder"),
        (["run", "photos", "--weights", "x.pth"], "--weights x.pth: of a run it is one of best, last, ema, raw"),
        (["--model", "resnet18", "photos"], "--model resnet18 needs --weights"),
        (["--model", "resnet81", "--weights", "x.pth", "photos"], "model.name=resnet81 is not a classification model"),
        (["--model", "resnet18", "--weights", "x.pth", "photos"], "model.weights=x.pth is neither a file nor a name"),
    ],
)
def test_a_mistake_is_a_sentence(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_names_of_outputs(run: Path) -> None:
    trained = open_trained(run)
    assert answer_of(trained, 1, 0.5).text == "dog"
    wnids = dataclasses.replace(trained, classes=("n01440764", "n99999999"))
    assert answer_of(wnids, 0, 0.5).text == "tench (n01440764)"
    assert answer_of(wnids, 1, 0.5).text == "n99999999"
    assert answer_of(wnids, 2, 0.5).text == "output 2"
    imagenet = dataclasses.replace(trained, classes=(), num_classes=1000)
    assert answer_of(imagenet, 0, 0.5).text == "tench (n01440764)"


def test_weights_of_another_program(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = open_trained(run)
    torch.save({"state_dict": trained.bundle.module.state_dict()}, "theirs.pth")
    words = ["--model", trained.name, "--weights", "theirs.pth", "--classes", "3", "photos/some/01.jpg", "--json"]
    assert main(words) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert len(json.loads(line)["top"]) == 3
    assert main(["theirs.pth", "photos"]) == 1
    said = "theirs.pth is not a checkpoint of this trainer"
    error = capsys.readouterr().err
    assert said in error and "Weights of another program need --model NAME --weights theirs.pth." in error
    others = open_others(trained.name, "theirs.pth", 3)
    assert others.images == Preprocessing(224, 256, "bilinear")  # as torchvision evaluates its own
    with pytest.raises(ConfigError):
        open_others("timm/nothing", "theirs.pth", 3)


def test_published_weights_name_what_is_on_photos(
    photos: list[Path], lite0: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = photos[::125]
    words = ["--model", "timm/tf_efficientnet_lite0", "--weights", str(lite0), "--json"]
    assert main([*words, *map(str, chosen)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    right = [line["top"][0]["index"] == index for line, index in zip(lines, range(0, 1000, 125), strict=True)]
    assert sum(right) >= 6
