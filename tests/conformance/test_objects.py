"""Objects: put, get, look at, delete; redirects; odd names."""

import json
from itertools import count, islice
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import xxhash
from aistore.sdk import Bucket
from aistore.sdk.errors import AISError, ErrObjNotFound

from tests.conformance.conftest import AIS

ODD_NAMES = [
    "with space.txt",
    "plus+and&and=",
    "percent%41%zz%",
    "question?mark=1&x",
    "hash#tag",
    "ünïcödé/日本.jpg",
    "deep/er/and.er/file",
    ".hidden/.file",
    "quote'\"back\\slash",
    "comma,/plus+/at@",
    "long/" + "n" * 180,
]


@pytest.mark.parametrize("data", [b"", b"hello", bytes(range(256)) * 20_000], ids=["empty", "small", "5MB"])
def test_round_trip(ais: AIS, bucket: Bucket, data: bytes) -> None:
    item = bucket.object("folder/name.bin")
    item.get_writer().put_content(data)
    assert item.get_reader().read_all() == data
    if ais.direct:
        assert item.get_reader(direct=True).read_all() == data
    head = item.props
    assert (head.size, head.present) == (len(data), True)
    if data:
        assert (head.checksum_type, head.checksum_value) == ("xxhash2", xxhash.xxh64(data).hexdigest())
    item.delete()
    with pytest.raises(ErrObjNotFound):
        item.get_reader().read_all()


def test_headers(ais: AIS, bucket: Bucket) -> None:
    path = f"/v1/objects/{bucket.name}/o?provider=ais"
    assert ais.follow("PUT", path, b"hello").status == 200
    answer = ais.follow("GET", path)
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Length"] == "5"
    assert answer.headers["Ais-Checksum-Type"] == "xxhash2"
    assert answer.headers["Ais-Checksum-Value"] == xxhash.xxh64(b"hello").hexdigest()
    assert answer.headers["Ais-Version"] == "1"
    assert int(answer.headers["Ais-Atime"]) > 0
    head = ais.follow("HEAD", f"{path}&props=name%2Csize")
    assert (head.headers["Content-Length"], head.headers["Ais-Present"], head.body) == ("5", "true", b"")


def test_overwrite(bucket: Bucket) -> None:
    item = bucket.object("o")
    item.get_writer().put_content(b"first")
    item.get_writer().put_content(b"second one")
    assert item.get_reader().read_all() == b"second one"
    assert item.props.obj_version == "2"
    assert [entry.size for entry in bucket.list_all_objects()] == [10]


def test_file(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    bucket.object("f").get_writer().put_file(tmp_path / "f")
    assert bucket.object("f").get_reader().read_all() == b"x" * 3_000_000


@pytest.mark.parametrize(
    ("wanted", "start", "end"), [("bytes=2-4", 2, 5), ("bytes=7-", 7, 10), ("bytes=-3", 7, 10), ("bytes=0-99", 0, 10)]
)
def test_range(ais: AIS, bucket: Bucket, wanted: str, start: int, end: int) -> None:
    data = b"0123456789"
    bucket.object("o").get_writer().put_content(data)
    location = ais.request("GET", f"/v1/objects/{bucket.name}/o?provider=ais").headers["Location"]
    answer = ais.request("GET", location, headers={"Range": wanted})
    assert (answer.status, answer.body) == (206, data[start:end])
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/10"
    assert bucket.object("o").get_reader(byte_range=wanted).read_all() == data[start:end]


def test_a_range_says_of_which_object_it_is(ais: AIS, bucket: Bucket) -> None:
    """What reads photos in tar shards relies on."""
    data = bytes(range(256)) * 4000
    bucket.object("a b/x.tar").get_writer().put_content(data)
    location = ais.request("GET", f"/v1/objects/{bucket.name}/a%20b/x.tar?provider=ais").headers["Location"]
    urls = [location, *([f"{location.split('?')[0]}?provider=ais"] if ais.direct else [])]
    for url in urls:
        answer = ais.request("GET", url, headers={"Range": "bytes=512-200511"})
        assert (answer.status, answer.body) == (206, data[512:200512])
        assert answer.headers["Content-Range"] == f"bytes 512-200511/{len(data)}"
        assert answer.headers["Content-Length"] == "200000" and "Transfer-Encoding" not in answer.headers
        assert answer.headers["Ais-Checksum-Type"] == "xxhash2"
        assert answer.headers["Ais-Checksum-Value"] == xxhash.xxh64(data).hexdigest()
        assert answer.headers["Ais-Version"] == "1"


@pytest.mark.parametrize("wanted", ["bytes=0-1,4-5", "bytes=10-20"])
def test_ranges_that_are_refused(ais: AIS, bucket: Bucket, wanted: str) -> None:
    bucket.object("o").get_writer().put_content(b"0123456789")
    location = ais.request("GET", f"/v1/objects/{bucket.name}/o?provider=ais").headers["Location"]
    assert ais.request("GET", location, headers={"Range": wanted}).status == 416


def test_a_range_of_what_is_missing(ais: AIS, bucket: Bucket) -> None:
    location = ais.request("GET", f"/v1/objects/{bucket.name}/no.tar?provider=ais").headers["Location"]
    answer = ais.request("GET", location, headers={"Range": "bytes=0-9"})
    assert answer.status == 404 and "does not exist" in answer.json()["message"]


def test_range_outside(ais: AIS, bucket: Bucket) -> None:
    bucket.object("o").get_writer().put_content(b"0123456789")
    location = ais.request("GET", f"/v1/objects/{bucket.name}/o?provider=ais").headers["Location"]
    assert ais.request("GET", location, headers={"Range": "bytes=10-20"}).status == 416


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(ais: AIS, bucket: Bucket, name: str) -> None:
    item = bucket.object(name)
    item.get_writer().put_content(name.encode())
    assert item.get_reader().read_all() == name.encode()
    assert item.head().size == len(name.encode())
    assert [entry.name for entry in bucket.list_all_objects()] == [name]
    assert ais.follow("GET", f"/v1/objects/{bucket.name}/{quote(name)}?provider=ais").body == name.encode()
    item.delete()
    assert bucket.list_all_objects() == []


@pytest.mark.parametrize(("method", "status"), [("GET", 301), ("PUT", 307), ("HEAD", 307), ("DELETE", 307)])
def test_redirect(ais: AIS, bucket: Bucket, method: str, status: int) -> None:
    bucket.object("a b+c/o").get_writer().put_content(b"x")
    answer = ais.request(method, f"/v1/objects/{bucket.name}/a%20b%2Bc/o?provider=ais&etl_args=%7B%22a%22%3A1%7D", b"")
    assert answer.status == status
    url = urlsplit(answer.headers["Location"])
    targets = [node.public_net.direct_url for node in ais.client().cluster().get_info().tmap.values()]
    assert f"{url.scheme}://{url.netloc}" in targets
    assert url.path == f"/v1/objects/{bucket.name}/a%20b+c/o"
    query = parse_qs(url.query)
    assert (query["provider"], query["etl_args"]) == (["ais"], ['{"a":1}'])
    assert query["pid"] and query["utm"]
    assert (b"<a href=" in answer.body) == (method == "GET")


def test_target_without_redirect(ais: AIS, bucket: Bucket) -> None:
    location = ais.request("PUT", f"/v1/objects/{bucket.name}/o?provider=ais", b"x").headers["Location"]
    assert ais.request("PUT", location, b"x").status == 200
    direct = location.split("?")[0] + "?provider=ais"
    if not ais.direct:
        for method in ("GET", "PUT", "DELETE"):
            answer = ais.request(method, direct, b"x" if method == "PUT" else None)
            assert (answer.status, answer.json()["message"]) == (403, "direct target access denied")
        return
    for method, body in (("PUT", b"direct"), ("DELETE", None)):
        answer = ais.request(method, direct, body)
        assert answer.status == 400
        assert f"{method}(obj) is expected to be redirected" in answer.json()["message"]
    assert ais.request("GET", direct).body == b"x"
    assert ais.request("HEAD", direct).headers["Content-Length"] == "1"


@pytest.mark.parametrize("name", ["..", "./x", "x/../y", "x/.", "x/", "~/x"])
def test_names_that_are_refused(ais: AIS, bucket: Bucket, name: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = ais.request(method, f"/v1/objects/{bucket.name}/{name}?provider=ais")
        assert (answer.status, answer.json()["tcode"]) == (400, "errInvalidPath")
        assert answer.json()["message"] == f'invalid object name "{name}"'


def test_an_object_is_no_folder(ais: AIS, bucket: Bucket) -> None:
    """Of the names a and a/b a target keeps one; on different targets both would be possible."""

    def target(name: str) -> str:
        answer = ais.request("PUT", f"/v1/objects/{bucket.name}/{name}?provider=ais", b"x")
        return urlsplit(answer.headers["Location"]).netloc

    def put(name: str) -> tuple[int, str]:
        answer = ais.follow("PUT", f"/v1/objects/{bucket.name}/{name}?provider=ais", b"x")
        return answer.status, answer.json()["message"] if answer.body else ""

    one, two = list(islice((name for name in map(str, count()) if target(name) == target(f"{name}/b")), 2))
    assert [put(one), put(f"{one}/b")] == [(200, ""), (400, "destination contains an object in its path")]
    assert [put(f"{two}/b"), put(two)] == [(200, ""), (400, "destination exists and is a virtual directory")]
    assert [entry.name for entry in bucket.list_all_objects()] == sorted([one, f"{two}/b"])


def test_missing(ais: AIS, bucket: Bucket) -> None:
    missing = bucket.object("no/such.jpg")
    with pytest.raises(ErrObjNotFound) as caught:
        missing.get_reader().read_all()
    problem = json.loads(caught.value.message)
    assert problem["tcode"] == "ErrNotFound"
    assert f"ais://{bucket.name}/no/such.jpg does not exist" in problem["message"]
    with pytest.raises(ErrObjNotFound, match="ais://"):
        missing.delete()
    with pytest.raises(AISError) as head:
        missing.head()
    assert (head.value.status_code, head.value.message) == (404, "")
    answer = ais.follow("HEAD", f"/v1/objects/{bucket.name}/no/such.jpg?provider=ais")
    assert f"ais://{bucket.name}/no/such.jpg" in json.loads(answer.headers["Hdr-Error"])["message"]
