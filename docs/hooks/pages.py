"""Hooks of mkdocs: the page of options, made from the source, and files outside docs/ that pages link to.

``mkdocs.yml`` names this file. Links lead from docs/ to other folders of the project, as they do where the project is
read on a Git server; the site has these files at the same paths.
"""

import html
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(PROJECT))

from training.config.options import Option, options_of  # noqa: E402
from training.config.schema import Config  # noqa: E402

_LINK = re.compile(r"(!?\[[^\]]*\])\(((?!\w+:|#)[^)#\s]+)(#[^)]*)?\)")
"""A link in Markdown: its words, the path, the heading."""

_NO_HEADING = re.compile(r"<th( [^>]*)?></th>")
"""A heading of a column that says nothing, which a screen reader must not read as one."""

_SHIM = "https://unpkg.com/iframe-worker/shim"
"""The script that the theme takes from the Internet."""

_SEARCH = 'data-md-component="search" role="dialog"'
"""What the theme has for a dialog without a name."""


_FIRST = {"questions.md": 3.0, "tutorial.md": 1.5}
"""Pages that the search puts before others, and by how much: they answer what people ask."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of options, and what the pages link to outside docs/."""
    files.append(File.generated(config, "options.md", content=options_page()))
    todo = [file.src_uri for file in files.documentation_pages()]
    while todo:
        page = todo.pop()
        source = files.get_file_from_path(page)
        if source is None or page == "options.md":
            continue
        for path in _outside(page, source.content_string):
            if files.get_file_from_path(path) is None and (PROJECT / path).is_file():
                files.append(File.generated(config, path, abs_src_path=str(PROJECT / path)))
                todo += [path] if path.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where the site has what they name; what it does not have stays as words."""
    here = page.file.src_uri
    if here in _FIRST:
        page.meta["search"] = {"boost": _FIRST[here]}

    def changed(match: re.Match[str]) -> str:
        words, path, heading = match[1], match[2], match[3] or ""
        target = _target(here, path)
        if files.get_file_from_path(target) is None:
            return match[0] if target.endswith(".md") else words.strip("![]")
        return f"{words}({posixpath.relpath(target, posixpath.dirname(here) or '.')}{heading})"

    return _LINK.sub(changed, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make a plain cell of each heading that says nothing."""
    return _NO_HEADING.sub(r"<td\1></td>", html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Name the search, and take the script that lets it work without a server from the site, not from the Internet."""
    top = posixpath.relpath(".", posixpath.dirname(page.file.dest_uri) or ".")
    assert config.plugins.get("material/offline") is None or _SHIM in output, f"{_SHIM} has moved"
    assert _SEARCH in output, f"{_SEARCH} has moved"
    return output.replace(_SEARCH, f'{_SEARCH} aria-label="Search"').replace(_SHIM, f"{top}/offline_search.js")


def on_post_template(output: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for 404.html, which a server alone shows."""
    return output.replace(f'<script src="{_SHIM}"></script>', "")


def _outside(page: str, text: str) -> Iterator[str]:
    """Paths in the site of what a page links to."""
    return (_target(page, match[2]) for match in _LINK.finditer(text))


def _target(page: str, path: str) -> str:
    """The path in the site, where docs/ is its top and all else has its path in the project."""
    folder = PROJECT / "docs" if _is_of_docs(page) else PROJECT
    absolute = posixpath.normpath(posixpath.join(folder.as_posix(), posixpath.dirname(page), path))
    inside = posixpath.relpath(absolute, PROJECT.as_posix())
    if inside == "README.md":
        return "index.md"
    return inside.removeprefix("docs/")


def _is_of_docs(page: str) -> bool:
    return (PROJECT / "docs" / page).exists() or page == "options.md"


def options_page() -> str:
    """All options by group, with default and meaning, in Markdown."""
    groups: dict[str, list[Option]] = {}
    for option in options_of(Config):
        groups.setdefault(option.name.rpartition(".")[0] or "general", []).append(option)
    parts = [
        "# Options\n\nType `name=value` after `python train.py`, which prints the same list with `--help`. An option "
        "that does not change the result may change when a run goes on.\n"
    ]
    for group, options in groups.items():
        parts.append(f"\n## {group}\n\n| option | default | | changes the result |\n|---|---|---|---|\n")
        parts += [_row(option) for option in options]
    return "".join(parts)


def _row(option: Option) -> str:
    words = html.escape(option.explained[2:], quote=False).replace("|", "\\|")
    changes = {True: "yes", False: "no"}.get(option.changes_result, "sometimes")  # type: ignore[call-overload]
    return f"| `{option.name}` | {_shown(option.default)} | {words} | {changes} |\n"


def _shown(value: Any) -> str:
    text = "empty" if value in ("", None) else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    return text.replace("|", "\\|")
