"""One sample has one value: wherever it is made, by how many workers, and however it travels."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import connect, make_client
from aistore_data.dataset.breaker import Breakers
from aistore_data.dataset.policy import Remote
from aistore_data.dataset.remote import RemoteDataset
from aistore_data.embedded import EmbeddedAIS
from aistore_data.etls import lifecycle
from etl import Key, Spec, transform
from sources.folder import FolderReader, scan_folder
from sources.samples import SampleDataset
from sources.source import Source, Specs
from tests.conftest import TINY, Result
from tests.integration.test_aistore import embedded
from training.loader.loader import BatchIterator, open_loader
from training.loader.ring import Wanted
from training.loader.workers import start_worker_server

Train = Callable[..., Result]

SEED = 11
CASES = {
    "train": (Spec.train(224), "raw", 1000),
    "train bicubic": (Spec.train(160, scale=(0.35, 1.0), interpolation="bicubic"), "raw", 600),
    "train small": (Spec.train(64, ratio=(0.5, 2.0)), "raw", 600),
    "val": (Spec.val(224), "raw", 500),
    "val bicubic": (Spec.val(96, 110, interpolation="bicubic"), "raw", 400),
    "train jpeg": (Spec.train(128), "jpeg", 300),
    "val jpeg": (Spec.val(160, 176), "jpeg", 200),
    "policy": (Spec.train(112, augment="ra", augment_ops=3, augment_interpolation="bilinear", jitter=0.3), "raw", 400),
    "policy nearest": (Spec.train(112, augment="ta_wide"), "raw", 200),
}
"""Name: specification, wire format, number of (object, key) pairs of the whole matrix; 4,200 in all."""
SHARE = 20
"""``make test`` takes one pair in this many."""


class Lists(list[Wanted]):
    """Batches as they are."""

    @property
    def batch_size(self) -> int:
        return max(len(wanted.keys) for wanted in self)


@dataclass(frozen=True)
class Places:
    """The photos in a folder, and the same ones in a bucket with both ETLs running."""

    folder: Path
    access: Access
    names: dict[str, str]

    def datasets(self, spec: Spec | Specs, wire: str) -> dict[str, Source]:
        """Every way to a sample."""
        name = self.names[Specs.of(spec).first.recipe]
        split = scan_folder(self.folder)[0]
        bucket = read_manifest(AisStore("ais://imagenet", self.access), "train/")
        placement = Placement(connect(self.access), self.access.endpoint)
        remote = Remote(self.access, "ais://imagenet", bucket, placement, Breakers(1), spec, SEED, wire=wire)
        return {
            "folder": SampleDataset(FolderReader(self.folder / "train", split), split, spec, SEED, wire),
            "client": RemoteDataset(remote),
            "etl": RemoteDataset(replace(remote, etl_name=name)),
            "hybrid": RemoteDataset(replace(remote, etl_name=name, local_share=0.5)),
        }


@pytest.fixture(scope="module")
def places(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    root = tmp_path_factory.mktemp("one-value")
    for split, chosen in (("train", photos), ("val", photos[:1])):
        (root / "folder" / split / "photo").mkdir(parents=True)
        for path in chosen:
            shutil.copy(path, root / "folder" / split / "photo" / path.name)
    with EmbeddedAIS(root / "ais", imagefolder=root / "folder") as server:
        access = Access(server.endpoint, server.token)
        client, settings = make_client(access), lifecycle.EtlSettings(num_workers=1)
        names = {
            recipe: lifecycle.ensure(client, f"imagenet-{recipe}", recipe, settings, print)[0]  # type: ignore[arg-type]
            for recipe in ("train", "val")
        }
        yield Places(root / "folder", access, names)


@pytest.mark.parametrize("case", CASES)
def test_every_way_gives_the_same_bytes(places: Places, seed: int, case: str, request: pytest.FixtureRequest) -> None:
    spec, wire, count = CASES[case]
    draw = random.Random(f"{seed}/{case}")
    count = count if request.config.getoption("--all") else count // SHARE
    keys = [(draw.randrange(90), index) for index in draw.sample(range(1000), count)]
    parts = [range(count)[begin : begin + 25] for begin in range(0, count, 25)]
    batches = Lists(Wanted(keys[part.start : part.stop], part) for part in parts)
    datasets = places.datasets(spec, wire)
    start_worker_server()
    with open_loader(datasets["folder"], batches, 2, 2, torch.device("cpu")) as loader:
        feed = BatchIterator(loader)
        for batch_keys, _ in batches:
            expected = datasets["folder"].__getitems__(batch_keys)
            assert expected.indices.tolist() == [index for _, index in batch_keys]
            assert len({image.numpy().tobytes() for image in expected.images}) == len(batch_keys)
            others = {name: datasets[name].__getitems__(batch_keys) for name in ("client", "etl")} | {
                "workers": next(feed)
            }
            for name, batch in others.items():
                assert torch.equal(batch.images, expected.images), f"{case}: {name} differs from the folder"
                assert torch.equal(batch.labels, expected.labels)
            assert others["etl"].counts.etl == len(batch_keys)


def test_a_sample_has_views(places: Places) -> None:
    spec, manifest = Spec.train(32), scan_folder(places.folder)[0]
    keys = [(2, 5), (2, 5, 1), (2, 9, 3), (2, 5, 0)]
    for name, dataset in places.datasets(spec, "raw").items():
        batch = dataset.__getitems__(keys)
        for row, (epoch, index, *view) in zip(batch.images.numpy(), keys, strict=True):
            data = (places.folder / "train" / manifest.name(index)).read_bytes()
            assert np.array_equal(row, transform(data, spec, Key(SEED, epoch, index, *view))), name
        assert batch.indices.tolist() == [5, 5, 9, 5] and batch.counts.fallbacks == 0
        assert batch.counts.etl == (4 if name == "etl" else batch.counts.etl)
        assert not torch.equal(batch.images[0], batch.images[1]) and torch.equal(batch.images[0], batch.images[3])


def test_sizes_may_grow_with_the_epochs(places: Places) -> None:
    specs = Specs(Spec.train(32), ((2, Spec.train(48)), (3, Spec.train(40, interpolation="bicubic"))))
    manifest = scan_folder(places.folder)[0]
    assert specs.largest == 48
    for name, dataset in places.datasets(specs, "raw").items():
        for epoch in (2, 0, 3, 1):
            keys = [(epoch, index) for index in (5, 1, 9)]
            images = dataset.__getitems__(keys).images.numpy()
            assert images.shape[1] == (32, 32, 48, 40)[epoch]
            for row, (_, index) in zip(images, keys, strict=True):
                data = (places.folder / "train" / manifest.name(index)).read_bytes()
                assert np.array_equal(row, transform(data, specs.at(epoch), Key(SEED, epoch, index))), name


SOURCES = {"folder": [], "client": ["data.transform=client"], "etl": ["data.transform=etl"]}


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("source", SOURCES)
def test_source_and_workers_do_not_change_a_run(
    train: Train, small_folder: Path, source: str, workers: int, request: pytest.FixtureRequest
) -> None:
    if (source, workers) not in (("folder", 3), ("client", 1)) and not request.config.getoption("--all"):
        pytest.skip("one of a long matrix: make test-all")
    expected = train(f"data.root={small_folder}", *TINY, "data.fingerprint=full", "run_dir=expected")
    words: list[Any] = [f"data.root={small_folder}"] if source == "folder" else embedded(small_folder, *SOURCES[source])
    result = train(*words, *TINY, "data.fingerprint=full", f"data.workers={workers}")
    assert result.code == 0, result.output
    assert result.summary()["state_sha256"] == expected.summary()["state_sha256"]
    assert result.fingerprints() == expected.fingerprints() and len(expected.fingerprints()) == 4
