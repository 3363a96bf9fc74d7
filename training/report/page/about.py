"""What a run was: its options beside the recipe's, the machine and the versions, and the command that repeats it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from training.report import html
from training.report.html import text
from training.report.page.recipe import differing, named_in, recorded_options
from training.report.page.subject import Subject
from training.run_dir.files import MARK

_OPEN = 8
"""Rows up to which a table stands in the page and need not be opened."""


def recipes(subjects: Sequence[Subject]) -> Iterator[str]:
    """The section about the configuration: of each run against its recipe, or of several against each other."""
    yield "<h2>Configuration</h2>"
    if len(subjects) > 1:
        yield from _side_by_side(subjects)
    for subject in subjects:
        if len(subjects) > 1:
            yield f"<h3>{text(subject.name)}</h3>"
        yield from _against_recipe(subject)


def _side_by_side(subjects: Sequence[Subject]) -> Iterator[str]:
    sides = [recorded_options(subject.record.config) for subject in subjects]
    rows = [
        (name, *(_short(side[name]) for side in sides))
        for name in sides[0]
        if name != "run_dir" and any(side[name] != sides[0][name] for side in sides)
    ]
    if rows:
        heads = ("option", *(subject.name for subject in subjects))
        yield _foldable("Options in which the runs differ", heads, rows)
    else:
        yield "<p>The runs have the same options.</p>"


def _foldable(summary: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that is open if it is short."""
    is_open = " open" if len(rows) <= _OPEN else ""
    return f"<details{is_open}><summary>{text(summary)}</summary>{html.table(heads, rows, label=summary)}</details>"


def _against_recipe(subject: Subject) -> Iterator[str]:
    record, recipe = subject.record, subject.recipe
    name = named_in(record.environment)
    if not record.config:
        yield "<p>config.yaml is missing or holds no configuration.</p>"
        return
    if recipe is None:
        yield f"<p>The command names the recipe {text(name)}, which this version does not have.</p>"
        return
    against = f"the recipe {name}" if name else "the defaults"
    if not name and not subject.is_evaluation:
        yield "<p>The command names no recipe, so the run is compared with the defaults.</p>"
    if recipe.published:
        yield f"<p>Published: {text(recipe.published)}</p>"
    if recipe.expected:
        yield f"<p>Expected: {text(recipe.expected)}</p>"
    found = differing(recipe, record.config)
    deciding = sum(difference.changes_result for difference in found)
    acc1 = subject.final("acc1")
    if record.state == "done" and acc1 is not None and (judged := recipe.judged(acc1)):
        but = f" Options that change the result and differ from the recipe: {deciding}." if deciding else ""
        yield f"<p><strong>{text(judged)}</strong>{text(but)}</p>"
    if found:
        rows = [(row.name, _short(row.recipe), _short(row.run), "yes" if row.changes_result else "no") for row in found]
        summary = f"Options that differ from {against}: {len(rows)}"
        yield _foldable(summary, ("option", against, "this run", "changes the result"), rows)
    else:
        yield f"<p>All options equal those of {text(against)}.</p>"
    all_rows = [(option, _short(value)) for option, value in recorded_options(record.config).items()]
    yield _foldable("All options", ("option", "value"), all_rows)


def machines(subjects: Sequence[Subject]) -> Iterator[str]:
    """The section about the machines, the versions, the data, and how each run is repeated."""
    yield "<h2>Machine, versions, data</h2>"
    columns = [_facts(subject) for subject in subjects]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, *(column.get(name, "-") for column in columns)) for name in names]
    if rows:
        heads = ("", *(subject.name for subject in subjects))
        yield html.table(("what", *heads[1:]), rows, label="Machine, versions and data")
    else:
        yield "<p>environment.json is missing: the run has not begun.</p>"
    yield "<h2>Repeat it</h2>"
    for subject in subjects:
        before = f"{subject.name}: " if len(subjects) > 1 else ""
        yield f"<p>{text(before)}the same options, data and seed, in a new directory:</p>"
        yield f"<pre>{text(_command(subject))}</pre>"
        sha = subject.record.summary.get("state_sha256")
        if sha:
            weights = f"<code>{text(str(sha))}</code>"
            yield f"<p>On the same machine and versions it ends with the same weights, {weights}.</p>"


def _facts(subject: Subject) -> dict[str, str]:
    environment = subject.record.environment
    data, git, native = (_dict(environment.get(name)) for name in ("data", "git", "native"))
    facts: dict[str, Any] = {
        "command": " ".join(map(str, environment.get("command", []))),
        "device": environment.get("device"),
        "processes": environment.get("world_size"),
        "threads of each": environment.get("threads"),
        "platform": environment.get("platform"),
        "commit": f"{git['commit']}{' with changes' if git.get('changed') else ''}" if git.get("commit") else None,
        "native module": native.get("version"),
        **_dict(environment.get("versions")),
        "data from": data.get("source"),
        "classes": data.get("classes"),
    }
    for split in ("train", "val"):
        of_split = _dict(data.get(split))
        if of_split.get("samples"):
            facts[f"{split}, samples"] = f"{of_split['samples']:,}"
        facts[f"{split}, SHA-256"] = of_split.get("sha256")
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _command(subject: Subject) -> str:
    """What config.yaml begins with."""
    try:
        with open(subject.record.path / "config.yaml", encoding="utf-8") as file:
            first = file.readline().strip()
    except (OSError, UnicodeDecodeError):
        first = ""
    return first.removeprefix(MARK).lstrip(": ") if first.startswith(MARK) else "config.yaml does not say it."


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, default=str)
    return shown if len(shown) <= 300 else f"{shown[:300]}…"
