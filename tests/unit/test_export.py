"""Exports: what each format holds, that it computes what the model does, and that nothing half-done is left."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from PIL import Image

from etl import Spec, transform
from scripts.export import __main__ as command
from scripts.export import check
from scripts.export.__main__ import FORMATS, main
from scripts.export.format import of_module
from scripts.export.timm_folder import crop_share
from sources.errors import UserError
from tests.conftest import PROJECT, write_image
from tests.support.made_runs import CLASSES, make_run
from training.model.bundle import normalise
from training.model.trained import RECORD, Trained, open_trained
from training.model.weights_file import read_metadata

pytestmark = pytest.mark.usefixtures("one_thread")

GRAPHS = ("onnx", "torchscript")


def needs(form: str) -> None:
    if form == "onnx":
        for name in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(name, reason=f"--format onnx needs {name}: pip install onnx onnxruntime onnxscript")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run of a model, made once."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("runs") / name.replace("/", "-")
            size = {"timm/test_vit": 160}.get(name, 64)
            made[name] = make_run(folder, name, size=size, resize=size + 8)
        return made[name]

    return run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a folder of photos of which one is broken, and a photo beside them."""
    folder = tmp_path / "here"
    for number in range(11):
        write_image(folder / "photos" / f"{number}.jpg", number, (90, 70 + number))
    (folder / "photos" / "broken.jpg").write_bytes(b"no photo")
    write_image(folder / "photo.jpg", 5, (120, 80))
    monkeypatch.chdir(folder)
    return folder


def of_format(form: str, name: str) -> str:
    return {"torchvision": f"{name}.pth", "safetensors": f"{name}.safetensors", "onnx": f"{name}.onnx"}.get(
        form, f"{name}.pt" if form == "torchscript" else f"{name}-timm"
    )


def record_in(form: str, path: Path) -> dict[str, Any]:
    """What a format holds besides the weights, by that format's own means."""
    if form == "onnx":
        import onnx

        return json.loads({prop.key: prop.value for prop in onnx.load(path).metadata_props}[RECORD])
    if form == "torchscript":
        extra = {f"{RECORD}.json": ""}
        torch.jit.load(path, _extra_files=extra)
        return json.loads(extra[f"{RECORD}.json"])
    if form == "torchvision":
        return json.loads(Path(f"{path}.json").read_text())
    return json.loads(read_metadata(path / "model.safetensors" if form == "timm" else path)[RECORD])


def run_card(page: str) -> torch.Tensor:
    """The logits that the Python on a card computes of photo.jpg."""
    [block] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    return names["logits"]


CASES = [
    ("shufflenet_v2_x0_5", "torchvision", ()),
    ("shufflenet_v2_x0_5", "safetensors", ()),
    ("timm/test_resnet", "onnx", ("--uint8",)),
    ("shufflenet_v2_x0_5", "torchscript", ()),
    ("shufflenet_v2_x0_5", "torchscript", ("--uint8",)),
    ("resnet18", "timm", ()),
    ("timm/test_vit", "timm", ()),
    ("timm/test_vit", "onnx", ()),
    ("timm/test_vit", "torchscript", ()),
    pytest.param("googlenet", "torchvision", (), marks=pytest.mark.long),
    pytest.param("shufflenet_v2_x0_5", "onnx", (), marks=pytest.mark.long),
    *(
        pytest.param(name, form, (), marks=pytest.mark.long)
        for name in ("mobilenet_v3_small", "densenet121", "vit_b_32", "swin_t", "regnet_y_400mf", "timm/resnet10t")
        for form in GRAPHS
    ),
]


@pytest.mark.parametrize(("name", "form", "flags"), CASES)
def test_an_export_computes_what_the_model_does_and_says_what_it_is(
    runs: Callable[[str], Path],
    here: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    form: str,
    flags: tuple[str, ...],
) -> None:
    needs(form)
    run = runs(name)
    assert main([str(run), "--format", form, "--photos", "photos", "--licence", "CC0", *flags]) == 0
    output = capsys.readouterr()
    path = Path(of_format(form, run.name))
    assert re.search(
        rf"{path}: largest difference of logits \S+ \(bound .*\), top-1 equal for 11 of 11, on photos of", output.out
    )
    assert "left out: photos/broken.jpg is not an image" in output.err

    trained = open_trained(run)
    record = record_in(form, path)
    assert record["classes"] == list(CLASSES) and record["licence"] == "CC0"
    assert record["provenance"]["run_id"] == "0123abcd" and record["provenance"]["acc1"] == 70.0
    assert record["provenance"]["data_sha256"]["train"] == f"{'train':x<64}"
    assert record["preprocessing"] == trained.record()["preprocessing"]
    assert "/home/someone" not in json.dumps(record)
    side = trained.images.image_size
    if form in GRAPHS:
        content = path.read_bytes()  # which tells nothing of the machine that made it
        assert not [word for word in (str(PROJECT), "/home/someone", "site-packages") if word.encode() in content]
        wanted = ["n", side, side, 3] if flags else ["n", 3, side, side]
        assert record["input"]["shape"] == wanted

    page = (path / "README.md" if form == "timm" else Path(f"{path}.md")).read_text()
    for said in (
        "acc@1 | 70.00 % | 15",
        "These weights are under this licence: CC0.",
        "python train.py",
        "`cat`, `dog`, `eel`",
    ):
        assert said in page
    theirs = run_card(page)
    sample = torch.from_numpy(transform(Path("photo.jpg").read_bytes(), trained.spec))[None]
    ours = of_module(trained, trained.bundle.module)(sample)
    assert torch.allclose(ours, theirs, atol=0.05 * float(ours.abs().max()))  # Pillow may resize in another order
    assert sorted(entry.name for entry in here.iterdir() if entry.name.startswith(".")) == []


def test_the_plain_state_dict_is_what_torchvision_takes(runs: Callable[[str], Path], here: Path) -> None:
    run = runs("resnet18")
    assert main([str(run), "--format", "torchvision"]) == 0
    state = torch.load("resnet18.pth", weights_only=True)
    assert type(state) is dict
    torchvision.models.resnet18(num_classes=3).load_state_dict(state)
    arguments = json.loads(Path("resnet18.pth.json").read_text())["torchvision"]
    assert arguments == {"function": "torchvision.models.resnet18", "arguments": {"num_classes": 3}}


def test_the_normalisation_in_a_graph_has_the_bits_of_a_run(runs: Callable[[str], Path], here: Path) -> None:
    run = runs("shufflenet_v2_x0_5")
    for name, flags in (("pixels.pt", ["--uint8"]), ("floats.pt", [])):
        assert main([str(run), "--format", "torchscript", "--out", name, *flags]) == 0
    trained = open_trained(run)
    images = torch.stack([check.read_photo(path, trained.spec) for path in check.photos_below(Path("photos"))[:3]])
    form = FORMATS["torchscript"]
    pixels, floats = (form.load(trained, Path(f"{n}.pt"), n == "pixels")(images) for n in ("pixels", "floats"))
    assert torch.equal(pixels, floats)


def test_a_run_that_was_interrupted_is_exported_and_says_its_epoch(
    tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", epoch=1, epochs=9, batches_done=2)
    assert main([str(run), "--format", "safetensors", "--weights", "last"]) == 0
    output = capsys.readouterr().out
    assert "last.pt: shufflenet_v2_x0_5 with 3 classes, epoch 1 and 2 steps of 9 (the run is not finished)" in output
    page = Path("run.safetensors.md").read_text()
    assert "The run was not finished: epoch 1 and 2 steps of 9" in page
    assert "were trained on since" in page and "licence of these weights is unknown" in page


def test_the_check_takes_the_validation_split_and_else_the_committed_photo(
    tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for number in range(20):
        write_image(data / "val" / "cat" / f"{number}.jpg", number)
    run = make_run(tmp_path / "run", data_root=data)
    assert main([str(run), "--format", "safetensors", "--count", "7"]) == 0
    assert "top-1 equal for 7 of 7, on photos of the run's validation split" in capsys.readouterr().out
    shutil.rmtree(data)
    assert main([str(run), "--format", "safetensors", "--replace"]) == 0
    assert "top-1 equal for 1 of 1, on the one photo that lies in this project" in capsys.readouterr().out
    assert main([str(run), "--format", "safetensors", "--check", "--out", "run.safetensors"]) == 0


def test_a_file_that_computes_something_else_is_not_written(
    runs: Callable[[str], Path], here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs("shufflenet_v2_x0_5")
    before = sorted(here.iterdir())
    assert main([str(run), "--format", "safetensors", "--bound", "-1"]) == 1
    error = capsys.readouterr().err
    assert "shufflenet_v2_x0_5.safetensors was not written: its largest difference of logits 0 (bound -" in error
    assert sorted(here.iterdir()) == before
    assert main([str(run), "--format", "safetensors"]) == 0
    other = make_run(here.parent / "other", classes=("a", "b", "c"), size=64, resize=72, ema=True)
    assert (
        main(
            [
                str(other),
                "--weights",
                "ema",
                "--format",
                "safetensors",
                "--check",
                "--out",
                "shufflenet_v2_x0_5.safetensors",
            ]
        )
        == 1
    )
    assert "is not what the model is: largest difference of logits" in capsys.readouterr().err


def compared(trained: Trained, exported: Callable[[torch.Tensor], torch.Tensor], count: int = 10) -> check.Comparison:
    images = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8)
    return check.compare(trained, exported, images, "noise")


def test_the_comparison_sees_a_fixed_batch_a_nan_and_another_shape(runs: Callable[[str], Path]) -> None:
    trained = open_trained(runs("shufflenet_v2_x0_5"))
    right = of_module(trained, trained.bundle.module)
    assert compared(trained, right).largest == 0 and compared(trained, right).holds

    def fixed(images: torch.Tensor) -> torch.Tensor:
        if len(images) != 1:
            raise RuntimeError("Got invalid dimensions\n index: 0 Got: 8 Expected: 1")
        return right(images)

    for count in (1, 10):
        with pytest.raises(UserError, match=r"cannot run on \d images:  index: 0 Got: 8 Expected: 1"):
            compared(trained, fixed, count)
    assert not compared(trained, lambda images: right(images) * float("nan")).holds
    with pytest.raises(UserError, match=r"answers \[1, 2\] for logits of \[1, 3\]"):
        compared(trained, lambda images: right(images)[:, :2])
    swapped = compared(trained, lambda images: -right(images))
    assert not swapped.holds and swapped.agree < 10 and swapped.photos == 10
    one = compared(trained, right, 1)
    assert (one.photos, one.agree) == (1, 1)


def test_nothing_that_is_there_is_lost(
    runs: Callable[[str], Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(runs("resnet18"))
    Path("mine.safetensors.md").write_text("my own page")
    assert main([run, "--format", "safetensors", "--out", "mine.safetensors"]) == 2
    assert (
        "mine.safetensors.md exists already: name another place with --out, or add --replace."
        in capsys.readouterr().err
    )
    assert Path("mine.safetensors.md").read_text() == "my own page" and not Path("mine.safetensors").exists()
    assert main([run, "--format", "safetensors", "--out", "mine.safetensors", "--replace"]) == 0
    assert "# resnet18" in Path("mine.safetensors.md").read_text()

    assert main([run, "--format", "timm"]) == 0
    assert main([run, "--format", "timm"]) == 2
    assert main([run, "--format", "timm", "--replace"]) == 0
    assert sorted(entry.name for entry in Path("resnet18-timm").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    Path("resnet18-timm/thesis.txt").write_text("mine")
    capsys.readouterr()
    assert main([run, "--format", "timm", "--replace"]) == 2
    assert "holds other things than an export" in capsys.readouterr().err
    assert Path("resnet18-timm/thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--format", "onnx", "--out", "/proc/x.onnx"], 1, "/proc/x.onnx could not be written: "),
        (
            ["--format", "onnx", "--out", "no/where.onnx"],
            2,
            "no is not a folder: make it, or name another place with --out.",
        ),
        (
            ["--format", "onnx", "--out", "x.bin"],
            2,
            "--out x.bin does not end in .onnx, as ONNX, opset 18 does: name it so.",
        ),
        (["--format", "timm", "--uint8"], 2, "--uint8 is for onnx and torchscript: timm holds weights"),
        (["--format", "safetensors", "--weights", "ema"], 2, "has no averaged weights"),
        (["--format", "safetensors", "--photos", "empty"], 2, "--photos empty holds no photos"),
        (["--format", "caffe"], 2, "invalid choice: 'caffe'"),
        (
            ["--format", "timm"],
            1,
            "shufflenet_v2_x0_5 cannot be exported for timm: timm ",
        ),
    ],
)
def test_a_mistake_is_a_sentence(
    runs: Callable[[str], Path],
    here: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    Path("empty").mkdir()
    before = sorted(here.iterdir())
    try:
        assert main([str(runs("shufflenet_v2_x0_5")), *words]) == code
    except SystemExit as done:  # argparse's own
        assert done.code == code
    error = capsys.readouterr().err
    assert said in error.splitlines()[-1] and "Traceback" not in error
    assert sorted(here.iterdir()) == before


def test_models_go_where_they_are_known(
    runs: Callable[[str], Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(runs("timm/test_vit")), "--format", "torchvision"]) == 1
    assert "timm/test_vit is a model of timm, which torchvision does not have" in capsys.readouterr().err
    run = make_run(here.parent / "efficient", "efficientnet_b0")
    assert main([str(run), "--format", "timm"]) == 1
    assert "timm's model of this name has other parameters, such as " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["onnx", "onnxruntime", "onnxscript"])
def test_without_its_packages_onnx_is_a_sentence(
    runs: Callable[[str], Path],
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    for other in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(__import__("sys").modules, other, None if other == name else torch)
    assert main([str(runs("shufflenet_v2_x0_5")), "--format", "onnx"]) == 1
    assert (
        f"--format onnx needs the package {name}, which is not installed: pip install onnx onnxruntime"
        in capsys.readouterr().err
    )


def test_an_onnx_file_would_be_too_large(
    runs: Callable[[str], Path], here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("onnx")
    monkeypatch.setattr("scripts.export.graphs._LARGEST", 1000)
    assert main([str(runs("shufflenet_v2_x0_5")), "--format", "onnx"]) == 1
    assert "GB of weights, and an ONNX file holds 2 at most: take --format safetensors" in capsys.readouterr().err


def test_timm_computes_our_resize_from_the_share_of_the_crop() -> None:
    for size in (32, 160, 224, 235, 288, 384):
        for resize in range(size, size + 200):
            assert int(size / crop_share(size, resize)) == resize


def test_timm_makes_its_images_of_an_export_as_the_run_did(runs: Callable[[str], Path], here: Path) -> None:
    import timm

    assert main([str(runs("resnet18")), "--format", "timm"]) == 0
    model = timm.create_model("local-dir:resnet18-timm", pretrained=True)
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    trained = open_trained(Path("resnet18-timm"))
    with Image.open("photo.jpg") as photo:
        theirs = prepare(photo.convert("RGB"))[None]
    sample = check.read_photo(Path("photo.jpg"), trained.spec)[None]
    ours = normalise(sample, trained.bundle.mean, trained.bundle.std, False)
    level = 1 / 255 / min(trained.bundle.std)  # Pillow 13 may resize in another order
    assert torch.allclose(ours, theirs, atol=1.01 * level)


def test_a_stop_leaves_nothing(
    runs: Callable[[str], Path], here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "card", stop)
    before = sorted(here.iterdir())
    assert main([str(runs("shufflenet_v2_x0_5")), "--format", "safetensors"]) == 1
    assert capsys.readouterr().err == "stopped: nothing was written.\n"
    assert sorted(here.iterdir()) == before


def test_every_format_has_its_python_on_the_card() -> None:
    from scripts.export.example import _PARTS

    assert sorted(_PARTS) == sorted(form.suffix for form in FORMATS.values())


def test_the_sample_of_a_check_is_that_of_a_validation(photos: list[Path]) -> None:
    spec = Spec.val(64, 72)
    assert torch.equal(check.read_photo(photos[0], spec), torch.from_numpy(transform(photos[0].read_bytes(), spec)))
