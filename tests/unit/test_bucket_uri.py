"""Addresses of buckets, and the requests that they make."""

from typing import Any

import pytest
from aistore import Client

from aistore_data.bucket.uri import parse_bucket, split_uri
from aistore_data.client.access import object_path
from sources.errors import ConfigError
from training.config.data_checks import check_data
from training.config.data_options import DataConfig


@pytest.mark.parametrize(
    ("uri", "query"),
    [
        ("ais://b", "provider=ais"),
        ("s3://b.c-d_e", "provider=aws"),
        ("gs://b", "provider=gcp"),
        ("gcp://b", "provider=gcp"),
        ("az://b", "provider=azure"),
        ("oc://b", "provider=oci"),
        ("ais://#ns/b", "provider=ais&namespace=%40%23ns"),
        ("ais://@uuid#ns/b", "provider=ais&namespace=%40uuid%23ns"),
        ("ais://@uuid/b", "provider=ais&namespace=%40uuid%23"),
        ("s3://@#ns/b", "provider=aws&namespace=%40%23ns"),
    ],
)
def test_both_clients_ask_for_the_same_bucket(uri: str, query: str) -> None:
    bucket = parse_bucket(uri)
    assert object_path(uri, "a b.jpg") == f"/v1/objects/{bucket.name}/a%20b.jpg?{query}"
    assert object_path(uri, "o", etl_name="e").endswith(f"?{query}&etl_name=e")
    sdk = bucket.of(Client("http://localhost"))
    assert (sdk.name, sdk.qparam) == (bucket.name, bucket.query)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        *(
            (uri, "is not the address of a bucket")
            for uri in ("imagenet", "", "ais:/b", "ais://", "ais:///b", "ais://a b")
        ),
        *(
            (uri, "is not the address of a bucket")
            for uri in ("ais://.b", "ais://a..b", "ais://#ns", "ais://ü", "ais://b?x")
        ),
        ("http://host/b", "AIStore knows no provider http"),
        ("ais://b/train", "goes on after the bucket's name: write ais://b;"),
        ("ais://#n/b/t/u", "goes on after the bucket's name: write ais://#n/b;"),
    ],
)
def test_others_are_refused(uri: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bucket(uri, "data.bucket=")
    assert f"data.bucket={uri}" in str(caught.value) and expected in str(caught.value)


def test_an_address_with_a_prefix() -> None:
    assert split_uri("ais://#n/b/c/d") == (parse_bucket("ais://#n/b"), "c/d")
    assert split_uri("s3://b")[1] is None and split_uri("s3://b/")[1] == ""


def checked(**values: Any) -> None:
    check_data(DataConfig(source="aistore", endpoint="http://h", **values))


def test_splits_apart() -> None:
    checked()
    checked(bucket="s3://b", val_bucket="ais://b", train_prefix="", val_prefix="")
    checked(train_prefix="sets/imagenet/train/", val_prefix="sets/imagenet/val/")
    for train, val in (("", "val/"), ("train/", "train/"), ("train/", "train/val/")):
        with pytest.raises(ConfigError, match=f"data.train_prefix={train} and data.val_prefix={val} overlap"):
            checked(train_prefix=train, val_prefix=val)
    with pytest.raises(ConfigError, match="overlap"):
        checked(bucket="s3://b", val_bucket="aws://b", train_prefix="", val_prefix="")
    for prefix in ("train", "/train/"):
        with pytest.raises(ConfigError, match=f"data.train_prefix={prefix} must be empty or end in a slash"):
            checked(train_prefix=prefix)
    with pytest.raises(ConfigError, match="data.val_bucket=imagenet is not the address"):
        checked(val_bucket="imagenet")
