"""Photos of a validation with the model's answers, as loggers show them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import TINY, Result
from training.engine import shown
from training.engine.shown import Shown
from training.report.answered import Answered, sheet
from training.run_dir.records import RunDirectory

BLUE = (0, 0, 255)


def answered(side: int, truth: str = "cat", answer: str = "dog", right: bool = False) -> Answered:
    return Answered(np.full((side, side, 3), BLUE, np.uint8), truth, answer, 0.875, right)


def test_a_caption_says_the_class_and_the_answer() -> None:
    assert answered(8).caption == "true: cat, predicted: dog (0.88)"
    assert answered(8, "cat", "cat", right=True).lines == ("true: cat", "predicted: cat (0.88)")
    assert answered(8, "a\nb\x1b").lines[0] == "true: a\\x0ab\\x1b"


@pytest.mark.parametrize(("side", "factor"), [(32, 6), (160, 1), (224, 1)])
def test_a_sheet_has_each_photo_and_room_for_its_caption(side: int, factor: int) -> None:
    picture = sheet([answered(side, "cat" * 100, "ñandú \udce9 " * 30)] * 5)
    blue = (picture == BLUE).all(2)
    assert blue.sum() == 5 * (factor * side) ** 2
    assert (blue.any(0).sum(), blue.any(1).sum()) == (4 * factor * side, 2 * factor * side)
    assert not (picture == 255).all(2)[~blue].all()  # something is written beside the photos
    assert (picture[:, -1] == 255).all() and (picture[-1] == 255).all()  # and nothing beyond the edge


def test_each_validation_shows_the_same_photos_with_the_models_answers(
    train: Any, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[list[Answered]] = []
    validation = RunDirectory.validation

    def recording(self: RunDirectory, epoch: int, step: int, tally: Any) -> None:
        recorded.append(tally.photos)
        validation(self, epoch, step, tally)

    monkeypatch.setattr(RunDirectory, "validation", recording)
    options = [f"data.root={small_folder}", *TINY]
    assert train(*options).code == 0
    first, second = recorded
    assert len(first) == shown.SHOWN and {one.truth for one in first} <= {"cat", "dog", "eel"}
    assert [one.truth for one in first] == [one.truth for one in second]
    assert all((one.photo == other.photo).all() for one, other in zip(first, second, strict=True))
    assert len({one.photo.tobytes() for one in first}) == shown.SHOWN
    for one in first + second:
        assert one.right == (one.truth == one.answer) and 1 / 3 <= one.probability <= 1
    recorded.clear()
    assert train(*options, "seed=1", "run_dir=other").code == 0
    assert {one.photo.tobytes() for one in recorded[0]} != {one.photo.tobytes() for one in first}


def test_photos_change_no_result_and_are_not_kept_where_nobody_looks(
    train: Any, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_photos: Result = train(f"data.root={small_folder}", *TINY, "run_dir=with")
    monkeypatch.setattr(Shown, "_answered", lambda *_: pytest.fail("a photo was kept"))
    without: Result = train(f"data.root={small_folder}", *TINY, "log.tensorboard=false", "run_dir=without")
    assert without.code == 0, without.output
    assert with_photos.summary()["state_sha256"] == without.summary()["state_sha256"]
