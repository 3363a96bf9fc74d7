"""A local folder: the order and labels of torchvision's ImageFolder, and a sentence for what is wrong with it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import ImageFolder
from torchvision.datasets import folder as torchvision_folder

from etl import Key, Spec, transform
from sources.errors import ConfigError, DataError
from sources.folder import FolderReader, scan_folder
from sources.manifest import IMG_EXTENSIONS, Manifest
from sources.samples import SampleDataset
from tests.conftest import write_image


def same_as_imagefolder(root: Path) -> None:
    for split, manifest in zip(("train", "val"), scan_folder(root), strict=True):
        theirs = ImageFolder(str(root / split))
        ours = [(f"{root / split}/{manifest.name(i)}", int(manifest.labels[i])) for i in range(len(manifest))]
        assert ours == theirs.samples
        assert list(manifest.classes) == theirs.classes
        assert manifest.sizes.tolist() == [os.stat(path).st_size for path, _ in theirs.samples]


def test_torchvisions_extensions_count_as_images() -> None:
    assert IMG_EXTENSIONS == torchvision_folder.IMG_EXTENSIONS


def test_order_and_labels_are_imagefolders(small_folder: Path) -> None:
    (small_folder / "train" / "cat" / "notes.txt").write_text("left out")
    (small_folder / "train" / "cat" / "b.gif").write_bytes(b"left out")
    write_image(small_folder / "train" / "cat" / "deep" / "er" / "x.JPEG", 1)
    write_image(small_folder / "train" / "dog" / "Zoë ü+%20?#.PnG.jpg", 2)
    write_image(small_folder / "train" / "dog" / "with space.jpeg", 3)
    same_as_imagefolder(small_folder)


def test_order_and_labels_on_real_photos(hymenoptera: Path) -> None:
    same_as_imagefolder(hymenoptera)
    train, val = scan_folder(hymenoptera)
    assert (len(train), len(val)) == (244, 153)  # 245 files in train/, one of them a GIF
    names = [train.name(index) for index in range(len(train))]
    assert "ants/formica.jpeg" in names and not any(name.endswith(".gif") for name in names)


def test_the_hash_depends_on_order_labels_and_content_not_on_names(small_folder: Path, tmp_path: Path) -> None:
    first = scan_folder(small_folder)[0].sha256()
    renamed = tmp_path / "renamed"
    shutil.copytree(small_folder, renamed)
    for path in (renamed / "train").rglob("*.jpg"):
        path.rename(path.with_name(f"z{path.name}"))
    assert scan_folder(renamed)[0].sha256() == first
    write_image(renamed / "train" / "cat" / "zz.jpg", 5)
    assert scan_folder(renamed)[0].sha256() != first


def test_a_manifest_is_sorted_bytewise_and_keeps_odd_names() -> None:
    names = ["b/1.jpg", "a/ü.jpg", "a/z.jpg", "a-b/0.jpg"]
    manifest = Manifest.build([(name.encode(), label, 7) for label, name in enumerate(names)], names)
    assert [manifest.name(index) for index in range(4)] == sorted(names, key=str.encode)
    assert manifest.labels.tolist() == [names.index(name) for name in sorted(names, key=str.encode)]


def test_a_damaged_manifest_is_refused_or_unharmed() -> None:
    manifest = Manifest.build([(b"%d.jpg" % number, number % 3, 7) for number in range(40)], ["a", "b", "c"])
    content = manifest.to_bytes()
    refused = 0
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 0x21
        for bad in (damaged, content[:at]):
            try:
                read = Manifest.from_bytes(bytes(bad))
            except ValueError:
                refused += 1
            else:  # a time or an attribute of zip's own
                assert read.sha256() == manifest.sha256() and read.classes == manifest.classes
                assert [read.name(index) for index in range(40)] == [manifest.name(index) for index in range(40)]
    assert refused > 1.5 * len(content)


def test_a_batch_holds_the_samples_of_its_keys(small_folder: Path) -> None:
    manifest, _ = scan_folder(small_folder)
    dataset = SampleDataset(FolderReader(small_folder / "train", manifest), manifest, Spec.train(32), seed=9)
    batch = dataset.__getitems__([(0, 5), (3, 30)])
    assert batch.images.shape == (2, 32, 32, 3) and batch.images.dtype == torch.uint8
    assert batch.labels.tolist() == [0, 2] and batch.indices.tolist() == [5, 30]
    for row, (epoch, index) in zip(batch.images, [(0, 5), (3, 30)], strict=True):
        data = (small_folder / "train" / manifest.name(index)).read_bytes()
        assert np.array_equal(row, transform(data, Spec.train(32), Key(9, epoch, index)))
    assert batch.counts.local == 2 and batch.counts.etl == 0


def wrong(root: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        scan_folder(root)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path / 'nope'} is not a folder" in wrong(tmp_path / "nope")
    assert f"{tmp_path / 'train'} is missing" in wrong(tmp_path)
    (tmp_path / "train").mkdir()
    assert f"{tmp_path / 'val'} is missing" in wrong(tmp_path)
    (tmp_path / "val").mkdir()
    assert "has no class folders" in wrong(tmp_path)


def test_an_empty_class_is_named(small_folder: Path) -> None:
    (small_folder / "train" / "fox").mkdir()
    assert f"{small_folder / 'train' / 'fox'} holds no images" in wrong(small_folder)


def test_a_class_that_train_lacks_is_named(small_folder: Path) -> None:
    write_image(small_folder / "val" / "yak" / "0.jpg", 0)
    assert f"{small_folder / 'val' / 'yak'} is a class that {small_folder / 'train'} does not have" in wrong(
        small_folder
    )


def test_val_may_lack_a_class_and_keeps_trains_labels(small_folder: Path) -> None:
    shutil.rmtree(small_folder / "val" / "cat")
    assert set(scan_folder(small_folder)[1].labels.tolist()) == {1, 2}


@pytest.mark.parametrize("content", ["text", "truncated", "vanished"])
def test_a_bad_file_is_named_with_its_path(small_folder: Path, content: str) -> None:
    manifest, _ = scan_folder(small_folder)
    path = small_folder / "train" / "cat" / "0.jpg"
    if content == "text":
        path.write_text("not a photo")
    elif content == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    else:
        path.unlink()
    dataset = SampleDataset(FolderReader(small_folder / "train", manifest), manifest, Spec.train(32), seed=0)
    with pytest.raises(DataError, match=str(path)):
        dataset.__getitems__([(0, 0)])
