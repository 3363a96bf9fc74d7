"""The embedded AIS alone: restarts, ends, faults, folders in place, and the SDK's own data set."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aistore.pytorch import AISMapDataset
from aistore.sdk import Bucket, Client
from aistore.sdk.errors import AISError
from aistore.sdk.etl.etl_config import ETLConfig

from aistore_data.embedded import EmbeddedAIS, EmbeddedError
from aistore_data.embedded.errors import ApiError
from aistore_data.embedded.etls import duration_s, go_duration, missing_packages
from aistore_data.embedded.server import EmbeddedServer
from aistore_data.embedded.store import Entry, Store, decode_name, encode_name
from tests.conformance.conftest import AIS, connect, start_upper
from tests.conformance.test_objects import ODD_NAMES
from tests.conformance.transforms import Upper
from tests.conftest import PROJECT
from tests.support.processes import pod_processes, processes

WAIT_S = 10.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedAIS]:
    with EmbeddedAIS(tmp_path / "root") as server:
        yield server


def test_it_listens_on_one_loopback_address_and_makes_a_token(server: EmbeddedAIS, tmp_path: Path) -> None:
    start_upper(connect(server))
    target = next(iter(connect(server).cluster().get_info().tmap.values())).public_net.direct_url
    for url in (server.endpoint, target):
        host, port = url.removeprefix("http://").split(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port)), timeout=WAIT_S).close()
        with pytest.raises(ConnectionRefusedError):  # of a socket that listens on all addresses this would be one more
            socket.create_connection(("127.0.0.2", int(port)), timeout=WAIT_S)
    with EmbeddedAIS(tmp_path / "other") as other:
        assert other.token != server.token and min(len(other.token), len(server.token)) >= 32


def put_and_transform(client: Client, args: str = "") -> str:
    bucket = client.bucket("b").create(exist_ok=True)
    bucket.object("o").get_writer().put_content(b"hello")
    return transform(client, args)


def transform(client: Client, args: str = "") -> str:
    query = {"etl_name": "upper-etl", "etl_args": args, "provider": "ais"}
    return client._request_client.request("get", path="objects/b/o", params=query).text


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def stage(client: Client) -> str:
    return client.cluster().list_etls(["Running", "Initializing", "Aborted"])[0].stage


def test_objects_survive_a_restart(tmp_path: Path) -> None:
    names = [*ODD_NAMES, "a", "a/b", "a/b/c", "dots/../x", "x" * 700, "tail%", "empty//part", "end/"]
    for name in names:
        assert decode_name(encode_name(name)) == name
    with EmbeddedAIS(tmp_path) as server:
        bucket = connect(server).bucket("kept").create()
        for name in [*ODD_NAMES, "a", "b/b", "b/c/d"]:
            bucket.object(name).get_writer().put_content(name.encode())
        bucket.object("a").delete()
    (tmp_path / "buckets" / "kept" / ".put-leftover").write_bytes(b"half an object")
    with EmbeddedAIS(tmp_path) as server:
        bucket = connect(server).bucket("kept")
        kept = {entry.name: bucket.object(entry.name).get_reader().read_all() for entry in bucket.list_all_objects()}
    assert kept == {name: name.encode() for name in [*ODD_NAMES, "b/b", "b/c/d"]}


def test_map_dataset(server: EmbeddedAIS) -> None:
    client = connect(server)
    bucket = client.bucket("data").create()
    for number in range(5):
        bucket.object(f"train/{number}.txt").get_writer().put_content(f"text {number}".encode())
    bucket.object("val/0.txt").get_writer().put_content(b"x")
    start_upper(client)
    dataset = AISMapDataset(bucket, prefix_map={bucket: "train/"}, etl_name="upper-etl")
    assert len(dataset) == 5
    assert dataset[3] == ("train/3.txt", b"TEXT 3|data/train/3.txt||bytes")
    assert [name for name, _ in dataset.__getitems__([4, 0])] == ["train/4.txt", "train/0.txt"]


def test_parent_is_killed(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from aistore_data.embedded import EmbeddedAIS
from tests.conformance.conftest import connect, start_upper
with EmbeddedAIS(Path(sys.argv[1])) as server:
    start_upper(connect(server), workers=2)
    print(server.pid, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=PROJECT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    others = [server, *pod_processes(server)]
    assert len(others) >= 4  # the server, the pod, its workers
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not set(others) & set(processes()))


def test_server_is_killed(tmp_path: Path) -> None:
    with EmbeddedAIS(tmp_path) as server:
        start_upper(connect(server), workers=2)
        pods = pod_processes(server.pid)
        assert len(pods) >= 3
        os.kill(server.pid, signal.SIGTERM)  # ignored: its owner ends it
        assert connect(server).cluster().is_ready()
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not set(pods) & set(processes()))


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aistore_data.embedded", "--root", str(tmp_path / "new" / "root")]
    process = subprocess.Popen(
        command, cwd=PROJECT, env={**os.environ, "AIS_AUTHN_TOKEN": "given"}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    endpoint = process.stdout.readline().strip().removeprefix("AIS_ENDPOINT=")
    assert process.stdout.readline().strip() == "AIS_AUTHN_TOKEN=given"
    ais = AIS(endpoint, "given", embedded=True)
    start_upper(ais.client())
    assert put_and_transform(ais.client(), "a").startswith("HELLO|b/o|a|")
    curl = ["curl", "-sSL", "--max-time", "10", "-H", "Authorization: Bearer given"]
    url = f"{endpoint}/v1/objects/b/o?etl_name=upper-etl&etl_args=x"
    assert subprocess.check_output([*curl, url], timeout=20).startswith(b"HELLO|b/o|x|")
    pods = pod_processes(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 0
    process.stdout.close()
    assert not set(pods) & set(processes())


def test_command_line_with_a_folder_of_photos(small_folder: Path, tmp_path: Path) -> None:
    """It is served and stays as it is; what clients store goes with the server."""
    before = sorted(small_folder.rglob("*"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "aistore_data.embedded", str(small_folder)]
    environment = {**os.environ, "AIS_AUTHN_TOKEN": "given", "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    endpoint = process.stdout.readline().strip().removeprefix("AIS_ENDPOINT=")
    client = AIS(endpoint, "given", embedded=True).client()
    names = [entry.name for entry in client.bucket("imagenet").list_all_objects()]
    assert client.bucket("imagenet").object(names[-1]).get_reader().read_all()
    assert put_and_store(client) and list(temporary.iterdir())
    process.send_signal(signal.SIGINT)
    assert process.wait(WAIT_S) == 0
    process.stdout.close()
    assert sorted(small_folder.rglob("*")) == before and list(temporary.iterdir()) == []


def put_and_store(client: Client) -> bool:
    bucket = client.bucket("b").create()
    bucket.object("o").get_writer().put_content(b"hello")
    return bool(bucket.object("o").get_reader().read_all() == b"hello")


def test_folders_of_photos_are_not_the_servers_own(small_folder: Path, tmp_path: Path) -> None:
    before = sorted(small_folder.rglob("*"))
    photo = next(path for path in before if path.is_file())
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "x.JPEG").write_bytes(photo.read_bytes())
    cases = {
        small_folder: f"as ais://imagenet: python -m aistore_data.embedded {small_folder}",
        small_folder / "train": "holds the photo",
        photo.parent: "holds the photo",
        tmp_path / "flat": "x.JPEG",
    }
    for root, words in cases.items():
        with pytest.raises(EmbeddedError, match=re.escape(words)) as caught:
            EmbeddedServer(root, "token")
        assert str(caught.value).startswith(f"--root {root} holds")
    for root in (small_folder, small_folder / "new", small_folder / "train" / ".." / "new"):
        with pytest.raises(EmbeddedError, match="which is served unchanged"):
            EmbeddedServer(root, "token", imagefolder=small_folder)
    assert sorted(small_folder.rglob("*")) == before
    command = [sys.executable, "-m", "aistore_data.embedded", "--root", str(small_folder)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert sorted(small_folder.rglob("*")) == before


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedError, match=rf"port {port} of 127\.0\.0\.1 cannot be used: Address already in use"):
            EmbeddedAIS(tmp_path, port=port).__enter__()
        command = [sys.executable, "-m", "aistore_data.embedded", "--root", str(tmp_path), "--port", str(port)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_root_that_cannot_be_used(tmp_path: Path, server: EmbeddedAIS) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="cannot be written"):
        EmbeddedAIS(tmp_path / "file").__enter__()
    with pytest.raises(EmbeddedError, match="in use by another embedded AIS"):
        EmbeddedAIS(tmp_path / "root").__enter__()
    with pytest.raises(EmbeddedError, match="nowhere"):
        EmbeddedAIS(tmp_path / "other", imagefolder=tmp_path / "nowhere").__enter__()


@pytest.mark.parametrize("layout", ["folders", "pairs"])
def test_imagefolder(tmp_path: Path, small_folder: Path, layout: str) -> None:
    before = sorted(small_folder.rglob("*"))
    files = sorted(path.relative_to(small_folder).as_posix() for path in before if path.is_file())
    with EmbeddedAIS(tmp_path / "root", imagefolder=small_folder, layout=layout) as server:
        bucket = connect(server).bucket("imagenet")
        sizes = {entry.name: entry.size for entry in bucket.list_all_objects(page_size=7)}
        read = {name: bucket.object(name).get_reader().read_all() for name in sizes}
        assert {name: len(data) for name, data in read.items()} == sizes
        assert json.loads(read[".imagenet-ais/train/classes.json"]) == ["cat", "dog", "eel"]
        names = [name for name in sizes if not name.endswith(".json")]
        if layout == "folders":
            assert names == files
            assert all(read[name] == (small_folder / name).read_bytes() for name in names)
        else:
            assert names[:2] == ["train/0000000.cls", "train/0000000.jpg"]
            train = [name for name in files if name.startswith("train/")]
            assert len(names) == 2 * len(files)
            for index, name in enumerate(train):
                assert read[f"train/{index:07}.jpg"] == (small_folder / name).read_bytes()
                label = ["cat", "dog", "eel"].index(name.split("/")[1])
                assert read[f"train/{index:07}.cls"] == str(label).encode()
            assert bucket.object("train/0000012.cls").get_reader(byte_range="bytes=0-0").read_all() == b"1"
        for change in (
            lambda: bucket.object(names[0]).get_writer().put_content(b"other"),
            bucket.object(names[0]).delete,
            bucket.delete,
        ):
            with pytest.raises(AISError, match="served read-only"):
                change()
        bucket.object("train/new.txt").get_writer().put_content(b"new")
        assert bucket.object("train/new.txt").get_reader().read_all() == b"new"
        assert len(bucket.list_all_objects()) == len(sizes) + 1
        if layout == "folders":
            etl = connect(server).etl("upper-etl")
            etl.init_class(NUM_WORKERS=1, init_timeout="60s", direct_file_access=True)(Upper)
            reader = bucket.object(names[0]).get_reader(etl=ETLConfig("upper-etl", args="repeat:1"))
            assert reader.read_all() == read[names[0]]
    assert sorted(small_folder.rglob("*")) == before


def test_pod_dies(server: EmbeddedAIS) -> None:
    client = connect(server)
    start_upper(client)
    assert put_and_transform(client).startswith("HELLO")
    with pytest.raises(AISError, match="EOF") as caught:
        transform(client, "exit:7")
    assert caught.value.status_code == 400
    wait_until(lambda: stage(client) == "Aborted")
    assert pod_processes(server.pid) == []
    with pytest.raises(AISError, match="try starting new ETL"):
        transform(client)
    client.etl("upper-etl").start()
    assert transform(client).startswith("HELLO")


def test_many_at_once(server: EmbeddedAIS) -> None:
    client = connect(server)
    start_upper(client, workers=2)
    bucket = client.bucket("b").create()

    def one(number: int) -> None:
        name = f"n/{number % 20}"
        data = str(number).encode() * 1000
        bucket.object(name).get_writer().put_content(data)
        read = bucket.object(name).get_reader().read_all().decode()  # this thread's or another's, but whole
        assert read == read[: len(read) // 1000] * 1000
        text = bucket.object(name).get_reader(etl=ETLConfig("upper-etl", args=f"a{number}")).read_all()
        assert text.endswith(f"|b/{name}|a{number}|bytes".encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(200)))
    assert len(bucket.list_all_objects()) == 20


def test_worker_dies(server: EmbeddedAIS) -> None:
    client = connect(server)
    start_upper(client, workers=2)
    assert put_and_transform(client).startswith("HELLO")
    with pytest.raises(AISError, match="EOF"):
        transform(client, "exit:7")
    wait_until(lambda: transform(client).startswith("HELLO"))
    assert stage(client) == "Running"


def init_message(**changes: object) -> dict[str, object]:
    return {"name": "some-etl", "communication": "hpush://", "runtime": {"image": "python:3.11"}, **changes}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (init_message(), "has no containers"),
        (init_message(name="X"), "ETL name"),
        (init_message(communication="ws://"), "not supported here"),
        (init_message(runtime={"env": [{"name": "ETL_CLASS_PAYLOAD", "value": "!"}]}), "not base64"),
        (init_message(runtime={"env": [{"name": "ETL_CLASS_PAYLOAD", "value": ""}]}, init_timeout="soon"), "duration"),
    ],
)
def test_bad_init(ais: AIS, message: dict[str, object], words: str) -> None:
    if not ais.embedded:
        pytest.skip("a cluster has containers, and words of its own")
    answer = ais.request("PUT", "/v1/etl", json.dumps(message).encode())
    assert answer.status == 400
    assert words in answer.json()["message"]


def test_packages() -> None:
    assert missing_packages("numpy, pillow>=1") == ""
    assert "no-such-package is not installed" in missing_packages("numpy,no-such-package")
    assert "numpy==0.1 is wanted but" in missing_packages("numpy==0.1")
    assert "not a requirement" in missing_packages("==")


def test_missing_dependency_fails_the_init(server: EmbeddedAIS) -> None:
    client = connect(server)
    with pytest.raises(AISError, match=r"numpy==0\.1 is wanted but"):
        client.etl("upper-etl").init_class(dependencies=["numpy==0.1"], init_timeout="60s")(Upper)
    assert stage(client) == "Aborted"


def test_durations() -> None:
    assert [duration_s(text) for text in ("5m", "1m30s", "500ms", "1.5h")] == [300, 90, 0.5, 5400]
    with pytest.raises(ApiError, match="not a duration"):
        duration_s("5 minutes")
    written = {"60s": "1m", "90s": "1m30s", "1500ms": "1.5s", "20ms": "20ms", "3600s": "1h0m", "3601s": "1h0m1s"}
    assert {text: go_duration(duration_s(text)) for text in written} == written


def test_put_that_breaks_off(server: EmbeddedAIS, tmp_path: Path) -> None:
    bucket: Bucket = connect(server).bucket("b").create()
    target = next(iter(connect(server).cluster().get_info().tmap.values())).public_net
    with socket.create_connection(("127.0.0.1", int(target.daemon_port)), timeout=WAIT_S) as connection:
        head = f"PUT /v1/objects/b/o?pid=p HTTP/1.1\r\nAuthorization: Bearer {server.token}\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode() + b"half")
        wait_until(lambda: any((tmp_path / "root/buckets/b").iterdir()))
    wait_until(lambda: not any((tmp_path / "root/buckets/b").iterdir()))
    assert bucket.list_all_objects() == []


def test_many_names_are_listed_quickly(tmp_path: Path) -> None:
    entry = Entry(1, "", 1, content=b"x", read_only=True)
    bucket = Store(tmp_path, {"b": {f"train/{number:07}.jpg": entry for number in range(200_000)}}).bucket("b")
    start = time.monotonic()
    after, count = "", 0
    while page := bucket.page("train/", after, 1000):
        after, count = page[-1][0], count + len(page)
    assert count == 200_000
    assert time.monotonic() - start < 5  # 200 pages; some 0.1 s
