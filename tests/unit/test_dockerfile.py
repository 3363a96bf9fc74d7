"""The container images, as far as they can be checked without building them."""

import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

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


def stages(name: str) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage by its name; "" is the last one, which becomes the image."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions(name):
        if word == "FROM":
            stage = rest.partition(" AS ")[2]
            found[stage] = []
        if found:
            found[stage].append((word, rest))
    return found


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
    assert {f"{name}/" for name in top} | {"conf/", "train.py", "native/"} <= set(copied("Dockerfile"))


def test_the_packages_are_those_of_make_setup_in_its_order() -> None:
    installed = re.findall(r"pip install [^&]*?-r (\S+)", "\n".join(arguments("Dockerfile", "RUN")))
    by_make = re.findall(r"\$\(BIN\)/python -m pip install [^\n]*?-r (\S+)", (PROJECT / "Makefile").read_text())
    assert installed == [name.rstrip(",") for name in by_make] == ["requirements-torch.txt", "requirements.txt"]


def test_the_tools_of_development_are_removed_in_the_layer_that_installs_them() -> None:
    [layer] = [rest for rest in arguments("Dockerfile", "RUN") if "-r requirements.txt" in rest]
    removed = set(layer.split("pip uninstall -qy ")[1].split())
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tools = {re.split(r"[<>=\[]", name)[0] for name in (*extras["dev"], *extras["docs"])}
    assert removed == tools - {"aistore", "imagenet-ais"}  # a run writes its page in an image too: Bokeh stays


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_base_image_is_pinned_and_may_be_given_by_its_digest(name: str) -> None:
    assert instructions(name)[0][0] == "ARG"
    assert re.fullmatch(r"BASE=python:3\.1[1-9]\.\d+-slim-\w+", instructions(name)[0][1])
    assert arguments(name, "FROM") == ["${BASE} AS packages", "packages AS native", "packages"]
    assert "--build-arg BASE=python@sha256:" in (PROJECT / name).read_text()


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_native_module_is_in_the_image_and_its_compiler_is_not(name: str) -> None:
    parts = stages(name)
    built = " ".join(rest for _, rest in parts["native"])
    assert "gcc" in built and re.search(r"pip wheel .*--no-build-isolation .*--wheel-dir /wheels \./native", built)
    image = [*parts["packages"], *parts[""]]
    assert ("COPY", "--from=native /wheels/ /wheels/") in image
    assert any(word == "RUN" and re.search(r"pip install .*/wheels/\*\.whl", rest) for word, rest in image)
    text = " ".join(rest for _, rest in image)
    assert not re.search(r"gcc|libc6-dev|build-essential|-dev\b", text)
    assert "libjpeg62-turbo " in text  # which the module needs when it runs


@pytest.mark.parametrize(
    ("name", "requirements"), [("Dockerfile", "requirements.txt"), ("etl/Dockerfile", "requirements-etl.txt")]
)
def test_packages_are_installed_by_their_hashes(name: str, requirements: str) -> None:
    [installs] = [rest for rest in arguments(name, "RUN") if f"-r {requirements}" in rest]
    assert "--require-hashes" in installs
    text = (PROJECT / requirements).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( +--hash=sha256:[0-9a-f]{64})+", line), line


def test_the_images_and_make_have_the_same_versions() -> None:
    pins = [
        dict(re.findall(r"^([a-z0-9-]+)==([\w.]+)", (PROJECT / name).read_text(), re.MULTILINE))
        for name in ("requirements.txt", "requirements-etl.txt")
    ]
    assert {name: version for name, version in pins[1].items() if pins[0].get(name, version) != version} == {}
    assert {"aistore", "numpy", "pillow", "setuptools", "uvicorn"} <= set(pins[0]) & set(pins[1])
    assert "--require-hashes -r requirements.txt" in (PROJECT / "Makefile").read_text()


def test_workflows_read_alone_and_take_actions_by_commit() -> None:
    for path in (PROJECT / ".github" / "workflows").iterdir():
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        uses = re.findall(r"uses: (.*)", path.read_text())
        assert uses
        for action in uses:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", action), action


def test_it_runs_as_nobody_in_particular_and_without_a_shell() -> None:
    assert arguments("Dockerfile", "USER") == ["1000:1000"]
    assert [word for word, _ in instructions("Dockerfile")][-2:] == ["USER", "ENTRYPOINT"]
    assert json.loads(arguments("Dockerfile", "ENTRYPOINT")[0])[0] == "python"
    assert (PROJECT / Path(json.loads(arguments("Dockerfile", "ENTRYPOINT")[0])[1])).exists()
    assert not arguments("Dockerfile", "CMD")
