"""Labels in a file, for photos that lie in no class folders: every form, and a sentence for what does not fit."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sources.errors import ConfigError, DataError
from sources.folds import HeldOut
from sources.labels import read_labels
from sources.manifest import Manifest
from sources.splits import SplitOptions, splits_of
from tests.conftest import write_image
from tests.unit.test_overrides import typed

CLASSES = ("cat", "dog", "eel")


def flatten(split: Path) -> dict[str, str]:
    """Move the photos of a split out of their class folders; name → class."""
    found = {}
    for path in sorted(split.glob("*/*.jpg")):
        name = f"{path.parent.name}_{path.stem}_{split.name}.JPEG"
        path.rename(split / name)
        found[name] = path.parent.name
    for name in CLASSES:
        (split / name).rmdir()
    return found


def of(root: Path, options: SplitOptions, with_train: bool = True) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Name → class of both splits, and what was said."""
    said: list[str] = []

    def named(manifest: Manifest) -> dict[str, str]:
        return {manifest.name(index): manifest.classes[manifest.labels[index]] for index in range(len(manifest))}

    train, val = splits_of(root, options, said.append, with_train)
    return named(train.manifest), named(val.manifest), said


@pytest.fixture
def flat_val(small_folder: Path) -> dict[str, str]:
    return flatten(small_folder / "val")


FORMS: dict[str, Callable[[str, str], str]] = {
    "spaces": lambda name, label: f"{name} {label}",
    "tabs": lambda name, label: f"{name}\t{label}",
    "commas": lambda name, label: f"{name}, {label}",
    "quotes": lambda name, label: f'"{name}","{label}"',
    "paths": lambda name, label: f"val/{name} {label}",
    "paths from elsewhere": lambda name, label: f"/data/imagenet/val/{name},{label}",
    "without an extension": lambda name, label: f"{name.removesuffix('.JPEG')},{label}",
    "numbers": lambda name, label: f"{name} {CLASSES.index(label)}",
}


@pytest.mark.parametrize("heading", ["", "image,label\n"])
@pytest.mark.parametrize("form", FORMS)
def test_a_flat_val_has_the_labels_of_the_file(
    form: str, heading: str, small_folder: Path, flat_val: dict[str, str]
) -> None:
    path = small_folder / "labels.txt"
    lines = [FORMS[form](name, label) for name, label in flat_val.items()]
    heading = heading.replace(",", "\t" if form == "tabs" else " ") if "," not in lines[0] else heading
    path.write_text(heading + "\n".join(reversed(lines)))
    train, val, said = of(small_folder, SplitOptions(labels=str(path)))
    assert val == flat_val and len(train) == 36
    expected = [f"{path} gives numbers of classes, which are counted from 0 on: 0 is cat, 2 is eel"]
    assert said == (expected if form == "numbers" else [])


def test_kaggles_form_is_read(small_folder: Path, flat_val: dict[str, str]) -> None:
    path = small_folder / "LOC_val_solution.csv"
    rows = "".join(
        f"{name.removesuffix('.JPEG')},{label} 1 2 3 4 {label} 5 6 7 8\n" for name, label in flat_val.items()
    )
    path.write_text(f"ImageId,PredictionString\n{rows}")
    assert of(small_folder, SplitOptions(labels=str(path)))[1] == flat_val
    path.write_text(f"ImageId,PredictionString\n{rows}{rows}")
    with pytest.raises(DataError, match=r"names cat_0_val twice, in the lines 2 and 17"):
        read_labels(path)
    path.write_text("ImageId,PredictionString\nx\n")
    with pytest.raises(DataError, match=r"line 2 of LOC_val_solution.csv of .* is not of the form"):
        read_labels(path)


def write(path: Path, labels: dict[str, str]) -> SplitOptions:
    path.write_text("".join(f"{name} {label}\n" for name, label in labels.items()))
    return SplitOptions(labels=str(path))


def test_evaluation_needs_no_train(small_folder: Path, flat_val: dict[str, str]) -> None:
    options = write(small_folder / "labels.txt", flat_val)
    shutil.rmtree(small_folder / "train")
    assert of(small_folder, options, with_train=False)[:2] == ({}, flat_val)
    with pytest.raises(ConfigError, match="train is missing"):
        of(small_folder, options)


def test_both_splits_may_lie_flat_with_one_file(small_folder: Path) -> None:
    train, val = flatten(small_folder / "train"), flatten(small_folder / "val")
    options = write(small_folder / "labels.txt", train | val)
    assert of(small_folder, options)[:2] == (train, val)
    assert of(small_folder, options, with_train=False)[:2] == ({}, val)
    plain, labelled = scan_sha(small_folder, options), None
    classes = small_folder / "classes.txt"
    classes.write_text("eel\ncow\ncat\ndog\n")
    found = splits_of(small_folder, SplitOptions(classes=str(classes), labels=options.labels), lambda line: None)
    labelled = found[1].manifest
    assert labelled.classes == ("eel", "cow", "cat", "dog") and labelled.sha256() != plain
    assert {labelled.name(at): labelled.classes[labelled.labels[at]] for at in range(len(labelled))} == val


def scan_sha(root: Path, options: SplitOptions) -> str:
    return splits_of(root, options, lambda line: None)[1].manifest.sha256()


def test_one_flat_folder_is_divided_by_names(small_folder: Path) -> None:
    photos = flatten(small_folder / "train")
    labels = write(small_folder / "labels.txt", photos).labels
    options = SplitOptions(HeldOut(fold="1/3"), labels=labels)
    train, val, _ = of(small_folder / "train", options)
    assert train | val == photos and not train.keys() & val.keys() and len(val) > 4
    shutil.rmtree(small_folder / "val")
    assert of(small_folder, options)[:2] == (train, val)


def test_photos_below_folders_are_told_apart_by_their_paths(small_folder: Path) -> None:
    root = small_folder / "val"
    shutil.rmtree(root)
    for number, name in enumerate(("x.jpg", "a/x.jpg", "b/x.jpg")):
        write_image(root / name, number)
    labels = {"x.jpg": "cat", "a/x.jpg": "dog", "val/b/x.jpg": "eel"}
    val = of(small_folder, write(small_folder / "labels.txt", labels))[1]
    assert val == {"x.jpg": "cat", "a/x.jpg": "dog", "b/x.jpg": "eel"}


def refused(root: Path, options: SplitOptions, with_train: bool = True) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        of(root, options, with_train)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_labels_that_do_not_fit_the_photos_are_refused(small_folder: Path, flat_val: dict[str, str]) -> None:
    path = small_folder / "labels.txt"
    some = dict(list(flat_val.items())[:-2])
    assert refused(small_folder, write(path, some)).startswith(
        f"{small_folder}/val/eel_3_val.JPEG has no label in {path} (and 1 more): add a line"
    )
    extra = write(path, flat_val | {"gone.JPEG": "cat", "lost.JPEG": "dog"})
    unknown = f"gone.JPEG, in line 16 of {path}, is not a photo in {small_folder}/val (and 1 more)"
    assert refused(small_folder, extra).startswith(unknown)
    assert of(small_folder, extra, with_train=False)[2] == [f"warning: {unknown}; they are left out"]
    path.write_text("".join(f"{name} {label}\n" for name, label in [*flat_val.items(), *list(flat_val.items())[:1]]))
    twice = SplitOptions(labels=str(path))
    assert f"{path} names cat_0_val.JPEG twice, in the lines 1 and 16: remove one" in refused(small_folder, twice)
    assert "cat_0_val.JPEG twice, in the lines 1 and 16" in refused(
        small_folder, write(path, flat_val | {"val/cat_0_val.JPEG": "cat"})
    )
    bird = write(path, flat_val | {"dog_1_val.JPEG": "bird"})
    assert f"dog_1_val.JPEG, in line 7 of {path}, is of the class 'bird', which is none of the 3" in refused(
        small_folder, bird
    )
    numbers = write(path, dict.fromkeys(flat_val, "3"))
    assert "is of the class number 3, and classes have numbers from 0 to 2" in refused(small_folder, numbers)


def test_a_row_that_is_two_photos_is_refused(small_folder: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(small_folder / split)
        write_image(small_folder / split / "x.jpg", 1)
    options = write(small_folder / "labels.txt", {"x.jpg": "cat"})
    assert "x.jpg, in line 1 of " in (said := refused(small_folder, options)) and " is two photos, " in said
    both = write(small_folder / "labels.txt", {"train/x.jpg": "cat", "val/x.jpg": "dog"})
    assert of(small_folder, both)[:2] == ({"x.jpg": "cat"}, {"x.jpg": "dog"})


def test_files_that_are_no_labels_are_refused(small_folder: Path, flat_val: dict[str, str]) -> None:
    path = small_folder / "labels.txt"
    options = SplitOptions(labels=str(path))
    for content, why in (
        ("", f"{path} is empty"),
        ("x.jpg\ny.jpg\n", f"line 1 of {path} is not a photo's name and its class: it has 1 column"),
        ("x.jpg,a,b\ny.jpg,a,c\n", "it has 3 columns. data.multilabel=true takes several classes"),
        ('x.jpg,"a\ny.jpg,b\n', f"{path} has a quotation mark that opens"),
        ("x.jpg," + "a" * 200_000, f"{path} cannot be read as a table: field larger than"),
    ):
        path.write_text(content)
        assert why in refused(small_folder, options)
    path.unlink()
    assert f"{path} cannot be read: No such file" in refused(small_folder, options)


def test_labels_are_for_photos_without_class_folders(small_folder: Path) -> None:
    options = SplitOptions(labels="labels.txt")
    for root, chosen in (
        (small_folder, options),
        (small_folder / "val", SplitOptions(HeldOut(fold="0/2"), labels="l")),
    ):
        assert "is for photos that lie in no class folder, and those of" in refused(root, chosen)
    photos = flatten(small_folder / "train")
    assert f"the photos of {small_folder / 'val'} lie in class folders and those of" in refused(
        small_folder, write(small_folder / "l.txt", photos)
    )


def test_numbers_without_names_are_the_labels_themselves(small_folder: Path, flat_val: dict[str, str]) -> None:
    shutil.rmtree(small_folder / "train")
    numbers = {name: str((1, 4, 10)[CLASSES.index(label)]) for name, label in flat_val.items()}
    train, val, said = of(small_folder, write(small_folder / "labels.txt", numbers), with_train=False)
    assert val == numbers and train == {}
    assert "counted from 0 on: 0 is 0, 10 is 10" in said[0]
    assert "8 of these classes have no photo; the first of them is number 0" in said[1]
    many = write(small_folder / "labels.txt", dict.fromkeys(flat_val, "100000"))
    assert "is of the class number 100000, and classes have numbers from 0 to 99,999" in refused(
        small_folder, many, with_train=False
    )


SEVERAL = {"cat_0": ["cat", "dog"], "cat_1": [], "dog_0": ["dog"], "eel_0": ["cat", "eel"], "eel_1": ["dog", "cat"]}
SEVERAL_FORMS = {
    "spaces": "".join(f"{name}.jpg {' '.join(said)}\n" for name, said in SEVERAL.items()),
    "commas": "".join(f"{name}.jpg,{','.join(said)}\n" for name, said in SEVERAL.items()),
    "semicolons": "image,tags\n" + "".join(f"{name}.jpg,{'; '.join(said)}\n" for name, said in SEVERAL.items()),
    "columns": "image,cat,dog,eel\n"
    + "".join(f"{name}.jpg,{','.join('01'[c in said] for c in CLASSES)}\n" for name, said in SEVERAL.items()),
}


@pytest.mark.parametrize("form", SEVERAL_FORMS)
def test_a_photo_may_have_several_classes(form: str, tmp_path: Path) -> None:
    for number, name in enumerate(SEVERAL):
        write_image(tmp_path / ("val" if name == "eel_1" else "train") / f"{name}.jpg", number)
    path = tmp_path / "labels.csv"
    path.write_text(SEVERAL_FORMS[form])
    train, val = splits_of(tmp_path, SplitOptions(labels=str(path), multilabel=True), lambda line: None)
    assert train.manifest.sets is not None and val.manifest.sets is not None
    assert np.array_equal(train.manifest.sets, val.manifest.sets) and len(train.manifest.sets) == 4
    for manifest in (train.manifest, val.manifest):
        assert manifest.sets is not None and manifest.classes == CLASSES
        for at in range(len(manifest)):
            row = manifest.sets[manifest.labels[at]]
            assert {CLASSES[number] for number in np.flatnonzero(row)} == set(SEVERAL[manifest.name(at)[:-4]])
    assert train.manifest.counts().tolist() == [2, 2, 1]


def test_the_heading_of_a_table_gives_the_order_of_the_classes(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "train", "val")):
        write_image(tmp_path / split / f"{number}.jpg", number)
    path = tmp_path / "labels.csv"
    path.write_text("photo,eel,cat,dog\n0.jpg,1,0,0\n1.jpg,0,1,1\n2.jpg,1,1,0\n")
    _, val = splits_of(tmp_path, SplitOptions(labels=str(path), multilabel=True), lambda line: None)
    assert val.manifest.sets is not None and val.manifest.classes == ("eel", "cat", "dog")
    assert val.manifest.sets.astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert val.manifest.labels.tolist() == [1]


def test_a_part_of_photos_with_several_classes_keeps_the_table(tmp_path: Path) -> None:
    for number in range(30):
        write_image(tmp_path / f"{number}.jpg", number)
    path = tmp_path / "labels.csv"
    path.write_text("".join(f"{number}.jpg {'a b' if number % 2 else 'b'}\n" for number in range(30)))
    options = SplitOptions(HeldOut(fold="0/3"), labels=str(path), multilabel=True)
    train, val = (part.manifest for part in splits_of(tmp_path, options, lambda line: None))
    assert train.sets is not None and val.sets is not None and np.array_equal(train.sets, val.sets)
    assert len(train) + len(val) == 30 and (train.counts() + val.counts()).tolist() == [15, 30]
    one = write(path, {f"{number}.jpg": "b" for number in range(30)})
    alone = splits_of(
        tmp_path, SplitOptions(HeldOut(fold="0/3"), labels=one.labels, multilabel=True), lambda line: None
    )
    assert alone[1].manifest.sha256() != val.sha256()


def test_tables_of_several_classes_that_are_odd_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    for content, why in (
        ("x.jpg,1,0\ny.jpg,0,1\n", f"line 1 of {path} names no classes"),
        ("image,cat,cat\ny.jpg,0,1\n", f"line 1 of {path} names 'cat' twice"),
        ("image,cat,dog\ny.jpg,0,2\n", f"line 2 of {path} must have a photo's name and then 0 or 1 for each of the 2"),
        ("image,cat,dog\ny.jpg,0\n", f"line 2 of {path} must have"),
    ):
        path.write_text(content)
        with pytest.raises(DataError) as caught:
            read_labels(path, several=True)
        assert why in str(caught.value)


def test_options_of_labels_that_contradict_each_other_are_refused() -> None:
    for words, why in (
        (["data.root=/x", "data.multilabel=true", "train.loss=bce"], "data.multilabel=true needs data.labels"),
        (["data.root=/x", "data.multilabel=true", "data.labels=l"], "which is the loss of train.loss=bce"),
        (["data=aistore", "data.labels=l"], "data.labels=l is for the photos of a folder"),
        (["data=synthetic", "data.balance=classes"], "needs one class for each sample, and with data=synthetic"),
        (
            ["data=synthetic", "train.class_weights=balanced"],
            "needs one class for each sample, and with data=synthetic",
        ),
        (
            ["data.root=/x", "data.balance=classes", "train.class_weights=balanced"],
            "both make up for classes of differ",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            typed(words)
        assert why in str(caught.value)
    several = ["data.root=/x", "data.labels=l", "data.multilabel=true", "train.loss=bce"]
    assert typed(several).data.split == SplitOptions(labels="l", multilabel=True)
    for word in ("data.balance=classes", "train.class_weights=balanced"):
        with pytest.raises(ConfigError, match=r"with data.multilabel=true a photo has several: leave it out"):
            typed([*several, word])
