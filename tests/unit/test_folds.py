"""What is held out of one folder: by names alone, disjoint and whole, and a sentence where nothing is left."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from sources.errors import ConfigError
from sources.folder import scan_folder
from sources.folds import HeldOut
from sources.manifest import Manifest
from sources.splits import SplitOptions, splits_of
from tests.conftest import write_image
from tests.unit.test_overrides import typed


def many(count: int, skip: str = "") -> Manifest:
    rows = [(f"{skip}{'ab'[number % 2]}/{number}.jpg".encode(), number % 2, 7 + number) for number in range(count)]
    return Manifest.build(rows, ["a", "b"])


def names(manifest: Manifest) -> set[str]:
    return {manifest.name(index) for index in range(len(manifest))}


def parts(held_out: HeldOut, whole: Manifest, skip: int = 0) -> tuple[set[str], set[str]]:
    train, val = held_out.parts(whole, "here", lambda line: None, skip=skip)
    return names(train), names(val)


def test_folds_are_disjoint_and_cover_everything() -> None:
    whole = many(400)
    folds = [parts(HeldOut(fold=f"{number}/5"), whole) for number in range(5)]
    assert set.union(*(val for _, val in folds)) == names(whole)
    assert sum(len(val) for _, val in folds) == len(whole)
    assert all(train == names(whole) - val and 50 < len(val) < 110 for train, val in folds)
    assert parts(HeldOut(val_split=0.2), whole) == folds[0]


def test_a_share_is_that_of_the_hashes_of_the_names() -> None:
    whole = many(400)
    hashed = {
        name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") for name in names(whole)
    }
    assert parts(HeldOut(val_split=0.3), whole)[1] == {name for name, place in hashed.items() if place < 0.3 * 2**64}
    _, val = parts(HeldOut(val_split=0.3), many(400, "photos/train/"), skip=len("photos/train/"))
    assert {name.removeprefix("photos/train/") for name in val} == parts(HeldOut(val_split=0.3), whole)[1]


def test_a_split_stays_as_it_is_when_samples_are_added() -> None:
    before, after = (parts(HeldOut(fold="2/5"), many(count)) for count in (300, 500))
    assert before[0] <= after[0] and before[1] <= after[1]


def test_a_part_of_a_manifest_has_the_samples_in_their_order_and_a_hash_of_its_own() -> None:
    whole = many(30)
    chosen = np.arange(30) % 3 == 0
    part = whole.part(chosen)
    assert [part.name(index) for index in range(10)] == [whole.name(index) for index in range(0, 30, 3)]
    assert part.labels.tolist() == whole.labels[::3].tolist() and part.sizes.tolist() == whole.sizes[::3].tolist()
    assert part.classes == whole.classes and not part.problem()
    assert len({whole.sha256(), part.sha256(), whole.part(~chosen).sha256()}) == 3
    assert len(whole.part(np.zeros(30, np.bool_))) == 0 and part.names_of(np.arange(10))[3] == part.name(3)


@pytest.mark.parametrize("fold", ["5/5", "0/1", "0", "x/5", "-1/5", "0/5/5", "1/0"])
def test_a_fold_that_is_none_is_refused(fold: str) -> None:
    with pytest.raises(ConfigError, match=r"data.fold takes K/N, such as 0/5"):
        typed([f"data.fold={fold}"])


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.val_split=0.1 and data.fold=0/5 exclude each other"):
        typed(["data.root=/x", "data.val_split=0.1", "data.fold=0/5"])
    with pytest.raises(ConfigError, match=r"those of data=synthetic have none"):
        typed(["data=synthetic", "data.fold=0/5"])
    with pytest.raises(ConfigError, match=r"data.val_bucket=ais://b names another validation"):
        typed(["data=aistore", "data.val_split=0.1", "data.val_bucket=ais://b"])
    with pytest.raises(ConfigError, match="below 1|less than 1"):
        typed(["data.root=/x", "data.val_split=1"])


def test_a_split_of_nothing_and_a_class_without_training_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.val_split=1e-06 holds out none of the 20 samples of here"):
        parts(HeldOut(val_split=1e-6), many(20))
    with pytest.raises(ConfigError, match=r"data.val_split=0.999999 leaves none of the 20 samples of here to train on"):
        parts(HeldOut(val_split=0.999999), many(20))
    whole = many(40)
    held = next(iter(parts(HeldOut(fold="0/5"), whole)[1]))
    rare = Manifest.build([(name.encode(), int(name == held), 7) for name in names(whole)], ["common", "rare"])
    with pytest.raises(ConfigError, match=r"data.fold=0/5 leaves the class rare of here without a sample to train on"):
        parts(HeldOut(fold="0/5"), rare)
    train, val = HeldOut(fold="0/5").parts(rare, "here", lambda line: None, with_train=False)  # to evaluate alone
    assert len(train) == 0 and names(val) == parts(HeldOut(fold="0/5"), whole)[1]


def test_a_class_that_is_never_validated_is_told() -> None:
    said: list[str] = []
    whole = Manifest.build([(b"a/%d" % n, 0, 1) for n in range(50)] + [(b"b/0", 1, 1)], ["a", "b"])
    place = int.from_bytes(hashlib.blake2b(b"b/0", digest_size=8).digest(), "big")
    HeldOut(fold=f"{1 - (place >> 63)}/2").parts(whole, "here", said.append)
    assert "holds out no sample of 1 of the 2 classes, like b" in said[0]


def splits(root: Path, said: list[str] | None = None, **options: str) -> tuple[set[str], set[str], Path]:
    held_out = HeldOut(**({"val_split": 0.25} | options))  # type: ignore[arg-type]
    say = (said if said is not None else []).append
    train, val = splits_of(root, SplitOptions(held_out), say)
    assert train.folder == val.folder
    return names(train.manifest), names(val.manifest), train.folder


def test_the_folder_is_that_of_the_classes_or_holds_train_alone(small_folder: Path) -> None:
    own = splits(small_folder / "train")
    shutil.rmtree(small_folder / "val")
    assert splits(small_folder) == own and own[2] == small_folder / "train"
    (small_folder / "test" / "odd").mkdir(parents=True)
    said: list[str] = []
    assert splits(small_folder, said) == own
    assert f"so {small_folder / 'test'} is left out" in said[0]


def test_a_class_may_be_called_train(small_folder: Path) -> None:
    root = small_folder / "train"
    (root / "eel").rename(root / "train")
    assert splits(root)[2] == root and {name.split("/")[0] for name in splits(root)[0]} == {"cat", "dog", "train"}


def test_a_folder_with_a_val_of_its_own_is_refused(small_folder: Path) -> None:
    for train in (small_folder / "train", small_folder / "val"):
        with pytest.raises(
            ConfigError, match=rf"{small_folder} has a val/, and data.val_split=0.25 divides one folder in"
        ):
            splits(small_folder)
        shutil.rmtree(train)
    with pytest.raises(ConfigError, match=r"nowhere is not a folder: it must hold a folder for each class"):
        splits(small_folder / "nowhere")


def test_a_missing_val_is_told_how_to_do_without(small_folder: Path) -> None:
    shutil.rmtree(small_folder / "val")
    with pytest.raises(ConfigError, match=r"val is missing.*data.val_split=0.1 takes a tenth of train/"):
        scan_folder(small_folder)


def test_photos_added_to_a_folder_move_no_other(small_folder: Path) -> None:
    before = splits(small_folder / "train")
    for number in range(20, 30):
        write_image(small_folder / "train" / "cat" / f"{number}.jpg", number)
    after = splits(small_folder / "train")
    assert before[0] < after[0] and before[1] <= after[1]


def test_five_folds_of_real_photos(hymenoptera: Path) -> None:
    parts_of = [splits(hymenoptera / "train", fold=f"{number}/5", val_split=0.0) for number in range(5)]  # type: ignore[arg-type]
    validated = [val for _, val, _ in parts_of]
    assert sum(map(len, validated)) == len(set.union(*validated)) == 244
    assert all({name.split("/")[0] for name in part} == {"ants", "bees"} for pair in parts_of for part in pair[:2])
