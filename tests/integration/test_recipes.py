"""Runs with everything that modern recipes add: mixtures, erasing, averaged weights, sizes and views."""

import functools
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import BATCH_NORM, TINY, ForkedTrain, Result, Zygote, make_small_folder
from tests.integration.test_aistore import embedded
from tests.integration.test_repeatable import MOMENTS, assert_the_same
from training.run_dir.checkpoint import state_sha256

Train = Callable[..., Result]

MIXED = ["train.mixup=0.2", "train.cutmix=1", "train.random_erasing=0.3", "train.ema_decay=0.5", "train.ema_every=2"]
EVERYTHING = [
    *(*TINY, BATCH_NORM, *MIXED, "train.loss=bce", "train.label_smoothing=0.1", "data.sizes=['0:32','1:48','2:40']"),
    *("train.repeated_augmentation=2", "train.accumulate=3", "train.epochs=3", "optim.warmup_epochs=0.5"),
    *("train.checkpoint_every=2", "train.log_every=1", "data.fingerprint=full"),
    *("data.augment=ta_wide", "data.augment_interpolation=bilinear", "data.jitter=0.2", "optim.clip_norm=1"),
]
"""On the small folder: 9 steps of 12 in 3 epochs, with checkpoints as those of ``test_repeatable``."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_folder(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def run_whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory, small: Path) -> Callable[[], Result]:
    """Undisturbed, with everything; once."""

    @functools.cache
    def call() -> Result:
        result = ForkedTrain(zygote, tmp_path_factory.mktemp("whole") / "cwd")(f"data.root={small}", *EVERYTHING)
        assert result.code == 0, result.output
        return result

    return call


def assert_equal_with_averages(result: Result, whole: Result) -> None:
    assert_the_same(result, whole)
    for name in ("ema_sha256", "ema_acc1", "best_weights"):
        assert result.summary()[name] == whole.summary()[name], name


def test_averaged_weights_are_validated_and_the_better_ones_are_the_best(train: Train, small_folder: Path) -> None:
    result = train(f"data.root={small_folder}", *TINY, *MIXED, "train.loss=bce", "train.log_every=1")
    assert result.code == 0, result.output
    assert "acc@1 and acc@5 of training count the label of a sample itself" in result.output
    assert {line["acc_counts"] for line in result.metrics("train_step")} == {"own label"}
    validations, summary = result.metrics("val_epoch"), result.summary()
    assert all("acc_counts" not in line for line in validations)
    last: dict[str, Any] = torch.load(result.run_dir / "checkpoints" / "last.pt", weights_only=True)
    assert list(last["ema"]) == list(last["model"])
    assert summary["ema_sha256"] == state_sha256(last["ema"]) != summary["state_sha256"] == state_sha256(last["model"])
    assert summary["ema_acc1"] == validations[-1]["ema_acc1"] == last["validation"]["ema_acc1"]
    places = (("acc1", "model"), ("ema_acc1", "ema"))
    figures = [(line[name], weights) for line in validations for name, weights in places]
    assert summary["best_acc1"] == max(figures)[0] and (summary["best_acc1"], summary["best_weights"]) in figures
    assert result.output.count("averaged weights  loss") == 2
    weights = result.run_dir / "checkpoints" / "last.pt"
    words = [f"data.root={small_folder}", *TINY, "mode=evaluate", f"model.weights={weights}", "run_dir=alone"]
    alone = train(*words)
    assert alone.summary()["acc1"] == max(summary["acc1"], summary["ema_acc1"])
    assert "at its last validation" in alone.output


def test_a_run_without_the_validation_of_its_averages_has_them_all_the_same(train: Train, small_folder: Path) -> None:
    both, one = (
        train(f"data.root={small_folder}", *TINY, "train.ema_decay=0.5", f"eval.ema={ema}", f"run_dir={ema}")
        for ema in ("auto", "off")
    )
    for name in ("state_sha256", "ema_sha256", "acc1"):
        assert both.summary()[name] == one.summary()[name]
    assert "ema_acc1" not in one.summary() and one.summary()["best_weights"] == "model"
    assert not any("ema_acc1" in line for line in one.metrics("val_epoch"))


@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.long if n >= 1 else ()) for n in range(20)])
def test_killed_with_everything_on(
    fork_train: ForkedTrain, run_whole: Callable[[], Result], small: Path, seed: int, number: int
) -> None:
    """Twice in each run; every third reads through ETLs."""
    draw = random.Random(f"{seed}/{number}")
    words = embedded(small) if number % 3 == 2 else [f"data.root={small}"]
    for place, moment in enumerate(draw.sample([name for name in MOMENTS if name != "during ETL start"], 2)):
        at = draw.randint(1, MOMENTS[moment])
        print(f"killed at {moment!r}, number {at}")
        killed = fork_train(*words, *EVERYTHING, accident=moment, number=at)
        if killed.code == 0 and place > 0:
            break  # less was left to do than that
        assert killed.code == -signal.SIGKILL, killed.output
    finished = killed if killed.code == 0 else fork_train(*words, *EVERYTHING)
    assert_equal_with_averages(finished, run_whole())


@pytest.mark.parametrize("transform", ["etl", pytest.param("client", marks=pytest.mark.long)])
def test_a_bucket_gives_the_folders_run_with_everything_on(
    fork_train: ForkedTrain, run_whole: Callable[[], Result], small: Path, transform: str
) -> None:
    result = fork_train(*embedded(small, f"data.transform={transform}"), *EVERYTHING)
    assert_equal_with_averages(result, run_whole())
    made = "etl" if transform == "etl" else "local"
    assert result.summary()["samples_by_source"][made] == 3 * (36 + 15)


def test_two_processes_have_the_stream_of_one_with_everything_on(
    fork_train: ForkedTrain, run_whole: Callable[[], Result], small: Path
) -> None:
    two = fork_train(f"data.root={small}", *EVERYTHING, world=2)
    assert two.code == 0, two.output
    assert two.fingerprints() == run_whole().fingerprints()
    assert (two.run_dir / "stream.bin").read_bytes() == (run_whole().run_dir / "stream.bin").read_bytes()


@pytest.mark.parametrize(
    ("world", "accumulate"),
    [(2, 1), pytest.param(1, 3, marks=pytest.mark.long), pytest.param(2, 3, marks=pytest.mark.long)],
)
def test_mixed_batches_of_any_split_give_the_same_weights(
    fork_train: ForkedTrain, small: Path, world: int, accumulate: int
) -> None:
    """In float64, of a model without batch statistics and dropout: a batch that is mixed otherwise would tell."""
    words = [f"data.root={small}", *TINY, *MIXED, "model.name=squeezenet1_1", "data.sizes=['0:64','1:80']"]
    words += ["data.val_image_size=64", "data.val_resize=72", "train.repeated_augmentation=2"]
    patches: Any = {"patches": ["without dropout", "float64"]}
    one = fork_train(*words, "run_dir=one", **patches)
    other = fork_train(*words, f"train.accumulate={accumulate}", "run_dir=other", world=world, **patches)
    assert one.code == other.code == 0, one.output + other.output
    assert other.fingerprints() == one.fingerprints()
    ours, theirs = (torch.load(run.run_dir / "checkpoints" / "last.pt", weights_only=True) for run in (one, other))
    for weights in ("model", "ema"):
        difference = max((ours[weights][name] - theirs[weights][name]).abs().max().item() for name in ours[weights])
        print(f"{weights}: {difference:.2g}")
        assert difference <= 1e-12


@pytest.mark.long
def test_mixtures_and_averages_compile(train: Train, small_folder: Path) -> None:
    sides = [f"data.{name}=48" for name in ("image_size", "val_image_size", "val_resize")]
    words = [*TINY, *MIXED, *sides, "train.compile=true", "model.name=squeezenet1_1", "train.epochs=1"]
    result = train(f"data.root={small_folder}", *words)
    assert result.code == 0, result.output
    assert result.summary()["ema_sha256"] != result.summary()["state_sha256"]


def test_what_a_recipe_cannot_be_is_a_sentence(train: Train, small_folder: Path) -> None:
    cases = {
        "train.cutmix=1 train.accumulate=4": "has 3, so one sample has no partner: choose a multiple of 8.",
        "train.ema_decay=0.9 train.ema_every=32 train.epochs=1": "train.ema_decay=0.9 averages nothing: 1 epochs of 3",
    }
    for words, expected in cases.items():
        result = train(f"data.root={small_folder}", *TINY, *words.split())
        assert result.code == 2 and expected in result.output, result.output
        assert not (result.run_dir / "checkpoints").exists()
    warned = train(f"data.root={small_folder}", *TINY, "train.ema_decay=0.999", "run_dir=warned")
    assert (
        "warning: train.ema_decay=0.999 is slow for a run that averages 5 times: 100 % of the result" in warned.output
    )
