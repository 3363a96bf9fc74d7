"""ETLs: the life cycle, and inline transforms."""

import json
from urllib.parse import quote_plus

import pytest
from aistore.sdk import Bucket, Client
from aistore.sdk.errors import AISError, ErrETLAlreadyExists, ErrETLNotFound, ErrObjNotFound
from aistore.sdk.etl.etl_config import ETLConfig

from tests.conformance.conftest import AIS, Answer, new_name
from tests.conformance.transforms import Broken, Upper


def inline(ais: AIS, bucket: Bucket, etl: str, args: str = "", name: str = "a/b.txt") -> Answer:
    query = f"&etl_args={quote_plus(args)}" if args else ""
    return ais.follow("GET", f"/v1/objects/{bucket.name}/{name}?provider=ais&etl_name={etl}{query}")


def stage(client: Client, name: str) -> str:
    stages = ["Running", "Initializing", "Aborted", "Unknown"]
    return {info.id: info.stage for info in client.cluster().list_etls(stages)}.get(name, "")


def test_transform(ais: AIS, shared_bucket: Bucket, upper: str) -> None:
    item = shared_bucket.object("a/b.txt")
    path = f"{shared_bucket.name}/a/b.txt"
    assert item.get_reader(etl=ETLConfig(upper)).read_all() == f"HELLO|{path}||bytes".encode()
    text = item.get_reader(etl=ETLConfig(upper, args=" as it is, 1+1=2&%41 ")).read_all()
    assert text == f"HELLO|{path}|as it is, 1+1=2&%41|bytes".encode()
    compact = item.get_reader(etl=ETLConfig(upper, args={"epoch": 3, "s": "ü x"})).read_all()
    assert compact == f'HELLO|{path}|{{"epoch":3,"s":"\\u00fc x"}}|bytes'.encode()
    if ais.direct:
        assert item.get_reader(etl=ETLConfig(upper), direct=True).read_all() == f"HELLO|{path}||bytes".encode()


@pytest.mark.parametrize("repeat", [0, 1, 409, 410, 100_000])
def test_answer(ais: AIS, shared_bucket: Bucket, upper: str, repeat: int) -> None:
    answer = inline(ais, shared_bucket, upper, f"repeat:{repeat}")
    assert (answer.status, answer.body) == (200, b"hello" * repeat)
    assert not [name for name in answer.headers if name.lower().startswith("ais-")]
    if len(answer.body) <= 2048:
        assert answer.headers["Content-Length"] == str(len(answer.body))
    else:
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert answer.headers["Content-Length"] is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("with space+plus", "X|BUCKET/with space+plus|a|bytes"),
        ("ünï/日", "X|BUCKET/ünï/日|a|bytes"),
        ("a&b=c;d:e@f'\"<>\\^`{|}", "X|BUCKET/a&b=c;d:e@f'\"<>\\^`{|}|a|bytes"),
        ("per%41cent", "X|BUCKET/perAcent|a|bytes"),
        ("no?x.jpg", "X|BUCKET/no||bytes"),  # the arguments are lost,
        ("no#x.jpg", "|BUCKET/no||bytes"),  # or the object's bytes too
    ],
)
def test_names(bucket: Bucket, upper: str, name: str, expected: str) -> None:
    bucket.object(name).get_writer().put_content(b"x")
    text = bucket.object(name).get_reader(etl=ETLConfig(upper, args="a")).read_all().decode()
    assert text == expected.replace("BUCKET", bucket.name)


@pytest.mark.parametrize("name", ["100%", "100%.jpg", "%zz", "a#%4"])
def test_names_that_are_no_url(bucket: Bucket, upper: str, name: str) -> None:
    bucket.object(name).get_writer().put_content(b"x")
    with pytest.raises(AISError, match="invalid URL escape") as caught:
        bucket.object(name).get_reader(etl=ETLConfig(upper, args="a")).read_all()
    assert caught.value.status_code == 400


def test_range_is_ignored(ais: AIS, shared_bucket: Bucket, upper: str) -> None:
    first = ais.request("GET", f"/v1/objects/{shared_bucket.name}/a/b.txt?provider=ais&etl_name={upper}")
    answer = ais.request("GET", first.headers["Location"], headers={"Range": "bytes=0-1"})
    assert (answer.status, answer.body[:6]) == (200, b"HELLO|")


def test_environment(ais: AIS, shared_bucket: Bucket, upper: str) -> None:
    assert inline(ais, shared_bucket, upper, "environment:GREETING").body == b"hello"
    assert inline(ais, shared_bucket, upper, "environment:AIS_TARGET_URL").body.startswith(b"http://")
    assert inline(ais, shared_bucket, upper, "environment:AIS_AUTHN_TOKEN").body == b"unset"


def test_transform_raises(ais: AIS, shared_bucket: Bucket, upper: str) -> None:
    answer = inline(ais, shared_bucket, upper, "raise")
    assert answer.status == 500
    assert answer.json()["message"] == 'ETL error: {"detail":"Processing error: bad luck"}'
    assert inline(ais, shared_bucket, upper).status == 200


def test_too_slow(ais: AIS, shared_bucket: Bucket, upper: str) -> None:
    answer = inline(ais, shared_bucket, upper, "sleep:2.5")  # obj_timeout is 2 s
    assert answer.status == 400
    assert "context deadline exceeded" in answer.json()["message"]


def test_missing_object(ais: AIS, shared_bucket: Bucket, upper: str) -> None:
    with pytest.raises(ErrObjNotFound):
        shared_bucket.object("nope").get_reader(etl=ETLConfig(upper)).read_all()
    answer = inline(ais, shared_bucket, upper, name="nope")
    assert (answer.status, answer.json()["tcode"]) == (404, "ErrNotFound")
    assert f"ais://{shared_bucket.name}/nope does not exist" in answer.json()["message"]


def test_unknown_etl(ais: AIS, shared_bucket: Bucket, client: Client) -> None:
    answer = inline(ais, shared_bucket, "no-such-etl")
    assert answer.status == 404
    assert "no-such-etl does not exist" in answer.json()["message"]
    etl = client.etl("no-such-etl")
    for call in (etl.view, etl.delete):
        with pytest.raises(ErrETLNotFound) as caught:
            call()
        assert "etl job no-such-etl does not exist" in caught.value.message


def test_life_cycle(ais: AIS, shared_bucket: Bucket, client: Client) -> None:
    name = new_name("cycle")
    etl = client.etl(name)
    etl.init_class(NUM_WORKERS=1, init_timeout="60s", obj_timeout="90s", direct_file_access=True)(Upper)
    try:
        assert stage(client, name) == "Running"
        text = f"HELLO|{shared_bucket.name}/a/b.txt||str".encode()
        assert inline(ais, shared_bucket, name).body == text
        message = etl.view().init_msg
        assert (message.name, message.communication) == (name, "hpush://")
        assert (message.init_timeout, message.obj_timeout) == ("1m", "1m30s")
        environment = {item.name: item.value for item in message.runtime.env}
        assert (environment["NUM_WORKERS"], environment["ETL_DIRECT_FQN"]) == ("1", "true")
        assert "startup complete" in etl.logs()[0].logs
        health = ais.request("GET", f"/v1/etl/{name}/health").json()
        assert [node["health_status"] for node in health] == ["Running"] * len(health)
        with pytest.raises(ErrETLAlreadyExists) as exists:
            etl.init_class(init_timeout="60s")(Upper)
        assert f"etl job {name} already exists" in exists.value.message
        with pytest.raises(AISError) as running:
            etl.start()
        assert (running.value.status_code, "during Running stage" in running.value.message) == (400, True)
        etl.stop()
        assert stage(client, name) == "Aborted"
        assert inline(ais, shared_bucket, name).status == 404
        with pytest.raises(AISError) as aborted:
            etl.view()
        assert aborted.value.status_code == 404
        etl.start()
        assert stage(client, name) == "Running"
        assert inline(ais, shared_bucket, name).body == text
    finally:
        etl.stop()
        etl.delete()
    assert stage(client, name) == ""


def test_class_that_fails(client: Client) -> None:
    name = new_name("broken")
    etl = client.etl(name)
    try:
        with pytest.raises(AISError) as caught:
            etl.init_class(NUM_WORKERS=1, init_timeout="60s")(Broken)
        assert caught.value.status_code == 400
        assert "no weights here" in json.loads(caught.value.message)["message"]
        assert stage(client, name) == "Aborted"
        with pytest.raises(ErrETLAlreadyExists):
            etl.init_class(init_timeout="60s")(Upper)
    finally:
        etl.delete()
