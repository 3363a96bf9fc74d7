"""Commands in the documentation are commands of this project: overrides compose, modules and linked files exist."""

import importlib.util
import itertools
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
        links.begin(page)
        links.feed(page.read_text())
    assert len(links.found) > 500
    assert sorted({path for path in links.loaded if "://" in path}) == []  # a page needs no network
    assert [f"{page.name}: {path}" for page, path, _ in links.found if not (page.parent / path).exists()] == []
    places = [((page.parent / path).resolve(), part, page.name) for page, path, part in links.found if part]
    assert len(places) > 100
    assert [place for place in places if place[0] in links.names and place[1] not in links.names[place[0]]] == []
    assert links.unreadable == []
    assert all(sorted(levels)[0] == 1 and levels.count(1) == 1 for levels in links.levels.values())
    deeper = {page: list(itertools.pairwise(levels)) for page, levels in links.levels.items()}
    assert [page for page, pairs in deeper.items() if any(after > before + 1 for before, after in pairs)] == []
    index = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text())["docs"]
    questions = [entry["title"] for entry in index if entry["location"].startswith("questions.html#")]
    assert len([title for title in questions if title.endswith("?")]) >= 30


class Links(HTMLParser):
    """Collects the relative links, pictures and scripts of pages, and what a screen reader needs."""

    page: Path

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[Path, str, str]] = []
        """Pages, the paths that they link to, and the names behind ``#``."""
        self.loaded: list[str] = []
        self.names: dict[Path, set[str]] = {}
        """The places of each page that links may lead to."""
        self.levels: dict[str, list[int]] = {}
        """The levels of the headings of each page."""
        self.unreadable: list[str] = []
        """Pictures without words, dialogs without a name, and headings of columns that say nothing."""
        self._last = ""

    def begin(self, page: Path) -> None:
        self.page = page
        self.names[page.resolve()] = set()

    def handle_endtag(self, tag: str) -> None:
        if tag == self._last == "th":
            self.unreadable.append(f"{self.page.name}: an empty <th>")
        self._last = ""

    def handle_data(self, data: str) -> None:
        self._last = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._last, of = tag, dict(attrs)
        self.names[self.page.resolve()] |= {str(of[name]) for name in ("id", "name") if of.get(name)}
        if re.fullmatch("h[1-6]", tag):
            self.levels.setdefault(str(self.page), []).append(int(tag[1]))
        if (tag == "img" and not of.get("alt")) or (of.get("role") == "dialog" and not of.get("aria-label")):
            self.unreadable += [f"{self.page.name}: {tag}"] if self.page.name != "404.html" else []
        if tag in ("script", "img", "iframe"):
            self.loaded += [value for name, value in attrs if name == "src" and value]
        if tag == "link" and ("rel", "stylesheet") in attrs:
            self.loaded += [value for name, value in attrs if name == "href" and value]
        for name, value in attrs:
            path, _, part = (value or "").partition("#")
            path = unquote(path.partition("?")[0]) or (self.page.name if part else "")
            if name in ("href", "src") and path and self.page.name != "404.html" and "://" not in path:
                self.found.append((self.page, path, unquote(part)))


def test_there_are_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 20
