"""etl/train.yaml and etl/val.yaml on a cluster, as ``ais etl init --spec`` sends them.

The embedded AIS has no containers and refuses them; a cluster needs IMAGENET_AIS_ETL_IMAGE, built from etl/Dockerfile.
Where that image's own command cannot be used, IMAGENET_AIS_ETL_COMMAND is run by sh in its place.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from aistore.sdk import Client

from aistore_data.bucket.listing import read_manifest
from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access, object_path
from aistore_data.client.http_reader import HttpReader
from aistore_data.etls import asking, lifecycle
from etl.spec import Spec
from tests.conformance.conftest import AIS, new_name
from tests.conftest import PROJECT, write_image


def spec_message(recipe: str, name: str, image: str = "") -> dict[str, Any]:
    message: dict[str, Any] = yaml.safe_load((PROJECT / "etl" / f"{recipe}.yaml").read_text())
    message["name"] = name
    message["runtime"]["image"] = image or message["runtime"]["image"]
    if command := os.environ.get("IMAGENET_AIS_ETL_COMMAND"):
        message["runtime"]["command"] = ["sh", "-c", command]
    return message


@pytest.mark.parametrize("recipe", ["train", "val"])
def test_specs_start(ais: AIS, client: Client, recipe: Any, tmp_path: Path) -> None:
    name, image = new_name("spec"), os.environ.get("IMAGENET_AIS_ETL_IMAGE", "")
    if not ais.embedded and not image:
        pytest.skip("set IMAGENET_AIS_ETL_IMAGE to an image built from etl/Dockerfile")
    answer = ais.request("PUT", "/v1/etl", json.dumps(spec_message(recipe, name, image)).encode())
    if ais.embedded:
        assert answer.status == 400 and "the embedded server has no containers" in answer.json()["message"]
        return
    assert answer.status == 200, answer
    bucket = client.bucket(name).create()
    try:
        for number in range(8):
            write_image(tmp_path / f"{number}.jpg", number, (300, 280))
            data = (tmp_path / f"{number}.jpg").read_bytes()
            bucket.object(f"train/cat/{number}.jpg").get_writer().put_content(data)
        access, uri = Access(ais.endpoint, ais.token), f"ais://{name}"
        reader, manifest = HttpReader(access), read_manifest(AisStore(uri, access), "train/")
        spec = Spec.train() if recipe == "train" else Spec.val()
        assert asking.prove(reader, uri, manifest, name, spec, len(client.cluster().get_info().tmap)) >= 2
        arguments = {"etl_name": name, "etl_args": '{"wire":"info"}'}
        assert json.loads(reader.get(object_path(uri, manifest.name(0), **arguments)))["workers"] == 4
        said: list[str] = []
        assert lifecycle.ensure(client, name, recipe, lifecycle.EtlSettings(), said.append) == (name, False)
        assert said == [f"ETL {name} is running already"]
    finally:
        lifecycle.stop(client, name)
        bucket.delete(missing_ok=True)
