"""mode=evaluate as a user runs it: figures, tables, other data sets' folders and labels, sweeps and processes."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL
import pytest
import torch
import torchvision
from PIL import Image

from etl import Spec, transform
from tests.conftest import TINY, ForkedTrain, Result, write_image
from training.evaluate.classes import preset_classes
from training.model.class_order import imagenet_classes

Train = Callable[..., Result]

NAME = "shufflenet_v2_x0_5"
EVALUATE = [*TINY, "mode=evaluate", "train.batch_size=4"]


def make_weights(path: Path, classes: int = 1000, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    torch.save(torchvision.models.get_model(NAME, num_classes=classes).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights") / "a.pth")


def make_val(root: Path, *folders: str, photos: int = 2) -> Path:
    for label, folder in enumerate(folders):
        for number in range(photos):
            write_image(
                root / "val" / folder / f"ILSVRC2012_val_{10 * label + number + 1:08d}.JPEG", 10 * label + number
            )
    return root


def rows(result: Result, name: str = "predictions.csv") -> list[dict[str, str]]:
    with open(result.run_dir / name, newline="") as file:
        return list(csv.DictReader(file))


def probabilities(path: Path, weights: Path, flip: bool = False, possible: tuple[int, ...] = ()) -> torch.Tensor:
    """By torchvision alone, float32 [classes]."""
    preset = torchvision.transforms._presets.ImageClassification(crop_size=32, resize_size=36)
    model = torchvision.models.get_model(NAME, num_classes=1000)
    model.load_state_dict(torch.load(weights, weights_only=True))
    with torch.inference_mode():
        inputs = preset(torchvision.datasets.folder.pil_loader(str(path)))[None]
        logits = model.eval()(inputs)
        if flip:
            logits = (logits + model(inputs.flip(-1))) / 2
    return logits[0, list(possible) or slice(None)].softmax(0)


def test_figures_tables_and_predictions(train: Train, weights: Path, tmp_path: Path) -> None:
    wnids = [wnid for wnid, _ in imagenet_classes()[:3]]
    root = make_val(tmp_path / "data", *wnids, photos=4)
    words = [f"data.root={root}", *EVALUATE, f"model.weights={weights}", "eval.predictions=csv", "eval.flip=true"]
    result = train(*words, "eval.compare_precision=bf16")
    assert result.code == 0, result.output
    assert "preprocessing: the short side becomes 36 pixels" in result.output
    assert "by the options data.val_image_size, data.val_resize, since nothing says how" in result.output
    assert "acc@1 0.00 % (95 % interval 0.00 to 24.25)" in result.output
    assert "bf16 against fp32: " in result.output and "mirror image" in result.output
    found = result.summary()["evaluation"]
    assert (found["images"], found["acc1"], found["flip"]) == (12, result.summary()["acc1"], True)
    assert found["preprocessing"] == {"image_size": 32, "resize": 36, "interpolation": "bilinear", "antialias": True}
    assert found["compared_precision"]["images"] == 12
    assert 0 < found["compared_precision"]["largest_difference"] < 0.2
    table = rows(result)
    assert [row["name"] for row in table] == sorted(row["name"] for row in table) and len(table) == 12
    for row in table[::4]:
        expected = probabilities(root / "val" / row["name"], weights, flip=True)
        top = expected.topk(5)
        assert [int(row[f"class{place}"]) for place in range(1, 6)] == top.indices.tolist()
        assert [float(row[f"p{place}"]) for place in range(1, 6)] == pytest.approx(top.values.tolist(), rel=1e-4)
    classes = rows(result, "per_class.csv")
    assert [row["images"] for row in classes if row["name"].startswith(wnids[2])] == ["4"]
    assert sum(int(row["answered"]) for row in classes) == 12
    assert sum(int(row["count"]) for row in rows(result, "confusion.csv")) == 12
    again = train(*words[:-2], "resume=never")
    assert again.code == 0 and not (again.run_dir / "predictions.csv").exists()


def test_processes_share_the_photos(fork_train: ForkedTrain, weights: Path, tmp_path: Path) -> None:
    root = make_val(tmp_path / "data", "n01440764", "n01443537", photos=5)
    words = [f"data.root={root}", *EVALUATE, f"model.weights={weights}", "eval.predictions=csv"]
    whole = fork_train(*words)
    shared = fork_train(*words, "run_dir=shared", world=2)
    assert shared.code == 0, shared.output
    assert len(rows(shared)) == 10
    for ours, theirs in zip(rows(shared), rows(whole), strict=True):
        assert {k: v for k, v in ours.items() if k[0] != "p"} == {k: v for k, v in theirs.items() if k[0] != "p"}
    kept = ("images", "acc1", "acc1_interval", "acc5")
    assert [shared.summary()["evaluation"][k] for k in kept] == [whole.summary()["evaluation"][k] for k in kept]
    assert shared.output.count("acc@1 ") == whole.output.count("acc@1 ")


def test_folders_of_other_data_sets_are_known(train: Train, weights: Path, tmp_path: Path) -> None:
    root = make_val(tmp_path / "v2", "0", "1", "10", "2", photos=1)
    words = [*EVALUATE, f"model.weights={weights}", "eval.predictions=csv"]
    result = train(f"data.root={root}", *words)
    assert result.code == 0, result.output
    assert "the data have 4 of the model's 1,000, and a folder is known by its name: '10' is class 10" in result.output
    assert "warning: the classes" not in result.output
    assert [(row["name"].split("/")[0], row["label"]) for row in rows(result)] == [
        ("0", "0"), ("1", "1"), ("10", "10"), ("2", "2"),
    ]  # fmt: skip
    wnids = [wnid for wnid, _ in imagenet_classes()]
    adversarial = make_val(tmp_path / "a", *(wnids[number] for number in preset_classes("a")[:4]), photos=1)
    result = train(f"data.root={adversarial}", *words, "eval.classes=a", "resume=never")
    assert result.code == 0 and "the other 800 logits are left out" in result.output, result.output
    first = rows(result)[0]
    expected = probabilities(adversarial / "val" / first["name"], weights, possible=preset_classes("a"))
    assert float(first["p1"]) == pytest.approx(expected.max().item(), rel=1e-4)
    assert int(first["class1"]) == preset_classes("a")[int(expected.argmax())]
    assert {int(row["label"]) for row in rows(result)} == set(preset_classes("a")[:4])


def test_labels_of_another_source_count(train: Train, weights: Path, tmp_path: Path) -> None:
    root = make_val(tmp_path / "data", "n01440764", "n01443537")
    words = [f"data.root={root}", *EVALUATE, f"model.weights={weights}", "eval.predictions=csv"]
    answers = {row["name"].split("_")[-1][:8]: int(row["class1"]) for row in rows(train(*words))}
    lists: list[list[int]] = [[] for _ in range(50_000)]
    numbers = sorted(answers)
    lists[int(numbers[0]) - 1] = [answers[numbers[0]], 999]
    lists[int(numbers[1]) - 1] = [answers[numbers[1]]]
    lists[int(numbers[2]) - 1] = [(answers[numbers[2]] + 1) % 1000]
    path = tmp_path / "real.json"
    path.write_text(json.dumps(lists))
    result = train(*words, f"eval.labels={path}", "resume=never")
    assert result.code == 0, result.output
    assert "acc@1 66.67 %" in result.output and f"3 of 4 images have labels in {path}" in result.output
    assert result.summary()["evaluation"]["images"] == 3
    assert [row["accepted"] for row in rows(result)][3] == ""
    path.write_text(json.dumps(lists[1:]))
    result = train(*words, f"eval.labels={path}", "resume=never")
    assert result.code == 2 and "has lists for 49,999 photos" in result.output


def test_several_weights_give_one_table(train_py: Train, weights: Path, tmp_path: Path) -> None:
    root = make_val(tmp_path / "data", "n01440764", "n01443537")
    other = make_weights(tmp_path / "b.pth", seed=1)
    short = make_weights(tmp_path / "c.pth", classes=7)
    values = f"model.weights={weights},{other},{short}"
    words = [f"data.root={root}", *EVALUATE, values, "model.num_classes=1000", "run_dir=sweep"]
    result = train_py("--multirun", *words)
    assert result.code == 2 and "1 of the sweep's 3 jobs failed: 2." in result.output, result.output
    table = result.output.split("\n\n")[-1].splitlines()
    assert table[0].split() == [
        "model",
        "weights",
        "preprocessing",
        *["acc@1", "95", "%", "interval", "acc@5", "ECE", "img/s"],
    ]
    assert [line.split()[:2] for line in table[1:3]] == [[NAME, str(weights)], [NAME, str(other)]]
    assert "32 of 36, bilinear" in table[1]
    assert "has no figures: its job failed" in table[3]


def test_a_run_of_ours_is_evaluated_as_it_was_validated(train: Train, small_folder: Path) -> None:
    words = [word for word in TINY if not word.startswith("data.val_")]
    trained = train(f"data.root={small_folder}", *TINY, "train.epochs=1", "run_dir=trained")
    last = trained.run_dir / "checkpoints" / "last.pt"
    result = train(f"data.root={small_folder}", *words, "mode=evaluate", f"model.weights={last}")
    assert result.code == 0, result.output
    assert "the short side becomes 36 pixels (bilinear, antialiased)" in result.output
    assert f"as {last} was validated" in result.output
    assert result.summary()["loss"] == pytest.approx(trained.summary()["loss"])
    shutil.rmtree(small_folder / "train")
    shutil.rmtree(small_folder / "val" / "dog")
    part = train(
        f"data.root={small_folder}",
        *words,
        "mode=evaluate",
        f"model.weights={last}",
        "eval.classes=data",
        "run_dir=part",
    )
    assert part.code == 0, part.output
    assert "the data have 2 of the model's 3, and a folder is known by its name: 'eel' is class 2" in part.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval.flip=true"], "eval.flip=true is for mode=evaluate, and a run that trains does not take it"),
        (["eval.predictions=csv"], "eval.predictions=csv is for mode=evaluate"),
        (["eval.classes=r"], "eval.classes=r is for mode=evaluate"),
        (["mode=evaluate", "model.weights=x", "eval.compare_precision=fp32"], "is the precision of the run already"),
        (["mode=evaluate", "model.weights=x", "eval.predictions=xlsx"], "must be one of none, csv, parquet"),
    ],
)
def test_options_that_make_no_sense_are_a_sentence(
    train: Train, small_folder: Path, words: list[str], said: str
) -> None:
    from sources.errors import ConfigError

    with pytest.raises(ConfigError, match=said):
        train(f"data.root={small_folder}", *TINY, *words)


def test_what_cannot_be_had_is_a_sentence(train: Train, weights: Path, tmp_path: Path) -> None:
    root = make_val(tmp_path / "data", "n01440764", "n01443537")
    words = [f"data.root={root}", *EVALUATE, f"model.weights={weights}"]
    result = train(*words, "eval.compare_precision=fp16")
    assert result.code == 2 and "eval.compare_precision=fp16 needs a GPU" in result.output
    result = train(*words, "eval.classes=a")
    assert result.code == 2 and "is not one of the 200 classes of ImageNet-A" in result.output
    few = make_weights(tmp_path / "few.pth", classes=2)
    result = train(f"data.root={root}", *EVALUATE, f"model.weights={few}", "model.num_classes=2", "eval.classes=r")
    assert result.code == 2 and "is a list of 200 of ImageNet's 1,000 classes, and the model has 2" in result.output


@pytest.mark.parametrize("every", [50, pytest.param(1, marks=pytest.mark.long)])
def test_an_evaluation_equals_timms_own(
    train: Train, lite0: Path, photos: list[Path], every: int, tmp_path: Path
) -> None:
    import timm
    from timm.data import create_loader, create_transform, resolve_data_config
    from torchvision.datasets import ImageFolder

    root, chosen = tmp_path / "imagenet", photos[::every]
    for photo in chosen:
        folder = root / "val" / photo.name.split("_")[0]
        folder.mkdir(parents=True)
        (folder / photo.name).symlink_to(photo)
    model = "model.name=timm/tf_efficientnet_lite0"
    # timm's own loader answers NCHW, and a CPU's convolutions may round in another way for channels_last.
    layout = ["train.channels_last=false", "train.batch_size=25", "data.workers=0", "eval.predictions=csv"]
    result = train("mode=evaluate", model, f"model.weights={lite0}", f"data.root={root}", *layout)
    assert result.code == 0, result.output
    assert "as timm evaluates tf_efficientnet_lite0 by its configuration" in result.output

    theirs = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(lite0)).eval()
    config = resolve_data_config(model=theirs, use_test_size=True)
    loader = create_loader(
        ImageFolder(str(root / "val")), config["input_size"], 25, interpolation=config["interpolation"],
        mean=config["mean"], std=config["std"], crop_pct=config["crop_pct"], num_workers=0, device=torch.device("cpu"),
    )  # fmt: skip
    with torch.inference_mode():
        logits = torch.cat([theirs(images) for images, _ in loader])
    table = rows(result)
    assert [int(row["label"]) for row in table] == list(range(0, 1000, every))
    top = logits.softmax(1).topk(5)
    found = torch.tensor([[int(row[f"class{place}"]) for place in range(1, 6)] for row in table])
    shares = torch.tensor([[float(row[f"p{place}"]) for place in range(1, 6)] for row in table])
    # Where the pixels are equal, all is equal bit for bit. Pillow 13 resizes some tall photos down before across.
    same = torch.tensor([same_pixels(photo, create_transform(**config, use_prefetcher=True)) for photo in chosen])
    assert bool(same.all()) or (int(PIL.__version__.split(".")[0]) >= 13 and same.double().mean() > 0.99)
    assert torch.equal(found[same], top.indices[same]) and torch.equal(shares[same], top.values[same])
    torch.testing.assert_close(shares, top.values, rtol=0, atol=0.02)
    acc1 = 100 * (logits.argmax(1) == torch.arange(0, 1000, every)).double().mean().item()
    assert result.summary()["acc1"] == pytest.approx(acc1, abs=100.01 * (~same).double().mean().item()) and acc1 > 65


def same_pixels(photo: Path, theirs: Any) -> bool:
    with Image.open(photo) as image:
        expected = theirs(image.convert("RGB"))
    ours = transform(photo.read_bytes(), Spec.val(224, 256, "bicubic"))
    return torch.equal(expected.permute(1, 2, 0), torch.from_numpy(ours))
