"""Every package that the code imports is declared, with a range that the pinned version lies in."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.environment import package_of, requirement_lines
from tests.conftest import PROJECT

NAMES = {
    "PIL": "pillow",
    "hydra": "hydra-core",
    "nvidia": "nvidia-dali-cuda120",
    "streaming": "mosaicml-streaming",
    "yaml": "pyyaml",
}
"""Packages whose modules have another name."""

OPTIONAL = {
    "imagenet_ais_native": "built from native/",
    "wids": "of webdataset before 1.0, which an environment of the benchmark's own has",
    "webdataset": "of aistore[pytorch], which the extra dev brings",
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


FOLDERS = ("train.py", "training", "aistore_data", "sources", "etl", "scripts", "tests", "benchmarks")


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_imported_is_declared(folder: str) -> None:
    declared = {canonicalize_name(requirement.name) for requirement in project()["run"]}
    if folder in ("scripts", "tests", "benchmarks"):  # such as Parquet's, and weights to measure with
        declared |= {canonicalize_name(requirement.name) for requirement in project()["extras"]}
    if folder == "benchmarks":  # the peers, in an environment of their own
        lines = requirement_lines((PROJECT / "benchmarks" / "requirements.txt").read_text())
        declared |= {canonicalize_name(package_of(word)) for words in lines for word in words}
    found = imported(folder)
    assert found, f"{folder} imports nothing"
    missing = {
        name: str(path.relative_to(PROJECT))
        for name, path in found.items()
        if canonicalize_name(NAMES.get(name, name)) not in declared and name not in OPTIONAL
    }
    assert missing == {}


def test_what_is_declared_is_imported() -> None:
    found = {canonicalize_name(NAMES.get(name, name)) for folder in FOLDERS[:-2] for name in imported(folder)}
    declared = {canonicalize_name(requirement.name) for requirement in project()["run"]}
    assert declared - found == {"tensorboard"}  # torch.utils.tensorboard imports it


def test_the_oldest_versions_are_those_of_the_ranges() -> None:
    lines = subprocess.run([sys.executable, ".ci/oldest.py"], cwd=PROJECT, capture_output=True, text=True, check=True)
    oldest = [Requirement(line) for line in lines.stdout.splitlines()]
    for requirement, pinned in zip(project()["run"], oldest, strict=True):
        [version] = [clause.version for clause in requirement.specifier if clause.operator == ">="]
        assert (pinned.name, pinned.extras, str(pinned.specifier)) == (
            requirement.name,
            requirement.extras,
            f"=={version}",
        )


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


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for name in listed for path in (PROJECT / name.split(".")[0]).rglob("*.py")}
    assert set(listed) == {".".join(folder.relative_to(PROJECT).parts) for folder in folders}
