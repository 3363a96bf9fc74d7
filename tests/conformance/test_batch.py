"""Get-batch: many objects in one answer."""

import io
import json
import tarfile

from aistore.sdk import Bucket, Client

from tests.conformance.conftest import AIS
from tests.conformance.test_objects import ODD_NAMES


def test_contents_in_the_order_of_the_request(client: Client, bucket: Bucket) -> None:
    contents = {name: name.encode() for name in sorted(ODD_NAMES)} | {"empty": b"", "b/large": bytes(range(256)) * 4000}
    for name, content in contents.items():
        bucket.object(name).get_writer().put_content(content)
    names = list(reversed(contents))
    for short in (True, False):
        answer = client.batch(names, bucket=bucket, only_obj_name=short).get()
        assert [(out.obj_name, content) for out, content in answer] == [(name, contents[name]) for name in names]


def test_members(ais: AIS, bucket: Bucket) -> None:
    """What is missing is an empty member below __404__/, in its place."""
    bucket.object("a/b").get_writer().put_content(b"hello")
    items = [{"objname": name, "bucket": bucket.name, "provider": "ais"} for name in ("missing", "a/b")]
    for short, prefix in ((False, f"{bucket.name}/"), (True, "")):
        question = {"in": items, "mime": ".tar", "coer": True, "onob": short, "strm": True}
        path = f"/v1/ml/moss/{bucket.name}?provider=ais"
        first = ais.request("GET", path, json.dumps(question).encode(), {"Content-Type": "application/json"})
        assert first.status == 307
        answer = ais.request("GET", first.headers["Location"], json.dumps(question).encode())
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/x-tar")
        with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
            members = [(member.name, archive.extractfile(member).read()) for member in archive]  # type: ignore[union-attr]
        assert members == [(f"__404__/{prefix}missing", b""), (f"{prefix}a/b", b"hello")]


def test_missing_bucket(ais: AIS) -> None:
    question = {"in": [{"objname": "a"}], "mime": ".tar", "coer": True, "strm": True}
    answer = ais.request("GET", "/v1/ml/moss/no-such-bucket?provider=ais", json.dumps(question).encode())
    if answer.status == 307:
        answer = ais.request("GET", answer.headers["Location"], json.dumps(question).encode())
    assert answer.status == 404
