"""A data set in several buckets, in a namespace, below a prefix."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from aistore import Client
from aistore.sdk.errors import AISError

from aistore_data import ImageDataset
from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.store import AisStore, iter_objects
from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import make_client
from aistore_data.embedded import EmbeddedAIS
from sources.errors import ClusterError
from tests.conftest import TINY, Result


def put(client: Client, uri: str, prefix: str, folder: Path) -> None:
    """Every file of a folder, by its name below it."""
    bucket = parse_bucket(uri).of(client)
    bucket.create(exist_ok=True)
    for path in sorted(folder.rglob("*.jpg")):
        bucket.object(f"{prefix}{path.relative_to(folder)}").get_writer().put_content(path.read_bytes())


def test_splits_in_different_buckets_and_a_namespace(
    train: Callable[..., Result], small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedAIS(tmp_path / "ais") as server:
        access = Access(server.endpoint, server.token)
        client = make_client(access)
        monkeypatch.setenv("AIS_ENDPOINT", access.endpoint)
        monkeypatch.setenv("AIS_AUTHN_TOKEN", access.token)
        put(client, "ais://#team/photos", "sets/small/", small_folder / "train")
        put(client, "ais://photos", "", small_folder / "val")
        words = ["data=aistore", 'data.bucket="ais://#team/photos"', "data.train_prefix=sets/small/"]
        words += ["data.val_bucket=ais://photos", "data.val_prefix=", *TINY]
        result = train(*words, "data.etl.on_exit=stop", "run_dir=apart")
        assert result.code == 0, result.output
        assert result.summary()["samples_by_source"] == {"local": 0, "etl": 72 + 2 * 15}
        assert result.summary()["fallbacks"] == 0
        folder = train(f"data.root={small_folder}", *TINY, "run_dir=folder")
        assert result.summary()["state_sha256"] == folder.summary()["state_sha256"]
        assert json.loads((result.run_dir / "environment.json").read_text())["data"]["source"] == [
            "ais://#team/photos",
            "ais://photos",
        ]
        names = {
            uri: {entry.name for entry in iter_objects(parse_bucket(uri).of(client), ".imagenet-ais/")}
            for uri in ("ais://#team/photos", "ais://photos")
        }
        assert names == {
            "ais://#team/photos": {".imagenet-ais/sets/small/manifest.npz"},
            "ais://photos": {".imagenet-ais/manifest.npz"},
        }
        dataset = ImageDataset(access.endpoint, "ais://#team/photos", "sets/small/")
        assert len(dataset) == 36 and dataset[0][0].shape == (3, 224, 224)
        missing = train("data=aistore", 'data.bucket="ais://#team/nothing"', *TINY, "run_dir=missing")
        assert missing.code == 1 and "ais://#team/nothing cannot be read" in missing.output


def test_namespaces_keep_buckets_of_one_name_apart(tmp_path: Path) -> None:
    uris = ("ais://photos", "ais://#one/photos", "ais://#two/photos")
    with EmbeddedAIS(tmp_path / "ais", token="t") as server:
        client = make_client(Access(server.endpoint, server.token))
        for uri in uris:
            bucket = parse_bucket(uri).of(client)
            bucket.create()
            bucket.object("train/cat/0.jpg").get_writer().put_content(uri.encode())
            bucket.object("pairs/0.jpg").get_writer().put_content(b"x")
            bucket.object("pairs/0.cls").get_writer().put_content(str(len(uri)).encode())
    with EmbeddedAIS(tmp_path / "ais", token="t") as server:  # and after a restart
        access = Access(server.endpoint, server.token)
        client, reader = make_client(access), HttpReader(access)
        for uri in uris:
            bucket = parse_bucket(uri).of(client)
            assert reader.get(object_path(uri, "train/cat/0.jpg")) == uri.encode()
            assert bucket.object("train/cat/0.jpg").get_reader().read_all() == uri.encode()
            assert read_manifest(AisStore(uri, access), "train/").sizes.tolist() == [len(uri)]
            assert read_manifest(AisStore(uri, access), "pairs/").labels.tolist() == [len(uri)]
        listed = {(bucket.namespace.name, bucket.name) for bucket in client.cluster().list_buckets()}
        assert listed == {("", "photos"), ("one", "photos"), ("two", "photos")}
        for uri in ("s3://photos", "ais://@elsewhere#one/photos"):
            with pytest.raises(AISError) as caught:
                parse_bucket(uri).of(client).head()
            assert caught.value.status_code == 404


def test_what_macos_keeps_beside_photos_is_refused_at_the_start(small_folder: Path, tmp_path: Path) -> None:
    with EmbeddedAIS(tmp_path / "ais") as server:
        access = Access(server.endpoint, server.token)
        client = make_client(access)
        put(client, "ais://mac", "train/", small_folder / "train")
        bucket = client.bucket("mac")
        bucket.object("train/cat/._real.jpg").get_writer().put_content((small_folder / "train/cat/0.jpg").read_bytes())
        assert len(read_manifest(AisStore("ais://mac", access), "train/")) == 37
        for number in range(2):
            bucket.object(f"train/cat/._{number}.jpg").get_writer().put_content(b"\0\5\x16\7" + bytes(82))
        with pytest.raises(
            ClusterError, match="ais://mac/train/cat/._0.jpg is not a photo but what macOS keeps beside one, and 2 more"
        ):
            read_manifest(AisStore("ais://mac", access), "train/")
