"""Which class of the model a folder is, and which classes are possible answers."""

from pathlib import Path
from typing import Any

import pytest

from sources.errors import ConfigError
from training.config.train_options import ModelConfig
from training.evaluate.classes import classes_of_weights, match, preset_classes
from training.model.class_order import Classes, imagenet_classes, imagenet_numbers, joined
from training.model.weights import Weights

WNIDS = [wnid for wnid, _ in imagenet_classes()]


def of_run(*classes: str) -> Weights:
    return Weights(Path("a.pt"), {}, plain=False, environment={"model": {"classes": joined(classes)}})


def of_folders(
    folders: list[str], chosen: str = "auto", outputs: int = 1000, weights: Weights | None = None
) -> Classes:
    found = match(chosen, folders, weights, outputs)
    assert found is not None
    return found


@pytest.mark.parametrize("preset", ["r", "a"])
def test_presets_are_timms_lists(preset: str) -> None:
    info = Path(pytest.importorskip("timm").__file__).parent / "data" / "_info"
    numbers = [int(line) for line in (info / f"imagenet_{preset}_indices.txt").read_text().split()]
    assert preset_classes(preset) == tuple(numbers) and len(numbers) == 200


def test_folders_that_sort_as_text_are_known_by_number() -> None:
    folders = sorted(map(str, range(1000)))
    found = of_folders(folders)
    assert folders[2] == "10" and found.of_label[2] == 10
    assert found.of_label == tuple(int(name) for name in folders) and found.possible == tuple(range(1000))
    assert "'10' is class 10" in found.sentence and "possible answers are all 1,000" in found.sentence


@pytest.mark.parametrize("folders", [WNIDS, [f"{number:04d}" for number in range(1000)], WNIDS[:3]])
def test_folders_in_the_order_of_the_weights_are_taken_as_they_are(folders: list[str]) -> None:
    found = of_folders(folders)
    assert found.is_plain and found.sentence == "" and found.names[0] == "n01440764 tench"


@pytest.mark.parametrize("preset", ["r", "a"])
@pytest.mark.parametrize("chosen", ["auto", "data", "preset"])
def test_the_authors_folders_are_a_mask(preset: str, chosen: str) -> None:
    folders = [WNIDS[number] for number in preset_classes(preset)]
    found = of_folders(folders, preset if chosen == "preset" else chosen)
    assert found.of_label == found.possible == preset_classes(preset)
    assert "the other 800 logits are left out (eval.classes=all keeps them)" in found.sentence


def test_all_classes_may_be_possible_for_some_folders() -> None:
    folders = [WNIDS[number] for number in preset_classes("a")]
    found = of_folders(folders, "all")
    assert found.of_label == preset_classes("a") and len(found.possible) == 1000
    some = of_folders([WNIDS[5], f"{WNIDS[900]}_words"])
    assert some.of_label == (5, 900) and len(some.possible) == 1000


def test_a_part_of_the_preset_keeps_all_its_classes() -> None:
    found = of_folders([WNIDS[number] for number in preset_classes("r")[:150]], "r")
    assert len(found.of_label) == 150 and found.possible == preset_classes("r")


def test_classes_of_a_run_of_ours_are_known_by_name() -> None:
    ours = of_run("ant", "bee", "cat")
    found = of_folders(["ant", "cat"], outputs=3, weights=ours)
    assert found.of_label == (0, 2) and found.possible == (0, 1, 2) and found.names == ("ant", "bee", "cat")
    assert of_folders(["ant", "cat"], "data", 3, ours).possible == (0, 2)
    assert match("auto", ["ant", "dog"], ours, 3) is None
    assert of_folders(sorted(map(str, range(1000))), weights=of_run(*WNIDS)).of_label[2] == 10
    assert match("auto", sorted(map(str, range(12))), None, 12) is None  # ImageFolder's order, if anybody's


def test_a_file_lists_classes(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(f"{WNIDS[7]}\n\n 3\n{WNIDS[9]}\n")
    assert of_folders([WNIDS[3], WNIDS[9]], str(path)).possible == (3, 7, 9)


@pytest.mark.parametrize(
    ("chosen", "folders", "outputs", "said"),
    [
        ("r", WNIDS[:10], 10, "eval.classes=r is a list of 200 of ImageNet's 1,000 classes, and the model has 10"),
        ("a", [WNIDS[0]], 1000, "folder 'n01440764' of the data is not one of the 200 classes of ImageNet-A"),
        ("data", ["cat's", "dog's"], 1000, "needs to know which class a folder is, and the folders of the data (cat's"),
        ("x.txt", WNIDS[:3], 1000, "eval.classes=x.txt is neither auto, all, data, r, a nor a file that lists classes"),
        ("1000", WNIDS[:3], 1000, "line 1: '1000' is not a class of the model, which has 1,000"),
        ("dragon", WNIDS[:3], 1000, "line 1: 'dragon' is not a class of the model"),
        ("", WNIDS[:3], 1000, "lists no classes"),
        ("0", WNIDS[:3], 1000, "folder 'n01443537' of the data is not one of the classes that"),
    ],
)
def test_a_choice_that_does_not_fit_is_a_sentence(
    chosen: str, folders: list[str], outputs: int, said: str, tmp_path: Path
) -> None:
    if chosen not in ("r", "a", "data", "x.txt"):
        path = tmp_path / "classes.txt"
        path.write_text(chosen)
        chosen = str(path)
    with pytest.raises(ConfigError) as raised:
        match(chosen, folders, None, outputs)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("chosen", "folders", "options", "classes"),
    [
        ("auto", WNIDS[:200], {"weights": "IMAGENET1K_V1"}, 1000),
        ("auto", ["cat", "dog"], {"weights": "IMAGENET1K_V1"}, 2),
        ("auto", WNIDS[:200], {"weights": "IMAGENET1K_V1", "num_classes": 300}, 300),
        ("auto", [], {"weights": "IMAGENET1K_V1"}, 0),
    ],
)
def test_weights_keep_their_classes_for_folders_of_imagenet(
    chosen: str, folders: list[str], options: dict[str, Any], classes: int
) -> None:
    assert classes_of_weights(ModelConfig("resnet18", **options), chosen, folders) == classes


def test_names_of_folders_are_numbers_of_imagenet() -> None:
    assert imagenet_numbers([WNIDS[3], WNIDS[1]]) == [3, 1]
    assert imagenet_numbers(["golden_retriever", "Tench"]) == [207, 0]
    assert imagenet_numbers(["1000"]) is None and imagenet_numbers(["1", "01"]) is None
    assert imagenet_numbers(["n01440764", "cat's"]) is None
