"""What goes wrong is said in a sentence, with the right exit code, and nothing is lost."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY, Result, write_image

Train = Callable[..., Result]


def error(result: Result, code: int) -> str:
    assert result.code == code, result.output
    assert "Traceback" not in result.output
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.output
    return lines[0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", ["truncated", "text"])
def test_a_bad_jpeg_is_named_with_its_path(train: Train, small_folder: Path, content: str, workers: int) -> None:
    path = small_folder / "train" / "dog" / "3.jpg"
    path.write_bytes(path.read_bytes()[:400] if content == "truncated" else b"no photo")
    message = error(train(f"data.root={small_folder}", *TINY, f"data.workers={workers}"), 1)
    assert str(path) in message and "image" in message


@pytest.mark.parametrize(
    ("overrides", "code", "expected"),
    [
        (["train.batch_size=37"], 2, "train.batch_size=37 is more than the 36 training samples"),
        (["train.accumulate=5"], 2, "train.batch_size=12 cannot be split evenly"),
        (["model.name=resnet_18"], 2, "did you mean resnet18"),
        (
            ["model.name=timm/test_vit", "data.image_size=40"],
            2,
            "timm/test_vit cannot take images of data.image_size=40",
        ),
        (["optim.layer_decay=0.5"], 2, "optim.layer_decay: this model has no blocks"),
        (["optim.name=timm/adamx"], 2, "has no optimiser adamx: did you mean timm/adam"),
        (["model.num_classes=2"], 2, "model.num_classes=2, but the data have 3 classes"),
        (["precision=fp16", "device=cpu"], 2, "precision=fp16 needs a GPU"),
        (["device=cuda"], 2, "torch sees no GPU"),
        (["run_dir=/proc/run"], 2, "run_dir=/proc/run cannot be written to"),
        (["resume=nowhere.pt"], 1, "the checkpoint nowhere.pt does not exist"),
        (["optim.lr=1e38", "train.epochs=9"], 1, "the loss is not finite at step"),
        (["data.root=/nowhere"], 2, "error: /nowhere is not a folder: it must hold train/ and val/"),
        (
            ["data=aistore", "data.endpoint=embedded", "data.embedded_root=/no"],
            2,
            "error: /no is not a folder: it must hold train/ and val/",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_a_sentence(train: Train, small_folder: Path, overrides: list[str], code: int, expected: str) -> None:
    import torch

    if overrides == ["device=cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert expected in error(train(f"data.root={small_folder}", *TINY, *overrides), code)


def test_a_loss_that_is_not_finite_names_step_rate_and_checkpoint(train: Train, small_folder: Path) -> None:
    train(f"data.root={small_folder}", *TINY, "train.epochs=1")
    message = error(
        train(f"data.root={small_folder}", *TINY, "optim.lr=1e38", "train.epochs=9", "allow_changes=true"), 1
    )
    assert "lr 1e+38" in message and "the last checkpoint is run/checkpoints/last.pt" in message


@pytest.mark.parametrize("clip_norm", [0, 1])
def test_gradients_that_are_not_finite_end_the_run_and_reach_no_checkpoint(
    train: Train, small_folder: Path, monkeypatch: pytest.MonkeyPatch, clip_norm: int
) -> None:
    import torch

    from training.engine.objective import Objective
    from training.run_dir import checkpoint

    loss, calls = Objective.loss, []

    def spoilt(self: Objective, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:  # the second step of the second epoch, whose loss is as it should be
            outputs.register_hook(lambda gradient: gradient * float("inf"))
        return loss(self, outputs, targets)

    monkeypatch.setattr(Objective, "loss", spoilt)
    options = [*TINY, f"optim.clip_norm={clip_norm}", "train.log_every=99", "train.checkpoint_every=1"]
    run = train(f"data.root={small_folder}", *options)
    message = error(run, 1)
    assert "the gradients, though not the loss, are not finite at step 4 (epoch 2, lr 0.01)" in message
    assert "the last checkpoint is run/checkpoints/last.pt" in message
    state = checkpoint.load(run.run_dir / "checkpoints" / "last.pt")
    assert (state["epoch"], state["batches_done"]) == (1, 1)
    assert all(value.isfinite().all() for value in state["model"].values())
    assert [line["grad_norm"] > 0 for line in run.metrics("train_step")] == [True]


def test_a_folder_that_changed_is_explained(train: Train, small_folder: Path) -> None:
    write_image(small_folder / "val" / "yak" / "0.jpg", 0)
    assert "is a class that" in error(train(f"data.root={small_folder}", *TINY), 2)
    shutil.rmtree(small_folder / "val")
    assert "val is missing" in error(train(f"data.root={small_folder}", *TINY), 2)


def test_a_run_directory_of_something_else_is_left_alone(train: Train, small_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("mine: 1\n")
    for resume in ("auto", "never"):
        message = error(train(f"data.root={small_folder}", *TINY, f"run_dir={other}", f"resume={resume}"), 2)
        assert "no run of this trainer" in message
    assert [(path.name, path.read_text()) for path in other.iterdir()] == [("config.yaml", "mine: 1\n")]


def test_a_checkpoint_of_another_model_is_refused_and_survives(train: Train, small_folder: Path) -> None:
    run = train(f"data.root={small_folder}", *TINY, "train.epochs=1")

    def content() -> dict[str, str]:
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in run.run_dir.rglob("*")
            if path.is_file()
        }

    before = content()
    other = [f"data.root={small_folder}", *TINY, "model.name=resnet34"]
    refused = train(*other)
    error(refused, 2)
    assert "\n  model.name: shufflenet_v2_x0_5 → resnet34\n" in refused.output
    message = error(train(*other, "allow_changes=true"), 1)
    assert "the checkpoint run/checkpoints/last.pt does not fit resnet34" in message
    # A mistake does not cost the former run either.
    error(train("data.root=/nowhere", *TINY, "resume=never"), 2)
    assert content() == before


def test_a_damaged_checkpoint_is_named(train: Train, small_folder: Path) -> None:
    run = train(f"data.root={small_folder}", *TINY, "train.epochs=1")
    for name in ("last.pt", "best.pt"):
        path = run.run_dir / "checkpoints" / name
        path.write_bytes(path.read_bytes()[:1000])
    result = train(f"data.root={small_folder}", *TINY)
    assert "resume=never" in error(result, 1)
    assert "run/checkpoints/last.pt is damaged" in result.output


def test_an_operation_that_is_not_deterministic_is_named(
    train: Train, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No model of torchvision has one on a CPU: the message is that of torch, for adaptive pooling on a GPU.
    from training.engine.objective import Objective

    def refuse(*_: object) -> None:
        raise RuntimeError(
            "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set …"
        )

    monkeypatch.setattr(Objective, "loss", refuse)
    message = error(train(f"data.root={small_folder}", *TINY, "deterministic=true"), 1)
    assert message.startswith("error: deterministic=true: adaptive_avg_pool2d_backward_cuda does not have")


def test_a_process_says_it_too(train_py: Train, small_folder: Path) -> None:
    assert "there is no option train.foo" in error(train_py(f"data.root={small_folder}", "+train.foo=1"), 2)
    assert "did you mean optim.lr" in error(train_py(f"data.root={small_folder}", "train.lrr=1"), 2)
    path = small_folder / "train" / "dog" / "3.jpg"
    path.write_bytes(b"no photo")
    assert str(path) in error(train_py(f"data.root={small_folder}", *TINY, "data.workers=2"), 1)


def test_folders_that_are_not_in_the_weights_order_are_told(train: Train, small_folder: Path, tmp_path: Path) -> None:
    import torch
    import torchvision

    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    weights = ["model.name=resnet18", f"model.weights={path}"]
    evaluation = [f"data.root={small_folder}", *TINY, *weights, "mode=evaluate"]
    message = error(train(*evaluation), 2)
    assert (
        "is for 1,000 classes, and the model is to have 3" in message
        and "or model.head=keep where the folders" in message
    )
    result = train(*evaluation, "model.head=keep")
    assert result.code == 0
    assert "folder 0 is 'cat', class 0 of the weights is n01440764 (tench)" in result.output
    # A run that begins with them tells it too, and its checkpoint knows its own classes from then on.
    result = train(f"data.root={small_folder}", *TINY, *weights, "model.num_classes=1000", "train.epochs=1")
    assert result.code == 0 and "warning: the classes of the data are not those" in result.output
    ours = f"model.weights={result.run_dir}/checkpoints/last.pt"
    evaluate = ["mode=evaluate", "model.name=resnet18", "model.num_classes=1000", ours, "run_dir=other"]
    assert "warning: the classes" not in train(f"data.root={small_folder}", *TINY, *evaluate).output
    for split in ("train", "val"):
        (small_folder / split / "cat").rename(small_folder / split / "zebra")
    output = train(f"data.root={small_folder}", *TINY, *evaluate).output
    assert "folder 0 is 'dog', class 0 of the weights is 'cat'" in output


def test_one_image_in_a_pass_and_batch_norm(train: Train, small_folder: Path) -> None:
    message = error(train(f"data.root={small_folder}", *TINY, "model.name=resnet18", "train.batch_size=1"), 2)
    assert "leaves one image for each pass" in message and "use train.batch_size=2 or more" in message
