"""A trained model in a file: of a run, of a checkpoint, of an export; and a sentence for everything else."""

import dataclasses
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from scripts.export.tensors import write_safetensors
from sources.errors import UserError
from tests.support.made_runs import CLASSES, make_run
from tests.unit.test_command_line import composed
from training.config.options import flatten
from training.config.schema import Config
from training.model.bundle import MEAN, STD, Bundle, Preprocessing
from training.model.provenance import Provenance, changed_options, options_that_decide
from training.model.trained import RECORD, Trained, open_trained

pytestmark = pytest.mark.usefixtures("one_thread")


def logits(trained: Trained) -> torch.Tensor:
    torch.manual_seed(3)
    side = trained.images.image_size
    return trained.bundle.module(torch.randn(2, 3, side, side))


def test_a_run_gives_its_model_and_what_it_came_from(tmp_path: Path) -> None:
    run = make_run(tmp_path / "first")
    trained = open_trained(run)
    assert trained.path == run / "checkpoints" / "best.pt"
    assert (trained.name, trained.num_classes, trained.classes) == ("shufflenet_v2_x0_5", 3, CLASSES)
    assert trained.images == Preprocessing(32, 36, "bilinear")
    assert (trained.spec.size, trained.spec.resize) == (32, 36)
    assert not trained.bundle.module.training
    assert not any(parameter.requires_grad for parameter in trained.bundle.module.parameters())
    theirs = torchvision.models.shufflenet_v2_x0_5(num_classes=3).eval()
    theirs.load_state_dict(torch.load(trained.path, weights_only=True)["model"])
    assert torch.equal(logits(trained), logits(dataclasses.replace(trained, bundle=Bundle(theirs, MEAN, STD))))
    source = trained.provenance
    assert (source.run_id, source.run, source.file, source.weights) == ("0123abcd", "first", "best.pt", "raw")
    assert (source.epoch, source.epochs, source.finished) == (2, 2, True)
    assert (source.acc1, source.val_samples, source.figures_are_of_these_weights) == (70.0, 15, True)
    assert source.data_sha256 == {split: f"{split:x<64}" for split in ("train", "val")}


def test_the_better_weights_are_taken_unless_others_are_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ema=True, ema_acc1=80.0, ema_acc5=99.0, ema_loss=0.25)
    state = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    for which, kept, acc1 in (
        ("best", "ema", 80.0),
        ("ema", "ema", 80.0),
        ("raw", "model", 70.0),
        ("last", "ema", 80.0),
    ):
        trained = open_trained(run, which)
        weight = trained.bundle.module.state_dict()["conv1.0.weight"]
        assert torch.equal(weight, state[kept]["conv1.0.weight"]), which
        assert (trained.provenance.acc1, trained.path.stem) == (acc1, "last" if which == "last" else "best")
    worse = make_run(tmp_path / "worse", ema=True, ema_acc1=60.0)
    assert open_trained(worse).provenance.weights == "raw"
    with pytest.raises(UserError, match="has no averaged weights: its run had train.ema_decay=0"):
        open_trained(make_run(tmp_path / "none"), "ema")


@pytest.mark.parametrize(
    ("made", "position", "figures"),
    [
        (
            {"epoch": 2, "epochs": 5},
            "epoch 2 of 5 (the run is not finished)",
            "acc@1 70.00 %, acc@5 95.00 % on 15 photos",
        ),
        (
            {"epoch": 2, "epochs": 5, "batches_done": 1},
            "epoch 2 and 1 steps of 5 (the run is not finished)",
            "not validated as they are; after epoch 2 the run had acc@1 70.00 %",
        ),
        ({"epoch": 0, "epochs": 5, "batches_done": 2}, "epoch 0 and 2 steps of 5", "not validated"),
        ({}, "epoch 2 of 2 (the run is finished)", "acc@1 70.00 %"),
    ],
)
def test_a_run_that_was_interrupted_says_its_epoch(
    tmp_path: Path, made: dict[str, Any], position: str, figures: str
) -> None:
    trained = open_trained(make_run(tmp_path / "run", **made))
    assert position in trained.what and figures in trained.what
    (tmp_path / "run" / "checkpoints" / "best.pt").unlink()
    assert open_trained(tmp_path / "run").path.name == "last.pt"


def test_a_checkpoint_outside_its_run_is_taken_too(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    moved = (run / "checkpoints" / "last.pt").rename(tmp_path / "model.pt")
    source = open_trained(moved).provenance
    assert (source.run_id, source.finished, source.run) == ("", None, "run")


def test_what_names_folders_stays_behind_and_the_rest_repeats_the_run(tmp_path: Path) -> None:
    config = composed("data.root=/home/someone", "optim.lr=0.3", "data.sizes=['0:32','1:48']", "optim.nesterov=true")
    kept = options_that_decide(flatten(dataclasses.asdict(config)))
    assert "/home/someone" not in json.dumps(kept) and "run_dir" not in kept
    assert kept["optim.lr"] == 0.3
    with_weights = options_that_decide(flatten(dataclasses.asdict(config)) | {"model.weights": "/home/someone/w.pth"})
    assert with_weights["model.weights"] == "w.pth"
    words = changed_options(kept)
    again = composed("data.root=/home/someone", *words)
    assert again == config
    assert changed_options(options_that_decide(flatten(dataclasses.asdict(Config())))) == [
        "data.val_image_size=224",
        "data.val_resize=256",
        "data.interpolation=bilinear",
    ]


def test_an_export_gives_the_same_model(tmp_path: Path) -> None:
    trained = dataclasses.replace(open_trained(make_run(tmp_path / "run", ema=True, ema_acc1=80.0)), licence="CC0")
    path = tmp_path / "x.safetensors"
    write_safetensors(trained, path)
    again = open_trained(path)
    assert torch.equal(logits(again), logits(trained))
    assert again.record() == trained.record()
    assert (again.licence, again.provenance.weights) == ("CC0", "ema")
    folder = tmp_path / "folder"
    folder.mkdir()
    path.rename(folder / "model.safetensors")
    assert open_trained(folder).path == folder / "model.safetensors"
    with pytest.raises(UserError, match="holds the ema weights alone: leave out --weights raw"):
        open_trained(folder, "raw")


@pytest.mark.parametrize("transforms", [True, False])
def test_how_inception_reads_its_inputs_is_kept(tmp_path: Path, transforms: bool) -> None:
    run = make_run(tmp_path / "run", "googlenet", size=64, resize=64)
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    state["environment"]["model"]["transform_input"] = transforms
    torch.save(state, run / "checkpoints" / "best.pt")
    trained = open_trained(run)
    assert trained.bundle.module.transform_input is transforms
    write_safetensors(trained, tmp_path / "x.safetensors")
    assert open_trained(tmp_path / "x.safetensors").bundle.module.transform_input is transforms
    assert logits(trained).shape == (2, 3)


def changed(path: Path, change: Any) -> None:
    """Change the record in a file of safetensors."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    record = json.loads(header["__metadata__"][RECORD])
    header["__metadata__"][RECORD] = json.dumps(change(record))
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("written")
    write_safetensors(open_trained(make_run(folder / "run")), folder / "x.safetensors")
    return (folder / "x.safetensors").read_bytes()


@pytest.fixture
def exported(tmp_path: Path, written: bytes) -> Path:
    path = tmp_path / "x.safetensors"
    path.write_bytes(written)
    return path


@pytest.mark.parametrize("kept", [0, 4, 8, 9, 300, 0.2, 0.9, -1])
def test_safetensors_cut_short(exported: Path, kept: float) -> None:
    content = exported.read_bytes()
    exported.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match=r"x.safetensors is cut off or damaged.*export it again"):
        open_trained(exported)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: 7, "not the record of an export"),
        (lambda r: r | {"format": 2}, "it has format 2, and this version reads formats up to 1"),
        (lambda r: r | {"classes": "cat"}, "its classes are not a list"),
        (lambda r: r | {"model": r["model"] | {"num_classes": 10**12}}, "where a number from 1 to 1,048,576 belongs"),
        (
            lambda r: r | {"model": r["model"] | {"num_classes": 1_000_000}},
            "says that it has 1,000,000 classes, and no",
        ),
        (lambda r: r | {"model": r["model"] | {"name": "resnet18"}}, "does not fit resnet18"),
        (lambda r: r | {"model": r["model"] | {"name": "../../x"}}, "is not a classification model"),
        (lambda r: r | {"preprocessing": r["preprocessing"] | {"mean": [1.0]}}, "is cut off or damaged"),
        (lambda r: r | {"preprocessing": r["preprocessing"] | {"resize": 8}}, "resize must be from size"),
        (lambda r: r | {"provenance": {"acc1": "high"}}, "acc1 of its provenance is a str"),
        (lambda r: r | {"provenance": {"shell": "x"}}, "unknown entry 'shell'"),
        (lambda r: {"format": 1}, "is cut off or damaged"),
    ],
)
def test_metadata_that_were_changed(exported: Path, change: Any, said: str) -> None:
    changed(exported, change)
    with pytest.raises(UserError) as raised:
        open_trained(exported)
    assert said in str(raised.value) and len(str(raised.value).splitlines()) == 1


class Mischief:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_to_run_code_does_not(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    run = make_run(tmp_path / "run")
    path = run / "checkpoints" / "best.pt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"extra": Mischief(mark)}, path)
    with pytest.raises(UserError, match=r"it holds \w+\.mkdir"):
        open_trained(run)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps({"model": Mischief(mark)}))
    with pytest.raises(UserError, match="is neither a run directory, nor a checkpoint of a run"):
        open_trained(plain)
    assert not mark.exists()


def test_what_is_no_model_is_a_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    (tmp_path / "empty").mkdir()
    text = tmp_path / "notes.txt"
    text.write_text("a text")
    foreign = tmp_path / "foreign.pt"
    torch.save(torch.nn.Linear(2, 2).state_dict(), foreign)
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "b")
    from safetensors.torch import save_file

    tensors = tmp_path / "plain.safetensors"
    save_file({"x": torch.zeros(2)}, tensors)
    for path, said in (
        (run, "has no checkpoint: the run was stopped before it saved one, or it only evaluated"),
        (tmp_path / "empty", "is not the directory of a run"),
        (text, "is neither a run directory, nor a checkpoint of a run, nor safetensors"),
        (tmp_path / "missing.pt", "missing.pt cannot be read: No such file or directory"),
        (foreign, "is not a checkpoint of this trainer"),
        (archive, "a.zip is damaged or not a checkpoint"),
        (tensors, "is safetensors, but no export of this trainer"),
    ):
        with pytest.raises(UserError) as raised:
            open_trained(path)
        assert said in str(raised.value), path


def test_figures_of_an_unknown_run() -> None:
    assert Provenance().position == "trained for an unknown time"
    assert Provenance().figures == "not validated"
