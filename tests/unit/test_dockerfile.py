"""The container images, as far as they can be checked without building them."""

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import PROJECT

DOCKERFILES = ["Dockerfile", "etl/Dockerfile"]


def instructions(name: str) -> list[tuple[str, str]]:
    """(instruction, arguments), lines that go on joined and comments left out."""
    lines = (line for line in (PROJECT / name).read_text().splitlines() if not line.startswith("#"))
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def arguments(name: str, instruction: str) -> list[str]:
    return [rest for word, rest in instructions(name) if word == instruction]


def copied(name: str) -> list[str]:
    """From the build context, not from another stage."""
    copies = [rest.split() for rest in arguments(name, "COPY")]
    return [source for words in copies if not words[0].startswith("--from=") for source in words[:-1]]


def is_ignored(path: str) -> bool:
    """As .dockerignore says of a path in the top folder: the last pattern that fits decides."""
    ignored = False
    for line in (PROJECT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and fnmatch(path, line.removeprefix("!")):
            ignored = not line.startswith("!")
    return ignored


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_exists_and_is_in_the_build_context(name: str) -> None:
    sources = copied(name)
    assert sources
    for source in sources:
        assert (PROJECT / source).exists(), source
        assert not is_ignored(source.rstrip("/")), source


@pytest.mark.parametrize("name", [".git", ".venv", "runs", "data", "build", "tests", "docs"])
def test_nothing_else_is_in_the_build_context(name: str) -> None:
    assert is_ignored(name)


def test_every_package_and_the_configuration_are_in_the_image() -> None:
    packages = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    top = {name.split(".")[0] for name in packages}
    assert {f"{name}/" for name in top} | {"conf/", "train.py"} <= set(copied("Dockerfile"))


def test_the_packages_are_those_of_make_setup_in_its_order() -> None:
    installed = re.findall(r"pip install [^&]*?-r (\S+)", "\n".join(arguments("Dockerfile", "RUN")))
    by_make = re.findall(r"pip install [^\n]*?-r (\S+)", (PROJECT / "Makefile").read_text())
    assert installed == [name.rstrip(",") for name in by_make] == ["requirements-torch.txt", "requirements.txt"]


def test_the_tools_of_development_are_removed_in_the_layer_that_installs_them() -> None:
    [layer] = [rest for rest in arguments("Dockerfile", "RUN") if "-r requirements.txt" in rest]
    removed = set(layer.split("pip uninstall -qy ")[1].split())
    extra = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    assert removed == {re.split(r"[<>=\[]", name)[0] for name in extra} - {"aistore"}


def test_the_base_image_is_pinned_and_of_a_python_that_is_supported() -> None:
    [base] = arguments("Dockerfile", "FROM")
    assert re.fullmatch(r"python:3\.1[1-9]\.\d+-slim-\w+", base)


def test_it_runs_as_nobody_in_particular_and_without_a_shell() -> None:
    assert arguments("Dockerfile", "USER") == ["1000:1000"]
    assert [word for word, _ in instructions("Dockerfile")][-2:] == ["USER", "ENTRYPOINT"]
    assert json.loads(arguments("Dockerfile", "ENTRYPOINT")[0])[0] == "python"
    assert (PROJECT / Path(json.loads(arguments("Dockerfile", "ENTRYPOINT")[0])[1])).exists()
    assert not arguments("Dockerfile", "CMD")


@pytest.mark.parametrize("tool", ["gcc", "apt-get", "build-essential"])
def test_no_compiler_is_left(tool: str) -> None:
    assert tool not in (PROJECT / "Dockerfile").read_text()
