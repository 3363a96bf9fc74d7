"""The runtime specs that an administrator starts: AIStore's fields, this version's code, and what a run itself starts."""

import re
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from aistore import Client

from aistore_data.embedded.etls import duration_s
from aistore_data.etls import lifecycle
from etl.code import code_sha256
from etl.request import CODE_VARIABLE
from scripts.etl_specs import ETL, SPECS, updated
from tests.conftest import PROJECT
from training.config.etl_options import EtlConfig

# AIStore 5.0, ext/etl/api.go: ETLSpecMsg with InitMsgBase inline, RuntimeSpec, and the communication types.
FIELDS = {
    *("name", "communication", "env", "init_timeout", "obj_timeout", "support_direct_put"),
    *("runtime", "resources"),
}
RUNTIME_FIELDS = {"image", "command", "env"}
COMMUNICATION = {"hpush://", "hpull://", "ws://"}
# k8s.io/api/core/v1: EnvVar and ResourceRequirements, as far as a spec needs them.
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi)?")


def load(recipe: str) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((ETL / f"{recipe}.yaml").read_text())
    return spec


@pytest.mark.parametrize("recipe", ["train", "val"])
def test_the_fields_are_aistores(recipe: str) -> None:
    spec = load(recipe)
    assert set(spec) <= FIELDS and {"name", "runtime", "communication"} <= set(spec)
    assert set(spec["runtime"]) <= RUNTIME_FIELDS and spec["communication"] in COMMUNICATION
    assert all(set(item) == {"name", "value"} for item in spec["runtime"]["env"])
    assert all(isinstance(item["value"], str) for item in spec["runtime"]["env"])  # Kubernetes takes no numbers
    assert set(spec["resources"]) <= {"requests", "limits"}
    for part in spec["resources"].values():
        assert set(part) <= {"cpu", "memory"}
        assert all(isinstance(value, str) and QUANTITY.fullmatch(value) for value in part.values())
    assert isinstance(spec["support_direct_put"], bool)


@pytest.mark.parametrize("recipe", ["train", "val"])
def test_they_start_what_data_etl_image_starts(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def request(method: str, path: str, json: Any = None, **_: Any) -> Any:
        asked.append(json)
        return SimpleNamespace(text="id")

    client = Client("http://localhost")
    monkeypatch.setattr(client._request_client, "request", request)
    spec = load(recipe)
    settings = lifecycle.EtlSettings(image=spec["runtime"]["image"])
    name = getattr(EtlConfig(), f"{recipe}_name")
    assert lifecycle._init(client, name, recipe, code_sha256(), settings, print)
    (message,) = asked

    def environment(of: Any) -> dict[str, str]:
        return {item["name"]: item["value"] for item in of["runtime"]["env"]}

    assert environment(spec)[CODE_VARIABLE] == code_sha256(), "the ETLs' code changed: python -m scripts.etl_specs"
    assert environment(spec) == environment(message)
    for field in ("name", "communication", "support_direct_put"):
        assert spec[field] == message[field]
    for field in ("init_timeout", "obj_timeout"):
        assert duration_s(spec[field]) == duration_s(message[field])
    assert "command" not in spec["runtime"]  # the image's own


def test_image_and_fingerprint_are_written() -> None:
    text = SPECS[0].read_text()
    assert updated(text, "") == text
    other = updated(text.replace(code_sha256(), "0" * 64), "registry.example:5000/etl@sha256:abc")
    spec = yaml.safe_load(other)
    assert spec["runtime"]["image"] == "registry.example:5000/etl@sha256:abc"
    assert {item["name"]: item["value"] for item in spec["runtime"]["env"]}[CODE_VARIABLE] == code_sha256()
    command = [sys.executable, "-m", "scripts.etl_specs", "--image", "two words"]
    process = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert process.returncode == 2 and "is not the name of an image" in process.stderr
    assert SPECS[0].read_text() == text
