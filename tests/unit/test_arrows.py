"""Who may import whom: floors with arrows downward alone, and no circle between files.

Imports in functions and those for types alone count as all others do.
"""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import PROJECT

FLOORS = {
    "etl": set(),
    "sources": {"etl"},
    "aistore_data": {"etl", "sources"},
    "training": {"etl", "sources", "aistore_data"},
    "scripts": {"etl", "sources", "aistore_data", "training"},
    "train.py": {"sources", "training"},
    "benchmarks": {"etl", "sources", "aistore_data", "training", "scripts", "tests"},
    "tests": {"etl", "sources", "aistore_data", "training", "scripts", "benchmarks", "native"},
}
"""Folder → the other ones of the project that it may import."""


def files_of(folder: str) -> list[Path]:
    return [PROJECT / folder] if folder.endswith(".py") else sorted((PROJECT / folder).rglob("*.py"))


def file_of(module: str) -> str | None:
    """The file of a module of this project."""
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if (PROJECT / name).is_file()), None)


def imports(path: Path) -> set[str]:
    """The project's files that a file imports: a package that gives one of its modules does not count for itself."""
    package = path.relative_to(PROJECT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {file_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            found |= {file_of(f"{module}.{alias.name}") or file_of(module) for alias in node.names}
    return {name for name in found if name} - {str(path.relative_to(PROJECT))}


@cache
def graph() -> dict[str, set[str]]:
    return {str(path.relative_to(PROJECT)): imports(path) for folder in FLOORS for path in files_of(folder)}


@pytest.mark.parametrize("folder", FLOORS)
def test_arrows_point_downward(folder: str) -> None:
    allowed = FLOORS[folder] | {folder}
    arrows = {(name, other) for name, others in graph().items() if name.split("/")[0] == folder for other in others}
    upward = {(name, other) for name, other in arrows if other.split("/")[0] not in allowed}
    assert upward == set(), "these imports point upward"
    assert arrows, f"{folder} imports nothing of the project"


def test_no_circle_between_files() -> None:
    try:
        list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_what_is_shared_imports_no_file_of_tests() -> None:
    arrows = {(Path(name), Path(other)) for name, others in graph().items() for other in others}
    found = {(name, other) for name, other in arrows if other.name[:5] == "test_" and name.name[:5] != "test_"}
    assert found == set()


def test_every_kind_of_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.test_arrows.PROJECT", tmp_path)
    for name in ("a/__init__", "a/one", "a/two", "a/b/__init__", "a/b/three", "a/b/four", "five"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    path = tmp_path / "a/b/three.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport five, os\nfrom a import one\nfrom a.b import name\n"
        "def f():\n    from .. import two\nif TYPE_CHECKING:\n    from .four import Four\n"
    )
    assert imports(path) == {"five.py", "a/one.py", "a/two.py", "a/b/__init__.py", "a/b/four.py"}
