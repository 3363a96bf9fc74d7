"""Tar shards in one's own training loop: the samples of the folder, from a disk, from a bucket and from an ETL."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from aistore_data import ImageDataset
from aistore_data.client.access import Access
from aistore_data.client.sdk import make_client
from aistore_data.dataset import image_dataset
from aistore_data.embedded import EmbeddedAIS
from aistore_data.etls import lifecycle
from aistore_data.upload.__main__ import main as upload
from etl.sample import CorruptSample
from etl.spec import Spec
from scripts.make_shards import main as make_shards
from sources.errors import ClusterError, ConfigError, DataError, ObjectError
from tests.conftest import PROJECT, make_small_folder

SPEC = Spec.train(32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, ``small``, and its shards, ``shards``."""
    root = tmp_path_factory.mktemp("data")
    make_small_folder(root / "small")
    assert make_shards([str(root / "small"), str(root / "shards"), "--samples", "10", "--workers", "1"]) == 0
    return root


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAIS]:
    """A server with the photos in ais://photos and the shards in ais://shards."""
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as server:
        yield server


@pytest.fixture(scope="module")
def endpoint(root: Path, server: EmbeddedAIS) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIS_AUTHN_TOKEN", server.token)
        for folder, bucket in (("small", "ais://photos"), ("shards", "ais://shards")):
            assert upload([str(root / folder), bucket, "--endpoint", server.endpoint, "--workers", "1"]) == 0
        yield server.endpoint


@pytest.fixture
def shards(root: Path, tmp_path: Path) -> Path:
    """The shards, to be changed."""
    shutil.copytree(root / "shards", tmp_path / "shards", ignore=shutil.ignore_patterns(".imagenet-ais"))
    return tmp_path / "shards"


def batches(dataset: ImageDataset, **options: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    dataset.set_epoch(1)
    return [(images, labels) for images, labels in DataLoader(dataset, 12, **options)]


def equal(some: list[tuple[torch.Tensor, torch.Tensor]], others: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    pairs = zip(some, others, strict=True)
    return all(one[0].equal(other[0]) and one[1].equal(other[1]) for one, other in pairs)


def test_samples_are_those_of_the_objects(root: Path, endpoint: str, server: EmbeddedAIS) -> None:
    client = make_client(Access(server.endpoint, server.token))
    lifecycle.ensure(client, "own-train", "train", lifecycle.EtlSettings(num_workers=1), print)
    expected = batches(ImageDataset(endpoint, "ais://photos", spec=SPEC, seed=4))
    local = ImageDataset.of_shards(root / "shards", spec=SPEC, seed=4)
    bucket = ImageDataset(endpoint, "ais://shards", spec=SPEC, seed=4, layout="shards")
    etl = ImageDataset(endpoint, "ais://shards", etl_name="own-train", spec=SPEC, seed=4, layout="shards")
    assert local.classes == bucket.classes == etl.classes == ("cat", "dog", "eel") and len(etl) == 36
    for dataset in (local, bucket, etl):
        assert equal(batches(dataset), expected)
    local.set_epoch(0)
    assert not local[0][0].equal(expected[0][0][0])


def test_workers_have_the_samples_too(root: Path, endpoint: str) -> None:
    expected = batches(ImageDataset.of_shards(root / "shards", spec=SPEC, seed=4))
    workers = {"num_workers": 1, "multiprocessing_context": "forkserver"}
    assert equal(batches(ImageDataset.of_shards(root / "shards", spec=SPEC, seed=4), **workers), expected)
    assert equal(
        batches(ImageDataset(endpoint, "ais://shards", spec=SPEC, seed=4, layout="shards"), **workers), expected
    )


def test_an_etl_is_not_asked_for_shards_in_parts(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches(ImageDataset(endpoint, "ais://shards", spec=SPEC, seed=4, layout="shards"))
    real = image_dataset.read_shards
    in_parts = frozenset(f"train/train-{number:06}.tar" for number in range(4))
    monkeypatch.setattr(image_dataset, "read_shards", lambda *args, **words: (real(*args, **words)[0], in_parts))
    monkeypatch.setattr(ImageDataset, "_asked_of", lambda self, name: "nobody is asked")
    dataset = ImageDataset(endpoint, "ais://shards", etl_name="x", spec=SPEC, seed=4, layout="shards")
    assert equal(batches(dataset), expected)


def test_an_etl_that_knows_no_shards_is_refused(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_dataset, "knows_policy", lambda *args: True)
    monkeypatch.setattr(image_dataset, "knows_shards", lambda *args: False)
    with pytest.raises(ClusterError, match=r"ETL old runs .* does not know tar shards\. Start one"):
        ImageDataset(endpoint, "ais://shards", etl_name="old", layout="shards")


@pytest.mark.parametrize("form", ["root", "folder", "pattern", "list", "info"])
def test_places_of_shards(shards: Path, form: str) -> None:
    where: dict[str, Path | str] = {
        "root": shards,
        "folder": shards / "val",
        "pattern": f"{shards}/val/val-{{000000..000001}}.tar",
        "list": shards / "val" / "index.json",
        "info": shards,
    }
    if form == "info":
        names = [f"val/val-{number:06}.tar" for number in range(2)]
        info = {"splits": {"validation": {"filenames": names, "shard_lengths": [10, 5]}}}
        (shards / "_info.json").write_text(json.dumps(info))
    dataset = ImageDataset.of_shards(where[form], "val")
    image, label = dataset[14]
    assert len(dataset) == 15 and image.shape == (3, 224, 224) and label == 2
    assert dataset.spec == Spec.val()


def test_labels_are_indices_into_the_given_classes(endpoint: str, shards: Path) -> None:
    given = ("eel", "ant", "cat", "dog")
    for dataset in (
        ImageDataset.of_shards(shards, classes=given),
        ImageDataset(endpoint, "ais://shards", classes=given, layout="shards"),
    ):
        assert dataset.classes == given
        names = [given[label] for label in dataset.manifest.labels.tolist()]
        assert names == ["cat"] * 12 + ["dog"] * 12 + ["eel"] * 12
    with pytest.raises(ConfigError, match="has photos of the class 'dog', and the given classes lack it"):
        ImageDataset.of_shards(shards, classes=("cat", "eel"))
    for split in ("train", "val"):
        (shards / split / "classes.json").unlink()
    assert ImageDataset.of_shards(shards).classes == ("0", "1", "2")
    assert ImageDataset.of_shards(shards, classes=("a", "b", "c")).classes == ("a", "b", "c")
    with pytest.raises(ConfigError, match="has labels to 2, and 2 classes are given"):
        ImageDataset.of_shards(shards, classes=("a", "b"))


def test_a_shard_that_changes_gives_no_other_sample(shards: Path, endpoint: str) -> None:
    dataset = ImageDataset.of_shards(shards, transform=lambda image: image.float().mean())
    place = dataset.manifest.place(3)
    content = bytearray(Path(place.path).read_bytes())
    content[place.offset + 300] ^= 1
    Path(place.path).write_bytes(content)
    with pytest.raises(CorruptSample, match="CRC-32"):
        dataset[3]
    os.truncate(place.path, 5000)
    with pytest.raises(DataError, match="was changed since"):
        dataset[3]
    remote = ImageDataset(endpoint, "ais://shards", prefix="val/", layout="shards")
    whole = remote.manifest.shard_of(0).name
    kept = remote.http.get(f"/v1/objects/shards/{whole}?provider=ais")
    store = image_dataset.read_bucket(remote.http.access, "ais://shards", lambda store: store)
    store.put(whole, kept[:-10240] + kept)
    with pytest.raises(ObjectError, match="shard that was changed"):
        remote[0]
    store.put(whole, kept)


def test_what_makes_no_sense(endpoint: str, root: Path) -> None:
    with pytest.raises(ConfigError, match="layout='tars' is not known"):
        ImageDataset(endpoint, "ais://shards", layout="tars")
    with pytest.raises(ConfigError, match="split='test' is not known"):
        ImageDataset.of_shards(root / "shards", "test")
    with pytest.raises(ConfigError, match="holds no shards"):
        ImageDataset.of_shards(root / "small")
    with pytest.raises(ClusterError, match="holds no tar shards"):
        ImageDataset(endpoint, "ais://photos", layout="shards")
    with pytest.raises(ClusterError, match="It holds tar shards, which data.layout=shards reads"):
        ImageDataset(endpoint, "ais://shards")
    with pytest.raises(ClusterError, match="ais://nowhere cannot be read"):
        ImageDataset(endpoint, "ais://nowhere")


def test_the_documented_loop_of_shards_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (PROJECT / "docs" / "own-loop.md").read_text().split("```python\n")[2].partition("```")[0]
    assert "of_shards(" in code
    monkeypatch.chdir(root)
    exec(code.replace("/data/shards", "shards"), {})
