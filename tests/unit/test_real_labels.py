"""Labels of another source than the folders: a list of right classes for each photo of ILSVRC2012_val."""

import json
from pathlib import Path
from typing import Any

import pytest

from sources.errors import ConfigError
from training.evaluate.labels import PHOTOS, read_labels


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def lists(**places: list[int]) -> list[list[int]]:
    found: list[list[int]] = [[number % 1000] for number in range(PHOTOS)]
    for place, classes in places.items():
        found[int(place[1:])] = classes
    return found


NAMES = ["n01/ILSVRC2012_val_00000002.JPEG", "n02/ILSVRC2012_val_00050000.JPEG", "ILSVRC2012_val_00000001.jpg"]


def test_photos_are_known_by_their_names(tmp_path: Path) -> None:
    path = written(tmp_path / "real.json", lists(_0=[], _1=[970, 795]))
    assert read_labels(path, 3, NAMES.__getitem__, 1000) == [{970, 795}, {999}, set()]


def test_the_labels_are_read_as_timm_reads_them(tmp_path: Path) -> None:
    import torch

    theirs: Any = pytest.importorskip("timm.data.real_labels").RealLabelsImagenet
    import timm.data

    path = Path(timm.data.__file__).parent / "_info" / "imagenet_real_labels.json"
    names = [f"ILSVRC2012_val_{number + 1:08d}.JPEG" for number in range(PHOTOS)]
    accepted = read_labels(path, PHOTOS, names.__getitem__, 1000)
    assert sum(map(bool, accepted)) == 46837
    logits = torch.randn(2000, 1000, generator=torch.Generator().manual_seed(0))
    reference = theirs(names)
    reference.add_result(logits)
    top = logits.topk(5, dim=1).indices.tolist()
    hits = [any(answer in classes for answer in row) for row, classes in zip(top, accepted, strict=False) if classes]
    assert len(hits) == len(reference.is_correct[5]) and 100 * sum(hits) / len(hits) == pytest.approx(
        reference.get_accuracy(5)
    )


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ([[1]] * 49999, NAMES[0], "has lists for 49,999 photos, and ILSVRC2012_val has 50,000"),
        ({"a": 1}, NAMES[0], "holds a dict, and no list of lists of classes"),
        ("[[1],", NAMES[0], "is not JSON"),
        (lists(_7=[1000]), NAMES[0], "entry 7 is [1000], and should be a list of numbers of classes below 1,000"),
        ([*lists()[:-1], 5], NAMES[0], "entry 49999 is 5, and should be a list"),
        (lists(), "n01440764/mine.jpg", "n01440764/mine.jpg is not named as they are (ILSVRC2012_val_00000001.JPEG"),
        (lists(), "ILSVRC2012_val_00050001.JPEG", "ILSVRC2012_val_00050001.JPEG is not named as they are"),
        (lists(_1=[]), NAMES[0], "has no class for any of the 1 photos"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_sentence(content: Any, name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        read_labels(written(tmp_path / "real.json", content), 1, lambda index: name, 1000)
    assert said in str(raised.value)


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"eval.labels=.*none.json cannot be read: No such file or directory"):
        read_labels(tmp_path / "none.json", 1, NAMES.__getitem__, 1000)
