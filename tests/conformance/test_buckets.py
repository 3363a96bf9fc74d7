"""Buckets: create, list, look at, destroy."""

import json

import pytest
from aistore.sdk import Bucket, Client
from aistore.sdk.errors import AISError, ErrBckAlreadyExists, ErrBckNotFound

from tests.conformance.conftest import AIS, new_name


def test_life_cycle(client: Client) -> None:
    bucket = client.bucket(new_name("conf"))
    bucket.create()
    assert bucket.name in [model.name for model in client.cluster().list_buckets()]
    assert "ais-bucket-props" in bucket.head()
    bucket.delete()
    assert bucket.name not in [model.name for model in client.cluster().list_buckets()]


def test_props(ais: AIS, bucket: Bucket) -> None:
    answer = ais.request("HEAD", f"/v1/buckets/{bucket.name}?provider=ais")
    props = json.loads(answer.headers["Ais-Bucket-Props"])
    assert props["provider"] == "ais"
    assert props["checksum"]["type"] == "xxhash2"


def test_exists(bucket: Bucket) -> None:
    with pytest.raises(ErrBckAlreadyExists) as caught:
        bucket.create()
    assert caught.value.status_code == 409
    assert f'bucket \\"ais://{bucket.name}\\" already exists' in caught.value.message
    bucket.create(exist_ok=True)


def test_missing(ais: AIS, client: Client) -> None:
    missing = client.bucket(new_name("conf"))
    for call in (missing.delete, missing.list_all_objects, missing.object("o").get_reader().read_all):
        with pytest.raises(ErrBckNotFound) as caught:
            call()
        problem = json.loads(caught.value.message)
        assert problem["status"] == 404
        assert problem["tcode"] == "ErrBckNotFound"
        assert problem["message"] == f'bucket "ais://{missing.name}" does not exist'
        assert {"method", "url_path", "remote_addr", "caller", "node"} <= set(problem)
    with pytest.raises(AISError):
        missing.object("o").get_writer().put_content(b"x")
    missing.delete(missing_ok=True)


def test_missing_by_head(ais: AIS) -> None:
    name = new_name("conf")
    answer = ais.request("HEAD", f"/v1/buckets/{name}?provider=ais")
    assert answer.status == 404
    assert json.loads(answer.headers["Hdr-Error"])["message"] == f'bucket "ais://{name}" does not exist'
    assert ais.request("GET", f"/v1/objects/{name}/o?provider=ais").status == 404  # by the proxy, without a redirect


def test_summary(bucket: Bucket) -> None:
    bucket.object("o").get_writer().put_content(b"12345")
    assert bucket.summary()["name"] == bucket.name
