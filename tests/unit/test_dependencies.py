"""Every package that the code imports is declared, with a range that the pinned version lies in."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import PROJECT

NAMES = {"PIL": "pillow", "yaml": "pyyaml", "hydra": "hydra-core", "kubernetes_validate": "kubernetes-validate"}
"""Packages whose modules have another name."""

OPTIONAL = {
    "imagenet_ais_native": "built from native/",
    "websockets": "of uvicorn[standard], which aistore[etl] brings",
}
OURS = {"training", "aistore_data", "sources", "etl", "scripts", "tests", "benchmarks", "native", "train"}


def project() -> dict[str, list[Requirement]]:
    content = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = content["optional-dependencies"]
    return {
        "run": [Requirement(text) for text in content["dependencies"]],
        "extras": [Requirement(text) for texts in extras.values() for text in texts],
    }


def imported(folder: str) -> dict[str, Path]:
    """Third-party modules by their first name, and a file that imports each."""
    found: dict[str, Path] = {}
    for path in sorted((PROJECT / folder).rglob("*.py")) if folder != "train.py" else [PROJECT / folder]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in {name.partition(".")[0] for name in names} - OURS - sys.stdlib_module_names:
                found[name] = path
    return found


@pytest.mark.parametrize("folder", ["train.py", "training", "aistore_data", "sources", "etl", "scripts", "tests"])
def test_what_is_imported_is_declared(folder: str) -> None:
    declared = {canonicalize_name(requirement.name) for requirement in project()["run"]}
    if folder in ("scripts", "tests"):  # preparation reads Parquet where pyarrow is installed
        declared |= {canonicalize_name(requirement.name) for requirement in project()["extras"]}
    found = imported(folder)
    assert found, f"{folder} imports nothing"
    missing = {
        name: str(path.relative_to(PROJECT))
        for name, path in found.items()
        if canonicalize_name(NAMES.get(name, name)) not in declared and name not in OPTIONAL
    }
    assert missing == {}


def test_pinned_versions_lie_in_the_ranges() -> None:
    pins = {}
    for name in ("requirements.txt", "requirements-torch.txt"):
        for line in (PROJECT / name).read_text().splitlines():
            if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;+]+)", line):
                pins[canonicalize_name(match[1])] = match[2]
    for requirement in project()["run"]:
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(pin, prereleases=True), f"{requirement} does not hold {pin}"
