"""A folder of one's own, from the command line: one folder in two, labels in a file, rare classes, several classes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY, Result, write_image

Train = Callable[..., Result]


def rarer(root: Path) -> None:
    """Leave three of the twelve eels to train on."""
    for path in sorted((root / "train" / "eel").iterdir())[3:]:
        path.unlink()


def test_one_folder_is_divided_and_a_run_goes_on_with_the_same_part_alone(train: Train, small_folder: Path) -> None:
    words = [*TINY, f"data.root={small_folder / 'train'}", "run_dir=run"]
    first = train(*words, "data.fold=0/3", "train.epochs=1")
    assert first.code == 0, first.output
    said = f"of the 36 samples of {small_folder / 'train'} are the validation, by their names' hashes"
    assert f"data.fold=0/3: 14 {said}" in first.output
    again = train(*words, "data.fold=0/3", "train.epochs=2")
    assert again.code == 0, again.output
    other = train(*words, "data.fold=1/3", "train.epochs=3")
    assert other.code == 2 and "data.fold: 0/3 → 1/3" in other.output and "data set val.sha256" in other.output
    alone = train(
        *TINY, "mode=evaluate", f"data.root={small_folder / 'train'}", "data.fold=0/3", "run_dir=alone",
        f"model.weights={again.run_dir}/checkpoints/last.pt",
    )  # fmt: skip
    assert alone.code == 0, alone.output
    assert alone.summary()["loss"] == pytest.approx(again.summary()["loss"])


def test_a_bucket_is_divided_like_the_folder(train: Train, small_folder: Path) -> None:
    words = [*TINY, "data.fold=1/3", "train.epochs=1", "data.fingerprint=full"]
    folder = train(*words, f"data.root={small_folder / 'train'}", "run_dir=folder")
    embedded = [f"data.embedded_root={small_folder}", "data=aistore", "data.endpoint=embedded", "data.transform=client"]
    bucket = train(*words, *embedded, "run_dir=bucket")
    assert folder.code == bucket.code == 0, folder.output + bucket.output
    assert folder.fingerprints() == bucket.fingerprints()
    assert folder.summary()["state_sha256"] == bucket.summary()["state_sha256"]


def test_a_bucket_has_its_labels_in_the_order_of_a_file(train: Train, small_folder: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("eel\ncat\ncow\ndog\n")
    words = [*TINY, "train.epochs=1", "data.fingerprint=full", f"data.classes={classes}"]
    folder = train(*words, f"data.root={small_folder}", "run_dir=folder")
    embedded = [f"data.embedded_root={small_folder}", "data=aistore", "data.endpoint=embedded", "data.transform=client"]
    bucket = train(*words, *embedded, "run_dir=bucket")
    assert folder.code == bucket.code == 0, folder.output + bucket.output
    assert folder.fingerprints() == bucket.fingerprints() and "4 classes" in bucket.output
    assert "like 'cow', are not in" in folder.output and "like 'cow', are not in" in bucket.output


@pytest.mark.parametrize("words", [["data.balance=classes"], ["train.class_weights=balanced"]], ids=["order", "loss"])
def test_rare_classes_count_alike_and_a_run_goes_on_exactly(train: Train, small_folder: Path, words: list[str]) -> None:
    rarer(small_folder)
    common = [*TINY, f"data.root={small_folder}", "data.fingerprint=full"]
    plain = train(*common, "run_dir=plain")
    whole = train(*common, *words, "run_dir=whole")
    assert train(*common, *words, "run_dir=parts", "train.epochs=1").code == 0
    parts = train(*common, *words, "run_dir=parts")
    cut = train(*common, *words, "run_dir=cut", "train.accumulate=2")
    for result in (plain, whole, parts, cut):
        assert result.code == 0, result.output
    assert whole.summary()["state_sha256"] == parts.summary()["state_sha256"] != plain.summary()["state_sha256"]
    assert whole.fingerprints() == parts.fingerprints() == cut.fingerprints()
    assert (whole.fingerprints() == plain.fingerprints()) == (words[0] == "train.class_weights=balanced")
    other = train(*common, "run_dir=whole", "train.epochs=3")
    assert other.code == 2 and f"{words[0].split('=')[0]}: {words[0].split('=')[1]} → none" in other.output


def test_a_flat_validation_is_evaluated_without_training_photos(
    train: Train, small_folder: Path, tmp_path: Path
) -> None:
    trained = train(*TINY, f"data.root={small_folder}", "run_dir=run", "train.epochs=1")
    weights = f"model.weights={trained.run_dir}/checkpoints/last.pt"
    rows = []
    for path in sorted((small_folder / "val").glob("*/*.jpg")):
        name = f"{path.parent.name}-{path.name}"
        (tmp_path / "flat" / "val").mkdir(parents=True, exist_ok=True)
        path.rename(tmp_path / "flat" / "val" / name)
        rows.append(f"{name},{path.parent.name}\n")
    (tmp_path / "labels.csv").write_text("".join(rows))
    words = [*TINY, "mode=evaluate", weights, f"data.root={tmp_path / 'flat'}", "run_dir=flat"]
    flat = train(*words, f"data.labels={tmp_path / 'labels.csv'}")
    assert flat.code == 0, flat.output
    assert flat.summary()["loss"] == pytest.approx(trained.summary()["loss"])
    (tmp_path / "labels.csv").write_text("".join(rows[1:]))
    lacking = train(*words, f"data.labels={tmp_path / 'labels.csv'}")
    assert lacking.code == 2 and f"cat-0.jpg has no label in {tmp_path / 'labels.csv'}" in lacking.output
    without = train(*words)
    assert without.code == 2 and "data.labels=FILE" in without.output


def test_several_classes_are_trained_on_and_judged_by_mean_average_precision(train: Train, tmp_path: Path) -> None:
    rows = ["photo,red,round,striped\n"]
    for number in range(40):
        split = "train" if number < 28 else "val"
        write_image(tmp_path / "data" / split / f"{number}.jpg", number)
        rows.append(f"{split}/{number}.jpg,{number % 2},{number // 2 % 2},{int(number % 7 == 0)}\n")
    (tmp_path / "labels.csv").write_text("".join(rows))
    words = [
        *TINY, f"data.root={tmp_path / 'data'}", f"data.labels={tmp_path / 'labels.csv'}", "data.multilabel=true",
        "train.loss=bce", "train.mixup=0.2", "train.ema_decay=0.5",
    ]  # fmt: skip
    result = train(*words, "run_dir=run")
    assert result.code == 0, result.output
    lines, summary = result.metrics("val_epoch"), result.summary()
    best = max(max(line["mean_ap"], line["ema_mean_ap"]) for line in lines)
    assert len(lines) == 2 and 0 < best <= 100 and summary["best_mean_ap"] == best
    assert summary["mean_ap"] == lines[-1]["mean_ap"] and "best_acc1" not in summary
    assert f"mAP {summary['mean_ap']:6.2f}" in result.output and f"done: mAP {summary['mean_ap']:.2f}" in result.output
    assert torch.load(result.run_dir / "checkpoints" / "best.pt", weights_only=True)["best_acc1"] == best
    alone = train(*words, "mode=evaluate", "run_dir=alone", f"model.weights={result.run_dir}/checkpoints/last.pt")
    assert alone.code == 0, alone.output
    assert alone.summary()["best_mean_ap"] == alone.summary()["mean_ap"] == pytest.approx(summary["mean_ap"])
