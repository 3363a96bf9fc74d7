"""The cluster map, readiness, and who may ask."""

import pytest
from aistore.sdk import Client
from aistore.sdk.errors import AISError

from tests.conformance.conftest import AIS


def test_ready(client: Client) -> None:
    assert client.cluster().is_ready()


def test_cluster_map(ais: AIS, client: Client) -> None:
    smap = client.cluster().get_info()
    assert len(smap.tmap) >= 1
    assert all(node.public_net.direct_url.startswith("http") for node in smap.tmap.values())
    raw = ais.request("GET", "/v1/daemon?what=smap").json()
    assert isinstance(raw["version"], str)
    assert all(isinstance(node["id_digest"], int) for node in raw["tmap"].values())


@pytest.mark.parametrize("token", ["", "wrong"])
def test_token(ais: AIS, token: str) -> None:
    if not ais.embedded:
        pytest.skip("a cluster may run without AuthN")
    node = ais.client().cluster().get_info()
    target = next(iter(node.tmap.values())).public_net.direct_url
    headers = {"Authorization": f"Bearer {token}"} if token else {"Authorization": ""}
    for url in ("/v1/daemon?what=smap", "/v1/buckets/b", "/v1/etl", f"{target}/v1/objects/b/o", f"{target}/v1/health"):
        answer = ais.request("GET", url, headers=headers)
        assert answer.status == 401, url
        assert "token" in answer.json()["message"]
    with pytest.raises(AISError) as caught:
        ais.client(token="wrong").cluster().list_buckets()
    assert caught.value.status_code == 401


def test_forged_redirect(ais: AIS, bucket: object) -> None:
    if not ais.embedded:
        pytest.skip("how a cluster's proxy signs redirects is its own affair")
    location = ais.request("PUT", f"/v1/objects/{bucket.name}/o", b"x").headers["Location"]
    nobody = {"Authorization": ""}
    assert ais.request("PUT", location.replace("/o?", "/p?"), b"x", nobody).status == 401
    assert ais.request("DELETE", location, headers=nobody).status == 401
    assert ais.request("PUT", location + "&etl_name=another", b"x", nobody).status == 401
    assert ais.request("PUT", location, b"x", nobody).status == 200


def test_unknown_path(ais: AIS) -> None:
    answer = ais.request("GET", "/v1/nosuch")
    assert 400 <= answer.status < 500
