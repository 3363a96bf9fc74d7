"""Listings, page by page."""

import json
from typing import Any

import msgspec
import pytest
from aistore.sdk import Bucket

from aistore_data.bucket.store import iter_objects
from tests.conformance.conftest import AIS


def fill(bucket: Bucket, names: list[str]) -> None:
    for name in names:
        bucket.object(name).get_writer().put_content(b"x" * len(name))


def raw_page(ais: AIS, bucket: Bucket, **value: Any) -> dict[str, Any]:
    """One page as msgpack, asked for as the SDK asks."""
    message = {"action": "list", "name": "", "value": {"prefix": "", "pagesize": 0, "props": "", **value}}
    headers = {"Accept": "application/msgpack", "Content-Type": "application/json"}
    answer = ais.request("GET", f"/v1/buckets/{bucket.name}?provider=ais", json.dumps(message).encode(), headers)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/msgpack")
    return msgspec.msgpack.decode(answer.body)


@pytest.mark.parametrize(("count", "sizes"), [(5, [4, 1]), (8, [4, 4, 0]), (3, [3]), (0, [0])])
def test_pages(ais: AIS, bucket: Bucket, count: int, sizes: list[int]) -> None:
    names = [f"train/{number:03}.jpg" for number in range(count)]
    fill(bucket, names)
    found: list[list[str]] = []
    page = raw_page(ais, bucket, pagesize=4)
    while True:
        found.append([entry["n"] for entry in page["Entries"] or []])
        if not page["ContinuationToken"]:
            break
        assert page["ContinuationToken"] == found[-1][-1]
        page = raw_page(ais, bucket, pagesize=4, continuation_token=page["ContinuationToken"], uuid=page["UUID"])
    assert [len(part) for part in found] == sizes
    assert [name for part in found for name in part] == names
    assert [entry.name for entry in bucket.list_all_objects(page_size=4)] == names
    assert [entry.name for entry in bucket.list_objects_iter(page_size=4)] == names


def test_fields(ais: AIS, bucket: Bucket) -> None:
    fill(bucket, ["a"])
    entry = raw_page(ais, bucket)["Entries"][0]
    assert entry == {"n": "a", "s": 1, "f": 64}
    entry = raw_page(ais, bucket, props="name,size,checksum,version,atime,copies,location")["Entries"][0]
    assert entry["cs"] == bucket.object("a").props.checksum_value
    assert (entry["v"], entry["c"]) == ("1", 1)
    assert entry["a"] and entry["t"]
    assert bucket.list_all_objects(props="name,size")[0].size == 1


def test_order_is_bytewise(bucket: Bucket) -> None:
    names = ["B", "aa", "a/b", "a-b", "A", "ä", "z", "日", "\U0001f600", "\ufb01", "0", "a.b"]
    fill(bucket, names)
    assert [entry.name for entry in bucket.list_all_objects()] == sorted(names, key=str.encode)


def test_without_recursion(ais: AIS, bucket: Bucket) -> None:
    fill(bucket, ["train/1", "train/a/1", "train/a/2", "train/a/b/1", "train/b-c", "train/c/1", "val/1"])
    value = {"prefix": "train/", "flags": "2048"}
    entries = raw_page(ais, bucket, **value)["Entries"]
    assert entries == [
        {"n": "train/1", "s": 7, "f": 64},
        {"n": "train/a/", "f": 256},
        {"n": "train/b-c", "s": 9, "f": 64},
        {"n": "train/c/", "f": 256},
    ]
    page = raw_page(ais, bucket, **value, pagesize=2)
    assert ([entry["n"] for entry in page["Entries"]], page["ContinuationToken"]) == (
        ["train/1", "train/a/"],
        "train/a/",
    )
    page = raw_page(ais, bucket, **value, pagesize=2, continuation_token="train/a/", uuid=page["UUID"])
    assert [entry["n"] for entry in page["Entries"]] == ["train/b-c", "train/c/"]


def test_folders_whose_names_begin_alike(bucket: Bucket) -> None:
    """AIS's own listing of several pages loses some of these objects."""
    folders = ["tiger", "tiger cat", "tiger shark", "tigers", "tiger.x/y"]
    names = sorted(f"train/{folder}/{number}.jpg" for folder in folders for number in range(5))
    fill(bucket, [*names, "val/1"])
    assert sorted(entry.name for entry in iter_objects(bucket, "train/", page_size=6)) == names
    assert sorted(entry.name for entry in iter_objects(bucket)) == [*names, "val/1"]
    assert {entry.size for entry in iter_objects(bucket, "train/tigers/", page_size=4)} == {len("train/tigers/0.jpg")}


def test_prefix(ais: AIS, bucket: Bucket) -> None:
    fill(bucket, ["train/1", "train/2", "trainer", "val/1"])
    assert [entry.name for entry in bucket.list_all_objects(prefix="train/")] == ["train/1", "train/2"]
    assert [entry.name for entry in bucket.list_all_objects(prefix="val")] == ["val/1"]
    assert bucket.list_all_objects(prefix="nothing") == []
    page = raw_page(ais, bucket, prefix="train/", pagesize=1)
    assert page["ContinuationToken"] == "train/1"


def test_json(ais: AIS, bucket: Bucket) -> None:
    fill(bucket, ["abc"])
    message = b'{"action":"list","name":"","value":{"prefix":"","pagesize":0}}'
    headers = {"Content-Type": "application/json"}
    listing = ais.request("GET", f"/v1/buckets/{bucket.name}?provider=ais", message, headers).json()
    assert (listing["continuation_token"], listing["entries"][0]["name"]) == ("", "abc")
    assert listing["entries"][0]["size"] == "3"
    assert listing["uuid"]


def test_listing_follows_changes(bucket: Bucket) -> None:
    fill(bucket, ["b", "a", "c"])
    bucket.object("b").delete()
    fill(bucket, ["aa", "c"])
    assert [entry.name for entry in bucket.list_all_objects()] == ["a", "aa", "c"]
