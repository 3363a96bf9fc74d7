"""A string stays the string that it is, whoever reads the YAML, and through a run's config.yaml."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sources.errors import ConfigError
from training.config.compose import check, register
from training.config.options import literal
from training.config.overrides import PATHS
from training.config.recorded import check_texts
from training.config.schema import Config
from training.run_dir.plain_yaml import dump
from training.run_dir.records import config_yaml

NUMBERS = [
    "1e3",
    "1E5",
    "1e-3",
    "1e+3",
    "-1e3",
    "0o17",
    "0O17",
    "017",
    "08",
    "0123",
    "12e03",
    "0x1f",
    "0X1F",
    "0b11",
    "1_000",
    "0x_1",
    ".5",
    "5.",
    "-.5",
    "+1",
    "-1",
    "1",
    "0",
    "00",
    "1.0",
    "1.5e3",
    ".inf",
    "-.Inf",
    "+.INF",
    ".nan",
    ".NaN",
    "inf",
    "nan",
    "Infinity",
    "12:30:00",
    "190:20:30",
    "1:30",
    "1.",
    "1__0",
    "_1",
    "9223372036854775808",
    "1.7976931348623157e400",
]
WORDS = [
    "~",
    "null",
    "Null",
    "NULL",
    "nil",
    "none",
    "yes",
    "Yes",
    "YES",
    "no",
    "No",
    "NO",
    "on",
    "On",
    "ON",
    "off",
    "Off",
    "OFF",
    "y",
    "Y",
    "n",
    "N",
    "true",
    "True",
    "TRUE",
    "false",
    "False",
    "FALSE",
    "t",
    "f",
    "=",
    "<<",
    "-",
    "?",
    ":",
    ",",
    "[",
    "]",
    "{",
    "}",
    "#",
    "&",
    "*",
    "!",
    "|",
    ">",
    "%",
    "@",
    "`",
    "'",
    '"',
    "???",
    ".",
    "..",
    "/",
    "\\",
    "$",
    "--",
    "---",
    "...",
]
DATES = ["2026-01-02", "2026-01-02T03:04:05Z", "2026-01-02 03:04:05", "2026-1-2"]
TEXTS = [
    "",
    " ",
    " a",
    "a ",
    "a: b",
    "a #b",
    "#a",
    "a:",
    "- a",
    "? a",
    "!a",
    "&a",
    "*a",
    "%a",
    "@a",
    "`a",
    "'a'",
    '"a"',
]
TEXTS += ["a\\b", "a\\", "it's", 'say "a"', "[a]", "{a: b}", "a, b", "é", "日本", "😀", "a" * 300, "a b " * 80, "a  b"]
TEXTS += ["${a}", "\\${a}", "\\\\${a}", "$${a}", "a${b}\\", "${oc.env:HOME}", "$(a)", "%s", "{{ a }}", "<% a %>"]
LINES = ["a\nb", "a\n", "\na", "a\n\n", " a\nb", "a\n b", "a \nb", "a: b\nc", "\n", "\t", "a\tb", "a\r\nb"]
CONTROL = ["\0", "\x07", "\x1b[31m", "\x7f", "a\x85b", "a\u2028b", "a\u2029b", "\ufeffa", "a\u00a0b", "a\u202eb"]
STRINGS = [*NUMBERS, *WORDS, *DATES, *TEXTS, *LINES, *CONTROL]


def loader(name: str, rules: dict[str, str]) -> Callable[[str], Any]:
    """PyYAML with other rules for what a plain scalar is: tags and their expressions."""
    found = type(name, (yaml.SafeLoader,), {"yaml_implicit_resolvers": {}})
    for tag, expression in rules.items():
        found.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{expression})$"), None)  # type: ignore[attr-defined]
        found.add_constructor(f"tag:yaml.org,2002:{tag}", lambda loader, node, tag=tag: (tag, node.value))  # type: ignore[attr-defined]
    return lambda text: list(yaml.load_all(text, found))  # type: ignore[arg-type]


CORE = {  # YAML 1.2.2, 10.3.2
    "null": "null|Null|NULL|~|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
GO = {  # resolve() of gopkg.in/yaml, which takes a number of strconv's with underscores too
    "null": CORE["null"],
    "bool": "[yY]|[nN]|[yY]es|YES|[nN]o|NO|[oO]n|ON|[oO]ff|OFF|[tT]rue|TRUE|[fF]alse|FALSE",
    "int": "[-+]?(0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]+|0[bB][01_]+|[0-9][0-9_]*)",
    "float": f"{CORE['float']}|[-+]?[0-9_]*\\.?[0-9_]+([eE][-+]?[0-9]+)?",
    "merge": "<<",
    "timestamp": r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?",
}
READERS = {
    "PyYAML": lambda text: list(yaml.safe_load_all(text)),
    "YAML 1.2": loader("Core", CORE),
    "Go": loader("Go", GO),
    "OmegaConf": lambda text: [OmegaConf.to_container(OmegaConf.create(text.removeprefix("---\n")), resolve=False)],
}


@pytest.mark.parametrize("reader", READERS)
def test_a_string_is_a_string_to_every_reader(reader: str) -> None:
    for text in STRINGS:
        if reader == "OmegaConf" and "${" in text:
            continue  # an interpolation there: see the test of config.yaml
        for document in ({"a": text}, {"a": [text, text]}, {"a": {"b": [{"c": text}]}}):
            assert READERS[reader](dump([document])) == [document], (text, dump([document]))
        if reader != "OmegaConf" and len(text) < 100:
            assert READERS[reader](dump([{text: 1}])) in ([{text: 1}], [{text: ("int", "1")}]), text


def test_the_readers_would_notice() -> None:
    plain = yaml.safe_dump({"a": "1e3"})
    assert plain == "a: 1e3\n" and READERS["Go"](plain) == READERS["YAML 1.2"](plain) == [{"a": ("float", "1e3")}]
    assert READERS["Go"]("a: y") == [{"a": ("bool", "y")}]


def test_what_people_read_stays_plain() -> None:
    document = {
        "name": "resnet18",
        "bucket": "ais://imagenet",
        "root": "/data/imagenet",
        "size": 1,
        "x": 0.5,
        "none": None,
    }
    text = "name: resnet18\nbucket: ais://imagenet\nroot: /data/imagenet\nsize: 1\nx: 0.5\nnone: null\n"
    assert dump([document]) == text
    assert dump([{"config.yaml": text}]).startswith("config.yaml: |\n  name: resnet18\n")
    assert dump([{"a": 1}, {"b": 2}]) == "a: 1\n---\nb: 2\n"


def with_texts(config: Any, texts: Iterator[str]) -> Any:
    """Every option of text has another one, and so has each of two items of every list of texts."""
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            changes[item.name] = with_texts(value, texts)
        elif isinstance(value, str):
            changes[item.name] = next(texts)
        elif item.type == list[str]:
            changes[item.name] = [next(texts), next(texts)]
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("starts", [4, pytest.param(len(STRINGS), marks=pytest.mark.long)], ids=["some", "all"])
def test_every_option_of_text_comes_back_from_config_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts: int, seed: int
) -> None:
    register()
    monkeypatch.setattr(Config, "check", lambda self: None)  # most of these are no values of most options
    strings = [text for text in STRINGS if text != "???"]  # Hydra's word for a value that is missing
    for start in range(starts):
        begin = seed + start * -(-len(strings) // starts)
        texts = itertools.cycle(strings[begin % len(strings) :] + strings[: begin % len(strings)])
        config = with_texts(Config(), texts)
        assert {config.data.bucket, config.data.etl.dependencies[1], config.threads} <= set(strings)
        for name in PATHS:  # a home folder's sign is replaced there
            *groups, leaf = name.split(".")
            holder = functools.reduce(getattr, groups, config)
            setattr(holder, leaf, getattr(holder, leaf).replace("~", "x"))
        if not config.run_dir.isprintable():
            config.run_dir = "runs/a"  # it is in the file's first line, a comment
        (tmp_path / "config.yaml").write_text(config_yaml(config), encoding="utf-8")
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            assert check(compose("config")) == config


def test_a_rerun_leaves_the_same_file(tmp_path: Path) -> None:
    register()
    config = dataclasses.replace(Config(), run_dir="1e3")
    config.data.root, config.model.weights = "/data", "0123"
    config.data.etl.dependencies = ["on==1", "PATH=$HOME:\\${x}==1", "1_000==1"]
    first = config_yaml(config)
    (tmp_path / "config.yaml").write_text(first, encoding="utf-8")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert config_yaml(check(compose("config"))) == first


def test_literal_is_undone_by_omegaconf() -> None:
    for backslashes in range(5):
        for text in ("\\" * backslashes + "${a}", "x" + "\\" * backslashes, "${b}" + "\\" * backslashes + "${c}\\"):
            assert OmegaConf.create({"a": literal(text)}).a == text


@pytest.mark.parametrize("text", [*CONTROL[:7], "a\nb", "a\r", "\udcff"])
def test_control_characters_are_refused(text: str) -> None:
    for name, config in (("run_dir", Config(run_dir=text)), ("data.root", Config())):
        if name == "data.root":
            config.data.root = text
        with pytest.raises(ConfigError, match=f"^{name}=.* holds a line end or another character"):
            check_texts(config)
