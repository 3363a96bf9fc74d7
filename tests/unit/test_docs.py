"""Commands in the documentation are commands of this project: overrides compose, modules and linked files exist."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from scripts.submission import Submission
from tests.conftest import PROJECT
from training.config.compose import register
from training.config.overrides import quote_overrides
from training.config.schema import Config

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """The words of each command line in the code blocks of a page, comments left out."""
    blocks = re.findall(r"^```(?:bash|sh)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [
        shlex.split(line.removeprefix("$ "), comments=True) for line in lines if "python" in line and "…" not in line
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    for words in commands(page):
        if "-m" in words:
            module = words[words.index("-m") + 1].strip("`)")
            if not module.startswith(("pip", "torch")):
                assert importlib.util.find_spec(module), f"{page.name}: {module}"
        program = next((word for word in ("train.py", "scripts.submit") if word in words), "")
        if not program or "--config-path" in words:
            continue
        overrides = [word for word in words[words.index(program) + 1 :] if "=" in word and not word.startswith("-")]
        overrides = [re.sub(r"=([^\[\"',]*),.*", r"=\1", word) for word in overrides]  # the first of a sweep
        register(Submission if program == "scripts.submit" else Config)
        with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
            compose("config", overrides=quote_overrides(overrides))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_there_are_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 20
