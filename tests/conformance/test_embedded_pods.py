"""The embedded AIS's pods: nobody but the server reaches them, and they get nothing of the user's that they need not."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from aistore.sdk.errors import AISError
from aistore.sdk.etl.etl_config import ETLConfig

from aistore_data.embedded import EmbeddedAIS
from aistore_data.embedded.pods import PodConnection, inherited
from tests.conformance.conftest import connect, start_upper
from tests.conformance.test_embedded import put_and_transform, transform
from tests.conformance.transforms import Upper
from tests.support.processes import pod_processes

SOMEBODY = 2345

THIEF = """
import glob, os, socket, sys
root, uid = sys.argv[1], int(sys.argv[2])
if uid:
    os.setgroups([]); os.setgid(uid); os.setuid(uid)
held, tries, taken, reached = {}, 0, 0, 0
mine = os.getpid()
print("ready", flush=True)
os.set_blocking(0, False)
while not sys.stdin.buffer.peek(1):
    for line in open("/proc/net/tcp").read().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        port = int(address.split(":")[1], 16)
        if address.startswith("0100007F") and port not in held:
            tries += 1
            thief = socket.socket()
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                thief.bind(("127.0.0.1", port)); thief.listen(); thief.setblocking(False)
                held[port] = thief
            except OSError:
                thief.close()
    for path in glob.glob(f"{root}/.logs/*.sock") or [f"{root}/.logs/upper-etl.sock"]:
        tries += 1
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
                reached += 1
        except OSError:
            pass
        try:
            with socket.socket(socket.AF_UNIX) as thief:
                if uid:
                    os.unlink(path)
                    thief.bind(path)
                    taken += 1
        except OSError:
            pass
    for thief in held.values():
        try:
            connection, _ = thief.accept()
            connection.settimeout(1)
            taken += len(connection.recv(100))
        except OSError:
            pass
print(tries, taken, reached)
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that everybody on this machine may look into."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "root").mkdir(0o755)
        yield Path(folder) / "root"


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_nobody_takes_a_pods_place_while_it_starts(root: Path, workers: int) -> None:
    """A thief of another user, where the tests may make one, who tries all addresses that he can find."""
    uid = SOMEBODY if os.getuid() == 0 else 0
    with EmbeddedAIS(root) as server:
        client = connect(server)
        thief = subprocess.Popen(
            [sys.executable, "-c", THIEF, str(root), str(uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert thief.stdout is not None and thief.stdout.readline() == "ready\n"
        try:
            start_upper(client, workers)
            assert put_and_transform(client).startswith("HELLO")
        finally:
            output, _ = thief.communicate("stop\n", timeout=30)
        tries, taken, reached = map(int, output.split())
        assert tries > 10 and taken == 0
        assert reached == 0 or uid == 0
        inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
        pods = pod_processes(server.pid)
        assert len(pods) >= workers and not inodes & {inode for pod in pods for inode in socket_inodes(pod)}


def socket_inodes(process: int) -> list[str]:
    links = [os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir() if path.is_symlink()]
    return [link[len("socket:[") : -1] for link in links if link.startswith("socket:[")]


def test_a_pod_answers_the_server_alone(tmp_path: Path) -> None:
    """Even its own user needs the secret, and a secret does not make it read another file."""
    with EmbeddedAIS(tmp_path) as server:
        start_upper(connect(server))
        folder = os.open(tmp_path / ".logs", os.O_DIRECTORY)
        with closing(PodConnection(folder, "upper-etl.sock", 10)) as connection:
            for headers in ({}, {"X-Pod-Secret": "wrong"}, {"X-Pod-Secret": "ü"}):
                connection.request("PUT", "/b/o?etl_fqn=%2Fetc%2Fhostname", headers=headers)
                response = connection.getresponse()
                assert (response.status, response.read()[:13]) == (403, b"The embedded ")
        os.close(folder)


def test_no_other_user_may_read_what_a_server_keeps(root: Path) -> None:
    with EmbeddedAIS(root) as server:
        start_upper(connect(server))
        put_and_transform(connect(server))
        modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*")}
        assert modes[root / ".logs/upper-etl.log"] == 0o600 and modes[root / ".logs"] == 0o700
        assert all(mode & 0o077 == 0 for mode in modes.values()), modes


def test_pods_inherit_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIS_AUTHN_TOKEN_FILE", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PYTHONPATH"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with EmbeddedAIS(tmp_path) as server:
        start_upper(connect(server))
        assert put_and_transform(connect(server), "environment:OMP_NUM_THREADS") == "1"
        for process in pod_processes(server.pid):
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            assert not [item for item in environment if item.endswith(b"=secret")]
    assert inherited({"PATH": "a", "LC_ALL": "b", "GITHUB_TOKEN": "c", "PYTHONPATH": "d", "PYTHONHASHSEED": "e"}) == {
        "PATH": "a",
        "LC_ALL": "b",
        "PYTHONHASHSEED": "e",
    }


@pytest.mark.parametrize("path", [True, False])
def test_a_name_does_not_make_a_pod_read_another_file(tmp_path: Path, path: bool) -> None:
    """AIS does not encode names on the way to a pod, so a name can hold arguments."""
    (tmp_path / "private.txt").write_text("private")
    with EmbeddedAIS(tmp_path / "root") as server:
        client = connect(server)
        etl = client.etl("upper-etl")
        etl.init_class(NUM_WORKERS=1, init_timeout="60s", direct_file_access=path)(Upper)
        for bucket in ("mine", "other"):
            client.bucket(bucket).create().object("x").get_writer().put_content(bucket.encode())
        other = tmp_path / "root/buckets/other/x"
        assert other.read_bytes() == b"other"
        for file in (tmp_path / "private.txt", other, tmp_path / "root/buckets/mine/../other/x"):
            fqn = f"x?etl_fqn={file}"
            for name in (f"{fqn}#", f"{fqn}&a=", fqn.replace("?", "?etl_args=&") + "#", fqn.replace("/", "%252F")):
                item = client.bucket("mine").object(name)
                item.get_writer().put_content(b"hello")
                with pytest.raises(AISError, match="another file") as caught:
                    item.get_reader(etl=ETLConfig("upper-etl", args="a")).read_all()
                assert caught.value.status_code == 400
        good = client.bucket("mine").object("x").get_reader(etl=ETLConfig("upper-etl", args="a")).read_all()
        assert good.startswith(b"MINE|mine/x|a|")


def test_a_pod_that_cannot_start_is_aborted(tmp_path: Path) -> None:
    """As with a variable that no process can have."""
    with EmbeddedAIS(tmp_path) as server:
        client = connect(server)
        for name in ("GREETING", "a=b"):
            with pytest.raises(AISError, match="cannot be started") as caught:
                client.etl("upper-etl").init_class(NUM_WORKERS=1, **{name: "a\0b"})(Upper)
            assert caught.value.status_code == 400
            assert client.cluster().list_etls(["Aborted"])[0].stage == "Aborted"
            client.etl("upper-etl").delete()


def test_a_root_that_lies_deep(tmp_path: Path) -> None:
    """A socket's address has 108 bytes at most."""
    with EmbeddedAIS(tmp_path / ("d" * 100) / ("e" * 100)) as server:
        start_upper(connect(server))
        assert put_and_transform(connect(server)).startswith("HELLO")
        assert transform(connect(server)).startswith("HELLO")
