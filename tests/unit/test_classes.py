"""The order of the classes: a file's, in every form that people have, and a warning where ImageFolder's surprises."""

import json
from pathlib import Path

import pytest

from sources.classes import read_classes, surprise
from sources.errors import ConfigError, DataError
from sources.folder import scan_folder
from sources.splits import SplitOptions, splits_of

NAMES = ["eel", "cat", "dog"]
FORMS = {
    "lines": "eel\r\n\n  cat \ndog\n",
    "with words": "eel a fish\ncat a pet\ndog another\n",
    "with a mark": "\ufeffeel\ncat\ndog",
    "a list": json.dumps(NAMES),
    "a dict": json.dumps({str(number): name for number, name in enumerate(NAMES)}),
    "numbers by name": json.dumps({"dog": 2, "cat": 1, "eel": 0}),
    "of Keras": json.dumps({"0": ["n0", "eel"], "1": ["n1", "cat"], "2": ["n2", "dog"]}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_fixes_the_order_of_the_labels(form: str, small_folder: Path) -> None:
    path = small_folder / "classes.txt"
    path.write_text(FORMS[form])
    said: list[str] = []
    found = splits_of(small_folder, SplitOptions(classes=str(path)), said.append)
    for part, plain in zip(found, scan_folder(small_folder), strict=True):
        manifest = part.manifest
        assert manifest.classes == tuple(NAMES)
        assert [NAMES[label] for label in manifest.labels] == [plain.classes[label] for label in plain.labels]
        assert manifest.sha256() != plain.sha256() and not manifest.problem()
    assert said == []


def refused(path: Path, root: Path) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        splits_of(root, SplitOptions(classes=str(path)), lambda line: None)
    return str(caught.value)


def test_wrong_files_of_classes_are_refused(small_folder: Path) -> None:
    path = small_folder / "classes.txt"
    assert f"{path} cannot be read: No such file" in refused(path, small_folder)
    path.write_text("cat\ndog\n")
    assert f"{path} does not name the class 'eel' of {small_folder}" in refused(path, small_folder)
    path.write_text("cat\n")
    assert "does not name the class 'dog' and 1 more" in refused(path, small_folder)
    path.write_text("cat\ndog\neel\ncat\n")
    assert f"{path} names the class 'cat' twice, as number 0 and 3" in refused(path, small_folder)
    path.write_text("\n \n")
    assert f"{path} names no classes" in refused(path, small_folder)
    path.write_text('["cat", "dog"')
    assert f"{path} begins like JSON, and is not JSON" in refused(path, small_folder)
    for content in ([1, 2], {"0": "cat", "2": "dog"}, [["cat"], ["dog", "x"]], {"cat": 0, "dog": 2}, [[]], [None]):
        path.write_text(json.dumps(content))
        assert f"{path} is not of a known form" in refused(path, small_folder)
    path.write_text("[" * 100_000)
    assert f"{path} begins like JSON, and is not JSON" in refused(path, small_folder)
    path.write_bytes(b"\xff\xfe\xfa")
    assert f"{path} is not a text in UTF-8" in refused(path, small_folder)


def test_classes_without_a_folder_are_told_and_keep_their_numbers(small_folder: Path) -> None:
    path = small_folder / "classes.txt"
    path.write_text("ape\ncat\ncow\ndog\neel\n")
    said: list[str] = []
    train, _ = splits_of(small_folder, SplitOptions(classes=str(path)), said.append)
    assert sorted(set(train.manifest.labels.tolist())) == [1, 3, 4] and len(train.manifest.classes) == 5
    assert said == [
        f"warning: 2 of the 5 classes of {path}, like 'ape', are not in {small_folder}: the model has an output for "
        "each, which is never right"
    ]


def test_folders_with_numbers_are_warned_of_where_their_order_surprises(small_folder: Path) -> None:
    for split in ("train", "val"):
        for name, number in (("cat", "1"), ("dog", "10"), ("eel", "2")):
            (small_folder / split / name).rename(small_folder / split / number)
    said: list[str] = []
    splits_of(small_folder, SplitOptions(), said.append)
    assert len(said) == 1 and "number 1 from 0 on is '10', and not '2'" in said[0]
    path = small_folder / "classes.txt"
    path.write_text("1\n2\n10\n")
    assert splits_of(small_folder, SplitOptions(classes=str(path)), said.append)[0].manifest.classes == ("1", "2", "10")
    assert len(said) == 1
    assert not any(surprise(names, "") for names in (["0", "1", "2"], ["01", "02", "10"], ["1", "10", "x"], []))


def test_the_column_that_has_the_folders_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}))
    assert read_classes(path, ["goldfish"]) == ("tench", "goldfish")
    assert read_classes(path, ["n01443537"]) == read_classes(path, ["other"]) == ("n01440764", "n01443537")
