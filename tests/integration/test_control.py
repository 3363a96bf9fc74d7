"""What one controls of a run: when it is validated, when it ends, what is frozen, a profile, and more epochs."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY, ForkedTrain, Result
from training.report.metrics import IntervalMetrics, Metrics
from training.run_dir import checkpoint

Train = Callable[..., Result]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The acc@1 of the coming validations, in percent, whatever the model answers."""
    coming: list[float] = []
    metrics = IntervalMetrics.metrics.fget  # type: ignore[attr-defined]

    def changed(tally: IntervalMetrics) -> Metrics:
        real = metrics(tally)
        return real if real.count != 15 or not coming else Metrics(real.loss, coming[0], 100.0, real.count)

    monkeypatch.setattr(IntervalMetrics, "metrics", property(changed))
    from training.run_dir.records import RunDirectory

    validation = RunDirectory.validation

    def next_one(self: RunDirectory, epoch: int, step: int, tally: IntervalMetrics) -> None:
        validation(self, epoch, step, tally)
        coming.pop(0)

    monkeypatch.setattr(RunDirectory, "validation", next_one)
    return coming


def state(run: Result, name: str = "last.pt") -> dict[str, Any]:
    return checkpoint.load(run.run_dir / "checkpoints" / name)


def test_it_is_validated_every_so_many_epochs_and_after_the_last(train: Train, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *TINY, "train.epochs=5", "optim.schedule=constant"]
    whole = train(*words, "run_dir=whole")
    assert [line["epoch"] for line in whole.metrics("val_epoch")] == [0, 1, 2, 3, 4]
    some = train(*words, "run_dir=some", "eval.every=2", "train.keep=9")
    assert [line["epoch"] for line in some.metrics("val_epoch")] == [1, 3, 4]
    assert [line["epoch"] for line in some.metrics("train_epoch")] == [0, 1, 2, 3, 4]
    assert some.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert some.summary()["best_acc1"] == max(line["acc1"] for line in some.metrics("val_epoch"))
    assert state(some, "best.pt")["epoch"] in (2, 4, 5)
    assert len(list((some.run_dir / "checkpoints").glob("epoch-*.pt"))) == 5


def test_a_run_that_is_validated_rarely_goes_on_as_if_it_had_not_been_killed(train: Train, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *TINY, "optim.schedule=constant", "eval.every=3"]
    whole = train(*words, "train.epochs=4", "run_dir=whole")
    for epochs in (1, 2):  # each stands for a kill after that epoch; the first ends with a validation of its own
        train(*words, f"train.epochs={epochs}", "run_dir=part", *(["eval.every=9"] if epochs == 1 else []))
    part = train(*words, "train.epochs=4", "run_dir=part")
    assert part.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert "train.epochs: 2 → 4. optim.schedule=constant has the same rates" in part.output
    assert [line["epoch"] for line in part.metrics("val_epoch")] == [0, 1, 2, 3]


def test_training_ends_after_validations_without_a_better_one(
    train: Train, small_folder: Path, ended: list[float]
) -> None:
    words = [f"data.root={small_folder}", *TINY, "train.epochs=9", "optim.schedule=constant", "train.stop_after=2"]
    ended += [20.0, 30.0, 30.0, 10.0, 50.0]
    run = train(*words)
    assert run.code == 0 and ended == [50.0]
    assert (
        "train.stop_after=2: 2 validations without a better acc@1 than 30.00, so training ends after epoch 4 of 9"
        in (run.output)
    )
    assert (run.summary()["epochs"], run.summary()["best_acc1"], state(run, "best.pt")["epoch"]) == (4, 30.0, 2)
    again = train(*words)
    assert again.code == 0 and "nothing to do" in again.output and "ended by train.stop_after: raise it" in again.output
    ended[:] = [31.0, 5.0, 5.0, 5.0]
    longer = train(*words, "train.stop_after=3", "train.epochs=8")
    assert longer.summary()["epochs"] == 8 and state(longer)["since_best"] == 3
    assert "so training ends" not in longer.output  # it is the last epoch's own end


def test_a_frozen_part_stays_bit_for_bit_with_its_running_statistics(train: Train, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *TINY, "train.epochs=1"]
    begun = train(*words, "run_dir=begun")
    weights = f"model.weights={begun.run_dir}/checkpoints/last.pt"
    before = state(begun)["model"]
    for freeze, moved in (("head", {"fc.weight", "fc.bias"}), ("conv1.*, stage2.*", None)):
        run = train(*words, f"run_dir=frozen-{moved is None}", weights, f"train.freeze='{freeze}'")
        assert f"train.freeze={freeze}: " in run.output and run.code == 0
        after = state(run)["model"]
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        if moved is None:
            assert changed and not any(name.startswith(("conv1.", "stage2.")) for name in changed)
            assert "stage3.0.branch1.1.running_mean" in changed
        else:
            assert changed == moved
        assert len(state(run)["optimizer"]["state"]) < len(list(before))


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ("conv1.*,layer7.*", "no parameter of the model is called 'layer7.*'; there are"),
        ("*", "train.freeze=* leaves nothing to train"),
    ],
)
def test_a_freeze_that_cannot_be_is_a_sentence(train: Train, small_folder: Path, freeze: str, expected: str) -> None:
    run = train(f"data.root={small_folder}", *TINY, f"train.freeze='{freeze}'")
    assert run.code == 2 and expected in run.output and "Traceback" not in run.output


def test_a_profile_is_a_trace_of_steps(train: Train, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *TINY, "train.epochs=3"]
    run = train(*words, "train.profile=2")
    with gzip.open(run.run_dir / "profile" / "trace.json.gz", "rt") as file:
        trace = json.load(file)
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert {"ProfilerStep#3", "ProfilerStep#4"} <= names and "ProfilerStep#5" not in names
    assert "aten::convolution" in names and "profile/trace.json.gz" in run.output
    assert [path.name for path in (run.run_dir / "profile").iterdir()] == ["trace.json.gz"]
    plain = train(*words, "run_dir=plain")
    assert plain.summary()["state_sha256"] == run.summary()["state_sha256"]
    assert not (plain.run_dir / "profile").exists()
    short = train(*words, "run_dir=short", "train.batch_size=18", "train.epochs=1", "train.profile=2")
    assert "train.profile: no trace, since the run took fewer than 3 steps" in short.output


def test_more_epochs_of_a_schedule_that_falls_are_another_run(train: Train, small_folder: Path) -> None:
    words = [f"data.root={small_folder}", *TINY, "optim.schedule=cosine"]
    train(*words, "train.epochs=2", "train.checkpoint_every=1")
    at_end = train(*words, "train.epochs=2")
    assert "With optim.schedule=cosine the learning rate of every step depends on train.epochs" in at_end.output
    refused = train(*words, "train.epochs=4")
    assert refused.code == 2 and "\n  train.epochs: 2 → 4\n" in refused.output
    assert "the next step, 6, would have lr 0.005 instead of 0, after steps at the rates of 2 epochs" in refused.output
    allowed = train(*words, "train.epochs=4", "allow_changes=true")
    assert allowed.code == 0 and allowed.summary()["epochs"] == 4
    assert "would have lr 0.005 instead of 0" in allowed.output


@pytest.mark.parametrize("optim", ["lamb", "timm/adan"])
def test_a_model_and_an_optimizer_of_timm_go_on_as_if_they_had_not_been_killed(
    train: Train, small_folder: Path, optim: str
) -> None:
    words = [f"data.root={small_folder}", *TINY, "model.name=timm/test_vit", f"optim.name={optim}", "optim.clip_norm=1"]
    words += ["data.val_resize=null", "model.drop_path=0.2", "optim.decay_norms_and_biases=false"]
    words += ["optim.schedule=constant", "optim.reference_batch=24", "optim.layer_decay=0.7"]
    whole = train(*words, "train.epochs=2", "run_dir=whole")
    assert "lr 0.01 of the recipe's batch 24 becomes 0.005 for 12" in whole.output
    assert "taken over from timm/test_vit: data.val_resize=33, data.interpolation=bicubic" in whole.output
    train(*words, "train.epochs=1", "run_dir=part")
    part = train(*words, "train.epochs=2", "run_dir=part")
    assert part.summary()["state_sha256"] == whole.summary()["state_sha256"]
    recorded = json.loads((whole.run_dir / "environment.json").read_text())
    assert recorded["versions"]["timm"] and state(whole)["config"]["data"]["val_resize"] == 33


def test_two_processes_train_a_frozen_model_as_one_does(fork_train: ForkedTrain, small_folder: Path) -> None:
    """Frozen BatchNorm has no statistics of a process's share, so that all but the order of sums is equal."""
    words = [
        f"data.root={small_folder}",
        *TINY,
        "train.epochs=3",
        "train.freeze=head",
        "eval.every=2",
        "optim.name=lamb",
    ]
    words += ["optim.clip_norm=0.5", "optim.decay_norms_and_biases=false", "train.profile=2"]
    one, two = (fork_train(*words, f"run_dir=with-{world}", world=world) for world in (1, 2))
    for kind in ("train_epoch", "val_epoch"):
        assert [line["epoch"] for line in one.metrics(kind)] == [line["epoch"] for line in two.metrics(kind)]
        for left, right in zip(one.metrics(kind), two.metrics(kind), strict=True):
            assert left["loss"] == pytest.approx(right["loss"], rel=1e-4)
            assert left.get("grad_norm", 0) == pytest.approx(right.get("grad_norm", 0), rel=1e-4)
    assert (two.run_dir / "profile" / "trace.json.gz").exists()
