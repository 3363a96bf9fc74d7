"""Commands in the documentation are commands of this project: overrides compose, modules and linked files exist."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from hydra import compose, initialize_config_dir

from scripts.submission import Submission
from tests.conftest import PROJECT
from training.config.compose import register
from training.config.options import options_of
from training.config.overrides import quote_overrides
from training.config.schema import Config

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


_QUIET = {"NO_MKDOCS_2_WARNING": "1"}


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


def test_the_site_is_built_and_every_link_in_it_leads_somewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    process = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env=os.environ | _QUIET)
    assert process.returncode == 0, process.stdout + process.stderr
    options = (tmp_path / "site" / "options.html").read_text()
    missing = [option.name for option in options_of(Config) if f"<code>{option.name}</code>" not in options]
    assert missing == []
    links = Links()
    for page in (tmp_path / "site").rglob("*.html"):
        links.page = page
        links.feed(page.read_text())
    assert len(links.found) > 500
    assert sorted({path for path in links.loaded if "://" in path}) == []  # a page needs no network
    assert [f"{page.name}: {path}" for page, path in links.found if not (page.parent / path).exists()] == []
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text())["docs"]
    questions = [entry["title"] for entry in index if entry["location"].startswith("questions.html#")]
    assert len([title for title in questions if title.endswith("?")]) >= 30


class Links(HTMLParser):
    """Collects the relative links, pictures and scripts of pages."""

    page: Path

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Path, str]] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "iframe"):
            self.loaded += [value for name, value in attrs if name == "src" and value]
        if tag == "link" and ("rel", "stylesheet") in attrs:
            self.loaded += [value for name, value in attrs if name == "href" and value]
        for name, value in attrs:
            path = unquote((value or "").partition("#")[0].partition("?")[0])
            if name in ("href", "src") and path and self.page.name != "404.html" and "://" not in path:
                self.found.append((self.page, path))


def test_there_are_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 20
