"""The command line as people type it: Hydra's parser gets quoted what is plain text for us.

Hydra's grammar gives a meaning to ( ) [ ] { } = , : # and more, and knows no letters beyond ASCII outside quotes. The
value of an option that holds a string is therefore taken as it was typed, with these exceptions, which keep the meaning
that Hydra gives them: quotes around the whole value; ``${…}``, the value of another option, and its escape
``\\${``; and in a sweep (``--multirun``) commas between values and Hydra's functions, such as ``choice(a,b)``.
"""

import os
import re
from collections.abc import Callable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse

from sources.errors import ConfigError
from training.config.options import options_of
from training.config.schema import Config

PATHS = (
    *("run_dir", "resume", "data.root", "data.classes", "data.labels", "data.embedded_root", "model.weights"),
    *("data.cache_dir", "data.train_shards", "data.val_shards", "eval.classes", "eval.labels"),
)
"""Options that may hold a path of this machine."""

_NAMED = re.compile(r"(\+{0,2})([A-Za-z_][\w.]*)=", re.ASCII)
_QUOTED = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*""", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)
_FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag|str|int|float|bool)\s*\(.*\)", re.DOTALL)
_LIST = re.compile(r"\s*\[(.*)\]\s*", re.DOTALL)
_KEYWORDS = ("true", "false", "inf", "nan")


def names_of(kind: object, schema: type[Config]) -> set[str]:
    """The names of all options of a schema whose type is ``kind``."""
    return {item.name for item in options_of(schema) if item.kind == kind}


def quote_overrides(words: Sequence[str], sweep: bool | None = None, schema: type[Config] = Config) -> list[str]:
    """The words of a command line, with the values of string options quoted for Hydra where they need it.

    ``sweep``: whether commas separate the values of a sweep; None: if ``--multirun`` is among the words. ``schema`` has
    the options.
    """
    if sweep is None:
        sweep = any(word in ("-m", "hydra.mode=MULTIRUN") or word.startswith("--mul") for word in words)
    strings, lists = names_of(str, schema), names_of(list[str], schema)
    return [_quote_override(word, sweep, strings, lists) for word in words]


def _quote_override(word: str, sweep: bool, strings: set[str], lists: set[str]) -> str:
    match = _NAMED.match(word)
    if match is None:
        return word
    name, value = match[2], word[match.end() :]
    items = _LIST.fullmatch(value) if name in lists else None
    if name in strings:
        quoted = _quote_sweep(value) if sweep else _quote(value)
    elif items and not _follows(OverridesParser.create().parse_override, word):
        quoted = f"[{','.join(_quote(item.strip()) for item in _split(items[1]))}]"
    else:
        quoted = value
    return word[: match.end()] + quoted


def _follows(grammar: Callable[[str], object], text: str) -> bool:
    """Whether a parser takes a text."""
    try:
        grammar(text)
    except (HydraException, GrammarParseError):
        return False
    return True


def _quote_sweep(value: str) -> str:
    if _FUNCTION.fullmatch(value):
        return value
    parts = _split(value)
    return _quote(value) if len(parts) == 1 else ",".join(_quote(part.strip()) for part in parts)


def _split(value: str) -> list[str]:
    """The parts between commas; a comma inside a part in quotes does not count."""
    parts: list[str] = []
    rest = value
    while True:
        quoted = _QUOTED.match(rest)
        end = quoted.end() if quoted and rest[quoted.end() : quoted.end() + 1] in ("", ",") else rest.find(",")
        if end in (-1, len(rest)):
            return [*parts, rest]
        parts.append(rest[:end])
        rest = rest[end + 1 :]


def _quote(value: str) -> str:
    if value in ("", "null") or _QUOTED.fullmatch(value):
        return value
    if _PLAIN.fullmatch(value) and value.lower() not in _KEYWORDS:
        return value
    text = value if _follows(parse, value) else value.replace("${", "\\${")
    return str(QuotedString(text, Quote.double).with_quotes())


def expand_user(name: str, value: str) -> str:
    """A path with its ``~`` or ``~USER`` replaced by that user's home folder. Raises ConfigError for unknown users."""
    if not value.startswith("~"):
        return value
    path = os.path.expanduser(value)  # noqa: PTH111 - pathlib raises RuntimeError without the name
    if path.startswith("~"):
        user = value.partition("/")[0]
        raise ConfigError(
            f"{name}={value}: {user} is the home folder of nobody here. A folder of that name is ./{value}."
        )
    return path
