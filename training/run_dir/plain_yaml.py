"""YAML in which a string is one to every reader: YAML 1.1 (PyYAML, Hydra), YAML 1.2, and Go's mixture (kubectl)."""

import re
from collections.abc import Iterable
from typing import Any

import yaml  # type: ignore[import-untyped]

_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}
"""What some reader takes for a boolean, for nothing or for a number, in whatever case."""


class _Dumper(yaml.SafeDumper):
    """Without anchors, with texts of several lines as such, and with quotes around all that is not plainly a text."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if "\n" in text and text.replace("\n", "").isprintable():
        style = "|"
    elif not re.match("[A-Za-z/]", text) or text.lower() in _WORDS or not text.isprintable():
        style = '"'  # numbers of every notation begin otherwise; double quotes escape line ends such as U+0085
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump(documents: Iterable[Any]) -> str:
    """Documents of dicts, lists, strings, numbers, booleans and None, in their order."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=4096)
