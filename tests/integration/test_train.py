"""train.py as a user starts it, on small folders and on real photos."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import TINY, Result
from training.run_dir.checkpoint import state_sha256

Train = Callable[..., Result]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_its_records_and_nothing_else(train_py: Train, small_folder: Path) -> None:
    result = train_py(f"data.root={small_folder}", *TINY, "model.name=resnet18", "train.keep=1")
    assert result.code == 0, result.output
    assert "batch 12 = 1 x 12, lr 0.01" in result.output
    assert f"tensorboard --logdir {result.run_dir.name}/tensorboard" in result.output

    names = {re.sub(r"events\.out\..*", "events", name) for name in files(result.run_dir.parent)}
    expected = ["config.yaml", "environment.json", "metrics.jsonl", "stream.bin", "summary.json"]
    expected += ["tensorboard/events", "checkpoints/last.pt", "checkpoints/best.pt", "checkpoints/epoch-0001.pt"]
    assert names == {f"run/{name}" for name in expected}

    steps, epochs, validations = (result.metrics(kind) for kind in ("train_step", "train_epoch", "val_epoch"))
    assert [(line["epoch"], line["step"]) for line in steps] == [(0, 2), (0, 3), (1, 5), (1, 6)]
    assert (
        [(line["epoch"], line["step"]) for line in epochs]
        == [(0, 3), (1, 6)]
        == [(line["epoch"], line["step"]) for line in validations]
    )
    assert {"loss", "acc1", "acc5", "lr", "img_per_s", "data_wait", "attempt"} <= set(steps[0])
    assert all(0 <= line["data_wait"] <= 1 for line in steps)

    summary = result.summary()
    assert summary["epochs"] == 2 and summary["samples_seen"] == 72
    assert summary["samples_by_source"] == {"local": 72 + 2 * 15, "etl": 0}
    assert summary["acc1"] == validations[-1]["acc1"]
    assert summary["best_acc1"] == max(line["acc1"] for line in validations)

    state = torch.load(result.run_dir / "checkpoints" / "last.pt", weights_only=True)
    model = torchvision.models.resnet18(num_classes=3)
    model.load_state_dict(state["model"])
    assert state_sha256(model.state_dict()) == summary["state_sha256"]
    assert (state["epoch"], state["batches_done"]) == (2, 0)
    assert {"optimizer", "schedule", "best_acc1", "config"} <= set(state)

    environment = json.loads((result.run_dir / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["data"]["train"]["samples"] == 36 and len(environment["data"]["train"]["sha256"]) == 64

    board = EventAccumulator(str(result.run_dir / "tensorboard"), size_guidance={"scalars": 0})
    board.Reload()
    assert {"train_step/loss", "train_step/lr", "train_epoch/acc1", "val_epoch/acc1"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("train_step/lr")] == [2, 3, 5, 6]
    grid = board.Images("first_training_batch")[0]
    assert (grid.width, grid.height) == (8 * 34 + 2, 2 * 34 + 2)


def test_workers_do_not_change_the_result_and_runs_repeat(train: Train, train_py: Train, small_folder: Path) -> None:
    reference = train(f"data.root={small_folder}", *TINY, "run_dir=a")
    workers = train(f"data.root={small_folder}", *TINY, "data.workers=3", "run_dir=b")
    other_seed = train(f"data.root={small_folder}", *TINY, "seed=1", "run_dir=c")
    again = train_py("--config-path", str(reference.run_dir), "--config-name", "config", "run_dir=d")
    assert [r.code for r in (reference, workers, other_seed, again)] == [0] * 4, again.output
    assert workers.summary()["state_sha256"] == reference.summary()["state_sha256"]
    assert again.summary()["state_sha256"] == reference.summary()["state_sha256"]
    assert other_seed.summary()["state_sha256"] != reference.summary()["state_sha256"]
    assert files(reference.run_dir.parent) == {
        f"{d}/{name}" for d in "abcd" for name in files(reference.run_dir.parent / d)
    }


def test_resuming_at_an_epochs_boundary_changes_nothing(train: Train, small_folder: Path) -> None:
    whole = train(f"data.root={small_folder}", *TINY, "run_dir=whole")
    train(f"data.root={small_folder}", *TINY, "train.epochs=1")
    second = train(f"data.root={small_folder}", *TINY)
    assert "going on from run/checkpoints/last.pt: epoch 2, 0 of 3 batches done" in second.output
    assert second.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert second.summary()["samples_by_source"] == whole.summary()["samples_by_source"]
    assert [line["attempt"] for line in second.metrics("val_epoch")] == [1, 2]
    third = train(f"data.root={small_folder}", *TINY)
    assert third.code == 0 and "nothing to do" in third.output
    assert third.summary() == second.summary()
    from_path = train(f"data.root={small_folder}", *TINY, "resume=run/checkpoints/best.pt", "run_dir=elsewhere")
    assert from_path.code == 0, from_path.output
    never = train(f"data.root={small_folder}", *TINY, "resume=never")
    assert [line["attempt"] for line in never.metrics("val_epoch")] == [1, 1]
    assert never.summary()["state_sha256"] == whole.summary()["state_sha256"]


def test_the_memory_of_both_rings_is_announced(train_py: Train, small_folder: Path) -> None:
    """From the first validation on, batches of training and of validation are in shared memory at the same time."""
    options = [*TINY, "train.epochs=1", "train.batch_size=24", "train.accumulate=2", "data.workers=2"]
    sides = ["data.image_size=320", "data.val_image_size=240", "data.val_resize=256"]
    result = train_py(f"data.root={small_folder}", *options, *sides, "data.prefetch=3")
    assert result.code == 0, result.output
    found = re.search(r"(\d+) batches of training and (\d+) of validation in shared memory: (\d+) MB", result.output)
    assert found, result.output
    training, validation = 2 * 3 + 2 + 2, 2 * 3 + 1 + 2
    expected = 12 * 3 * (training * 320**2 + validation * 240**2)
    assert [int(number) for number in found.groups()] == [training, validation, round(expected / 1e6)]


def test_a_sweep_gives_each_job_its_own_directory(train_py: Train) -> None:
    result = train_py("--multirun", "experiment=smoke", "seed=0,1", "train.epochs=1", "run_dir=sweep")
    assert result.code == 0, result.output
    folder = result.run_dir.parent
    assert sorted(path.name for path in folder.iterdir()) == ["sweep-0", "sweep-1"]
    hashes = {
        json.loads((folder / name / "summary.json").read_text())["state_sha256"] for name in ("sweep-0", "sweep-1")
    }
    assert len(hashes) == 2


def test_two_processes_make_one_run(train_py: Train, small_folder: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = train_py(f"data.root={small_folder}", *TINY, "train.accumulate=2", "data.workers=1", launcher=launcher)
    assert result.code == 0, result.output
    assert "batch 12 = 2 x 2 x 3" in result.output
    assert result.summary()["samples_by_source"] == {"local": 72 + 2 * 15, "etl": 0}
    assert result.summary()["samples_seen"] == 72
    assert len(result.metrics("train_step")) == 4
    assert result.output.count("done: acc@1") == 1


def test_adamw_goes_on_after_a_step_of_an_epoch_and_gives_no_other_optimizer_its_state(
    train: Train, fork_train: Train, small_folder: Path
) -> None:
    others = ["optim.schedule=linear", "optim.warmup_epochs=0.7", "optim.clip_norm=1", "optim.min_lr=0.001"]
    words = [f"data.root={small_folder}", *TINY, *others]
    whole = train(*words, "optim.name=adamw", "run_dir=whole")
    assert fork_train(*words, "optim.name=adamw", accident="between steps", number=2, signal=15).code == 85
    last = (whole.run_dir.parent / "run" / "checkpoints" / "last.pt").read_bytes()
    sgd = train(*words, "allow_changes=true")
    assert sgd.code == 1 and "its optimizer is 'adamw', and optim.name=sgd: give it as model.weights" in sgd.output
    assert (sgd.run_dir / "checkpoints" / "last.pt").read_bytes() == last
    resumed = train(*words, "optim.name=adamw")
    assert resumed.code == 0 and "epoch 1, 2 of 3 batches done" in resumed.output
    assert resumed.summary()["state_sha256"] == whole.summary()["state_sha256"]
    rates = [line["lr"] for line in whole.metrics("train_step")]
    assert rates == pytest.approx([0.01 * 2 / 3, 0.01, 0.001 + 0.009 / 2, 0.001 + 0.009 / 4])  # steps 2, 3, 5 and 6


@pytest.mark.parametrize(
    "option",
    [
        "precision=bf16",
        "deterministic=true",
        "train.channels_last=false",
        pytest.param("train.compile=true", marks=pytest.mark.long),
    ],
)
def test_ways_to_compute(train: Train, small_folder: Path, option: str) -> None:
    result = train(f"data.root={small_folder}", *TINY, option, "train.epochs=1", "train.label_smoothing=0.1")
    assert result.code == 0, result.output
    assert 0 < result.summary()["loss"] < 20


def test_evaluation_of_a_checkpoint_equals_the_runs_own(train: Train, small_folder: Path) -> None:
    trained = train(f"data.root={small_folder}", *TINY, "run_dir=trained")
    weights = trained.run_dir / "checkpoints" / "last.pt"
    result = train(f"data.root={small_folder}", *TINY, "mode=evaluate", f"model.weights={weights}")
    assert result.code == 0, result.output
    for name in ("acc1", "acc5", "loss", "state_sha256"):
        assert result.summary()[name] == pytest.approx(trained.summary()[name])
    assert result.summary()["samples_by_source"]["local"] == 15
    expected = {name: result.summary()[name] for name in ("acc1", "acc5", "loss")}
    shutil.rmtree(small_folder / "train")
    alone = train(f"data.root={small_folder}", *TINY, "mode=evaluate", f"model.weights={weights}", "run_dir=alone")
    assert alone.code == 0 and "3 classes, 15 validation images" in alone.output, alone.output
    assert {name: alone.summary()[name] for name in expected} == expected
    assert alone.summary()["samples_by_source"]["local"] == 15
    shutil.rmtree(small_folder / "val" / "cat")
    fewer = train(f"data.root={small_folder}", *TINY, "mode=evaluate", f"model.weights={weights}", "run_dir=fewer")
    assert fewer.code == 2 and "is for 3 classes, and the model is to have 2" in fewer.output, fewer.output
    refused = train(f"data.root={small_folder}", *TINY, "mode=evaluate", f"model.weights={weights}", "run_dir=trained")
    assert refused.code == 2 and "holds a training run" in refused.output


def test_evaluation_of_torchvisions_weights_on_a_thousand_classes(
    train: Train, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real download, as if made before; with known random weights, since there is no internet in a test.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(3)
    model = torchvision.models.resnet18()
    torch.save(model.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    root = tmp_path / "imagenet"
    for number, photo in enumerate(photos):
        for split in ("train", "val")[: 2 if number % 25 == 0 else 1]:
            folder = root / split / photo.name.split("_")[0]
            folder.mkdir(parents=True)
            (folder / photo.name).symlink_to(photo)
    result = train("mode=evaluate", "model.weights=IMAGENET1K_V1", f"data.root={root}", "train.batch_size=100")
    assert result.code == 0, result.output
    # The same by torchvision alone, as its documentation shows it.
    preprocess = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    classes = sorted(path.name for path in (root / "train").iterdir())
    loss = 0.0
    model.eval()
    for path in sorted((root / "val").rglob("*.JPEG")):
        with torch.inference_mode():
            logits = model(preprocess(torchvision.datasets.folder.pil_loader(str(path)))[None])
        loss += torch.nn.functional.cross_entropy(logits, torch.tensor([classes.index(path.parent.name)])).item() / 40
    assert result.summary()["loss"] == pytest.approx(loss, rel=1e-3)  # within one level of a pixel
    assert result.summary()["samples_by_source"]["local"] == 40


def test_real_photos_train_and_validate(train: Train, hymenoptera: Path) -> None:
    result = train(
        f"data.root={hymenoptera}", "data.image_size=64", "data.val_image_size=64", "data.val_resize=72",
        "train.batch_size=32", "train.epochs=1", "optim.lr=0.01", "data.workers=1", "threads=1",
    )  # fmt: skip
    assert result.code == 0, result.output
    assert "2 classes, 244 training and 153 validation images" in result.output
    assert result.summary()["samples_by_source"]["local"] == 7 * 32 + 153
