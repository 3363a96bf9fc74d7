"""https with a private authority and client certificates, through the SDK and the fast reader alike."""

import http.client
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.client.sdk import connect, explain, make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.embedded.errors import EmbeddedError
from aistore_data.embedded.tls import Tls
from sources.disk import map_file
from sources.errors import ClusterError
from tests.conftest import PROJECT, TINY, Result
from tests.support.certificates import Authority, Pair

NAMES = ("AIS_CLIENT_CA", "AIS_CRT", "AIS_CRT_KEY", "AIS_SKIP_VERIFY_CRT", "AIS_SKIP_VERIFY")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> Callable[..., None]:
    """Sets the SDK's names, and takes away those that are not given."""

    def call(ca: Path | None = None, client: Pair | None = None) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        if ca:
            monkeypatch.setenv("AIS_CLIENT_CA", str(ca))
        if client:
            monkeypatch.setenv("AIS_CRT", str(client.certificate))
            monkeypatch.setenv("AIS_CRT_KEY", str(client.key))

    # requests prefers this to what the SDK tells it.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(authority.folder, "everybody").root.certificate))
    return call


@pytest.fixture(scope="module")
def secured(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """A server that wants client certificates."""
    pair = authority.sign("server")
    tls = Tls(pair.certificate, pair.key, authority.root.certificate)
    with EmbeddedAIS(tmp_path_factory.mktemp("ais"), tls=tls) as server:
        assert server.endpoint.startswith("https://127.0.0.1:")
        yield Access(server.endpoint, server.token)


def reasons(access: Access) -> set[str]:
    """What either client says of an endpoint that it cannot use."""
    with pytest.raises(ClusterError) as said:
        connect(access)
    with pytest.raises(Exception) as caught:  # of whatever kind: it becomes a sentence
        make_client(access).bucket("b").head()
    assert access.token not in f"{said.value}{caught.value}"
    return {str(said.value), explain(caught.value, access)}


def test_both_clients_work(secured: Access, authority: Authority, trust: Callable[..., None]) -> None:
    trust(authority.root.certificate, authority.sign("client"))
    assert connect(secured) != {}
    bucket = make_client(secured).bucket("secured").create()
    big = bytes(range(256)) * 10_000
    for name, content in (("a b", b"hello"), ("big", big)):
        bucket.object(name).get_writer().put_content(content)
        assert bucket.object(name).get_reader().read_all() == content
        for _ in range(2):
            assert HttpReader(secured).get(object_path("ais://secured", name)) == content
    assert [entry.name for entry in bucket.list_all_objects()] == ["a b", "big"]


def test_a_client_without_the_right_certificate(
    secured: Access, authority: Authority, trust: Callable[..., None]
) -> None:
    ca = authority.root.certificate
    trust(ca)
    for reason in reasons(secured):  # the alert, or a reset that overtakes it
        assert "wants a client certificate" in reason and "set AIS_CRT and AIS_CRT_KEY" in reason
    stranger = Authority(authority.folder, "stranger").sign("of-a-stranger")
    for client in (stranger, authority.sign("old", days=-1)):
        trust(ca, client)
        for reason in reasons(secured):
            assert "refuses" in reason and "client certificate" in reason and "AIS_CRT" in reason, reason


def test_a_server_that_cannot_be_trusted(
    secured: Access, authority: Authority, trust: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = authority.sign("client")
    trust(None, client)
    (reason,) = reasons(secured)
    assert "an authority that this machine does not know. Set AIS_CLIENT_CA" in reason
    other = Authority(authority.folder, "other").root.certificate
    trust(other, client)
    (reason,) = reasons(secured)
    assert f"is not signed by AIS_CLIENT_CA={other}" in reason
    monkeypatch.setenv("AIS_SKIP_VERIFY_CRT", "true")
    with pytest.warns(UserWarning, match="insecure"):
        assert make_client(secured).cluster().is_ready()
    assert connect(secured)


@pytest.mark.parametrize(
    ("subject", "days", "expected"),
    [
        ("DNS:elsewhere", 1, "its certificate is not for 127.0.0.1. Use a name that is in it: --endpoint"),
        ("IP:127.0.0.1", -1, "a certificate has expired"),
    ],
)
def test_a_certificate_that_does_not_fit(
    subject: str, days: int, expected: str, authority: Authority, trust: Callable[..., None], tmp_path: Path
) -> None:
    pair = authority.sign("unfit", subject, days)
    trust(authority.root.certificate)
    with EmbeddedAIS(tmp_path, tls=Tls(pair.certificate, pair.key)) as server:
        (reason,) = reasons(Access(server.endpoint, server.token, option="--endpoint"))
    assert expected in reason


def test_http_and_https_taken_for_each_other(
    secured: Access, authority: Authority, trust: Callable[..., None], tmp_path: Path
) -> None:
    trust(authority.root.certificate)
    http_url = secured.endpoint.replace("https", "http")
    with pytest.raises(ClusterError, match=f"{http_url} speaks https: write data.endpoint={secured.endpoint}"):
        connect(Access(http_url, secured.token, option="data.endpoint"))
    with EmbeddedAIS(tmp_path) as plain:
        https_url = plain.endpoint.replace("http", "https")
        (reason,) = reasons(Access(https_url, plain.token, option="data.endpoint"))
        assert f"{https_url} does not speak https: write data.endpoint={plain.endpoint}" in reason


def test_training_over_https(
    train: Callable[..., Result],
    train_py: Callable[..., Result],
    secured: Access,
    authority: Authority,
    trust: Callable[..., None],
    small_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust(authority.root.certificate, authority.sign("client"))
    monkeypatch.setenv("AIS_ENDPOINT", secured.endpoint)
    monkeypatch.setenv("AIS_AUTHN_TOKEN", secured.token)
    command = [sys.executable, "-m", "aistore_data.upload", str(small_folder), "ais://over-https"]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=120)
    words = ["data=aistore", "data.bucket=ais://over-https", "data.transform=client", *TINY, "train.epochs=1"]
    remote = train_py(*words, "data.workers=1", "run_dir=https")  # its workers have its environment
    assert remote.code == 0, remote.output
    local = train(f"data.root={small_folder}", *TINY, "train.epochs=1", "run_dir=folder")
    assert remote.summary()["state_sha256"] == local.summary()["state_sha256"]
    monkeypatch.delenv("AIS_CRT")
    monkeypatch.delenv("AIS_CRT_KEY")
    refused = train(*words, "run_dir=refused")
    assert refused.code == 1 and "wants a client certificate" in refused.output


def test_a_file_that_is_not_read_into_memory_is_put_over_https(
    secured: Access, authority: Authority, trust: Callable[..., None], tmp_path: Path
) -> None:
    trust(authority.root.certificate, authority.sign("client"))
    store, path = AisStore("ais://large-over-https", secured), tmp_path / "large"
    path.write_bytes(bytes(range(256)) * (3 << 12))
    store.create()
    store.put("large", map_file(path))
    assert store.get("large") == path.read_bytes()


def test_the_embedded_servers_own_options(authority: Authority, secured: Access, tmp_path: Path) -> None:
    pair = authority.sign("server2")
    with pytest.raises(EmbeddedError, match=r"--tls-cert .*server2.key.* cannot be used"):
        EmbeddedAIS(tmp_path, tls=Tls(pair.key, pair.certificate)).__enter__()
    command = [sys.executable, "-m", "aistore_data.embedded", "--root", str(tmp_path), "--tls-cert", "x"]
    process = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 2 and "--tls-cert and --tls-key belong together" in process.stderr
    plain = http.client.HTTPConnection(secured.endpoint.removeprefix("https://"), timeout=10)
    plain.request("GET", "/v1/health")
    answer = plain.getresponse()  # in the words of Go's server
    assert (answer.status, answer.read()) == (400, b"Client sent an HTTP request to an HTTPS server.\n")
    plain.close()
