"""Weights know their classes by number alone: folders in another order are told."""

import re
from pathlib import Path

import pytest

from training.model.class_order import imagenet_classes, joined, order_warning
from training.model.weights import Weights

WNIDS = [wnid for wnid, _ in imagenet_classes()]
WORDS = [word for _, word in imagenet_classes()]


def warning(folders: list[str], num_classes: int = 1000) -> str | None:
    return order_warning("model.weights=IMAGENET1K_V1", None, num_classes, folders)


def test_the_list_is_that_of_imagenet() -> None:
    assert sorted(set(WNIDS)) == WNIDS and len(WNIDS) == 1000 and all(re.fullmatch(r"n\d{8}", wnid) for wnid in WNIDS)
    assert [(WNIDS[i], WORDS[i]) for i in (0, 207, 999)] == [
        ("n01440764", "tench"),
        ("n02099601", "golden retriever"),
        ("n15075141", "toilet tissue"),
    ]


@pytest.mark.parametrize(
    "folders",
    [
        WNIDS,
        WORDS,
        WNIDS[:2],
        [f"{wnid}_{word.replace(' ', '_')}" for wnid, word in imagenet_classes()],
        [word.replace(" ", "_").lower() for word in WORDS],
        [f"{number:04d}" for number in range(1000)],
        [f"{number:03d}" for number in range(1000)],
        [],
    ],
    ids=lambda folders: f"{len(folders)} {folders[:1]}",
)
def test_folders_in_the_order_of_the_weights_are_fine(folders: list[str]) -> None:
    assert warning(folders) is None


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (sorted(map(str, range(1000))), "folder 2 is '10', class 2 of the weights is n01484850 (great white shark)"),
        (sorted(map(str, range(1000))), "pad the numbers with zeros, 0000 to 0999"),
        (sorted(WORDS), "folder 0 is 'Afghan hound', class 0 of the weights is n01440764 (tench)"),
        (sorted(WORDS), "(Afghan hound is n02088094)"),
        ([WNIDS[1], WNIDS[0], *WNIDS[2:]], "folder 0 is 'n01443537'"),
        ([WNIDS[1], WNIDS[0], *WNIDS[2:]], "in the order of their WordNet ids"),
        ([f"{n:04d}" for n in range(1, 1001)], "folder 0 is '0001', class 0"),
        (["ants", "bees"], "folder 1 is 'bees', class 1 of the weights is n01443537 (goldfish). Name the folders by"),
        (WNIDS[100:110], "all 1,000 are needed"),
        (["n00000001", *WNIDS[1:]], "folder 0 is 'n00000001', class 0 of the weights is n01440764 (tench). Name"),
    ],
)
def test_folders_in_another_order_are_named(folders: list[str], words: str) -> None:
    text = warning(folders)
    assert text is not None and text.startswith("warning: ") and words in text
    assert len(text) < 900 and text.count("folder ") <= 3


def test_numbers_as_text_are_listed_in_part() -> None:
    text = warning(sorted(map(str, range(1000)))) or ""
    assert "folder 0 " not in text and re.search(r"; and 9\d\d more\. Names are sorted", text)


def test_a_checkpoint_of_ours_is_compared_name_by_name() -> None:
    ours = Weights(Path("a.pt"), {}, plain=False, environment={"model": {"classes": joined(["ant", "bee"])}})
    assert order_warning("a.pt", ours, 2, ["ant", "bee"]) is None
    assert order_warning("a.pt", ours, 1000, ["ant", "bee"]) is None
    assert "folder 0 is 'bee', class 0 of the weights is 'ant'" in (
        order_warning("a.pt", ours, 2, ["bee", "ant"]) or ""
    )
    assert "folder 2 is 'cat', class 2 of the weights is not there" in (
        order_warning("a.pt", ours, 2, ["ant", "bee", "cat"]) or ""
    )
    without = Weights(Path("a.pt"), {}, plain=False)
    assert order_warning("a.pt", without, 2, ["bee", "ant"]) is None
