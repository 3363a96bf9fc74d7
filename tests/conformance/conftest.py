"""The clusters under test, a client without silent retries, and requests without the SDK."""

import http.client
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from aistore.sdk import Bucket, Client
from aistore.sdk.retry_config import RetryConfig
from tenacity import Retrying, stop_after_attempt
from urllib3 import Retry

from aistore_data.embedded import EmbeddedAIS
from tests.conformance.transforms import Upper

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Answer:
    """What came back, without following a redirect."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class AIS:
    """A cluster under test."""

    endpoint: str
    token: str
    embedded: bool

    @property
    def direct(self) -> bool:
        """Whether targets answer without a redirect: a cluster with AuthN wants the proxy between, the embedded not."""
        return self.embedded or not self.token

    def __repr__(self) -> str:
        return f"AIS({self.endpoint})"

    def client(self, token: str | None = None) -> Client:
        retry = RetryConfig(http_retry=Retry(total=0), network_retry=Retrying(stop=stop_after_attempt(1), reraise=True))
        return Client(self.endpoint, token=token or self.token, timeout=TIMEOUT_S, retry_config=retry)

    def request(
        self, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None, token: str = ""
    ) -> Answer:
        """One request to a path of the endpoint or to a whole URL; with the token unless headers name another."""
        host = urlsplit(url if url.startswith("http") else self.endpoint)
        path = url.removeprefix(f"{host.scheme}://{host.netloc}") if url.startswith("http") else url
        connection = http.client.HTTPConnection(host.hostname or "", host.port or 80, timeout=TIMEOUT_S)
        try:
            secret = token or self.token
            authorization = {"Authorization": f"Bearer {secret}"} if secret else {}
            connection.request(method, path, body, {**authorization, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.msg, response.read())
        finally:
            connection.close()

    def follow(self, method: str, url: str, body: bytes | None = None) -> Answer:
        """A request to the proxy, then to where it points."""
        first = self.request(method, url, body)
        assert first.status in (301, 307), first
        return self.request(method, first.headers["Location"], body)


@pytest.fixture(scope="session", params=["embedded", *(["cluster"] if os.environ.get("AIS_ENDPOINT") else [])])
def ais(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AIS]:
    """The embedded AIS; and the cluster at AIS_ENDPOINT, if there is one."""
    if request.param == "cluster":
        yield AIS(os.environ["AIS_ENDPOINT"].rstrip("/"), os.environ.get("AIS_AUTHN_TOKEN", ""), embedded=False)
        return
    with EmbeddedAIS(tmp_path_factory.mktemp("ais"), token=uuid.uuid4().hex) as server:
        yield AIS(server.endpoint, server.token, embedded=True)


@pytest.fixture(scope="session")
def client(ais: AIS) -> Client:
    return ais.client()


def connect(server: EmbeddedAIS) -> Client:
    return AIS(server.endpoint, server.token, embedded=True).client()


def start_upper(client: Client, workers: int = 1) -> None:
    client.etl("upper-etl").init_class(NUM_WORKERS=workers, init_timeout="60s")(Upper)


def new_name(kind: str) -> str:
    """A name that no other test uses; short enough for an ETL."""
    return f"{kind}-{uuid.uuid4().hex[:10]}"


@pytest.fixture
def bucket(client: Client) -> Iterator[Bucket]:
    """An empty bucket."""
    bucket = client.bucket(new_name("conf")).create()
    yield bucket
    bucket.delete(missing_ok=True)


@pytest.fixture(scope="session")
def upper(client: Client) -> Iterator[str]:
    """A running ETL; its name."""
    etl = client.etl(new_name("upper"))
    etl.init_class(NUM_WORKERS=1, init_timeout="60s", obj_timeout="2s", GREETING="hello")(Upper)
    yield etl.name
    etl.stop()
    etl.delete()


@pytest.fixture(scope="session")
def shared_bucket(client: Client) -> Iterator[Bucket]:
    """A bucket with the object a/b.txt = hello, for transforms."""
    bucket = client.bucket(new_name("conf")).create()
    bucket.object("a/b.txt").get_writer().put_content(b"hello")
    yield bucket
    bucket.delete(missing_ok=True)
