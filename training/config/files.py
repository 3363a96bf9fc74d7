"""Configuration files before Hydra acts on them: a sentence for what is wrong, and no file that is more than options.

A ``config.yaml`` may come from somebody else, as does every run directory that is to be repeated. What Hydra takes from
such a file besides options can run code (``hydra.job.env_set``, callbacks, launchers, search paths), so nothing is
taken but what this project's own files set. A few hundred bytes of anchors can stand for more values than any memory
holds, so all is counted before it is built.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from sources.errors import ConfigError
from training.config.options import MOVED, OF_JOBS, Names, with_present_names
from training.run_dir.files import is_recorded

_LARGEST = 1 << 20
_DEEPEST = 20
_MOST_VALUES = 10_000

_HYDRA: dict[str, Any] = {
    "hydra.run.dir": ".",
    "hydra.sweep.dir": "${scratch_dir:}",
    "hydra.sweep.subdir": ".",
    "hydra.output_subdir": None,
    "hydra.job.chdir": False,
    "hydra.help.template": "${option_help:}",
}
"""All that a file may set of Hydra, and to what."""

_ON_THE_COMMAND_LINE = ("hydra.mode", "hydra.verbose")
_DEFAULTS = re.compile(r"(override )?/?hydra/(job_logging|hydra_logging): none")
_NAME = re.compile(r"[A-Za-z_][\w./@:-]*")
_TAGS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")


class _Rules(NamedTuple):
    """What a file may hold. A run's own record may be of an older version, and is read by today's names."""

    path: Path
    names: Names
    is_recorded: bool


def watch_hydra(names: Callable[[], Names]) -> None:
    """From here on Hydra's reading of a file raises ConfigError for what this module refuses.

    ``names`` answers what options there are.
    """
    Plugins.instance()  # registers the kinds of sources
    kind: Any = SourcesRegistry.instance().types["file"]
    if getattr(kind.load_config, "is_watched", False):
        return
    load = kind.load_config

    def load_config(source: Any, config_path: str) -> ConfigResult:
        path = Path(source.path) / source._normalize_file_name(config_path)
        if not path.exists():
            return load(source, config_path)  # type: ignore[no-any-return]  # it knows what to say
        node = read_nodes(path)
        result: ConfigResult = load(source, config_path)
        group = config_path.rpartition("/")[0].strip("/")
        rules = _Rules(path, names(), is_recorded(path))
        _check_content(rules, node, group, str(result.header.get("package") or "_group_"))
        if rules.is_recorded:
            result.config = OmegaConf.create(with_present_names(_plain(result.config)))
        return result

    load_config.is_watched = True  # type: ignore[attr-defined]
    kind.load_config = load_config


def check_words(words: Sequence[str]) -> None:
    """Raise ConfigError for words of a command line that have Hydra run something."""
    for word in words:
        name = word.lstrip("+~").partition("=")[0] if "=" in word or word.startswith("~") else ""
        if word.startswith(("--experimental-rerun", "--experimental_rerun")):
            raise ConfigError("--experimental-rerun is not taken: it runs code that lies in the file.")
        if not _NAME.fullmatch(name) or "hydra" not in re.split(r"[./@:]", name) or name in _ON_THE_COMMAND_LINE:
            continue
        raise ConfigError(
            f"{name} is a setting of Hydra's, which can run code: of Hydra's own, the command line takes "
            f"{' and '.join(_ON_THE_COMMAND_LINE)} alone."
        )


def load_file(path: Path) -> dict[Any, Any]:
    """What a run recorded, by today's names. Raises ConfigError for a file that ``read_nodes`` refuses, and OSError."""
    read_nodes(path)
    return with_present_names(_plain(OmegaConf.load(path)))


def _plain(content: Any) -> dict[Any, Any]:
    plain = OmegaConf.to_container(content)
    assert isinstance(plain, dict)  # since the file is a mapping
    return plain


def read_nodes(path: Path) -> Any:
    """The mapping in a file as YAML's nodes, which know their lines. Raises ConfigError, and OSError."""
    if not path.is_file():
        raise ConfigError(f"{path} is not a file.")
    with open(path, "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ConfigError(f"{path} is larger than {_LARGEST >> 20} MB, which no configuration is.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: not UTF-8 text. Save the file as UTF-8.") from None
    try:
        depth = 0
        for number, event in enumerate(yaml.parse(text, yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST or number > _MOST_VALUES * 3:
                line = event.start_mark.line + 1
                raise ConfigError(f"{path}, line {line}: more or deeper nested values than any configuration has.")
        node: Any = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(_syntax_error(path, text, error)) from None
    if node is None:
        raise ConfigError(f"{path} holds no options: write them as name: value, one in a line.")
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}, line {_line(node)}: options are written as name: value, one in a line.")
    _count(path, node, {})
    return node


def _syntax_error(path: Path, text: str, error: Any) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"{path} is not YAML: {str(error).splitlines()[0]}."
    lines = text.splitlines()
    for number in range(mark.line, max(-1, mark.line - 2), -1):
        if number < len(lines) and re.match(r" *\t", lines[number]):
            return f"{path}, line {number + 1}: a tab begins the line. YAML wants spaces: two for each level."
    problem = error.problem or "it cannot be read"
    end = " The file ends there: was it cut off?" if mark.line >= len(lines) - 1 and "end" in problem else ""
    return f"{path}, line {mark.line + 1}: not YAML ({problem}).{end} Options are written as name: value."


def _count(path: Path, node: Any, known: dict[int, int]) -> int:
    """The values that a node stands for, aliases written out. Raises ConfigError if they are too many, or doubled."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise ConfigError(f"{path}, line {_line(node)}: an anchor that stands for itself.")
        return known[id(node)]
    known[id(node)] = 0
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind not in _TAGS:
        raise ConfigError(f"{path}, line {_line(node)}: {node.tag} is not a type that an option has.")
    total = 1
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{path}, line {_line(key)}: the name of an option is plain text.")
            if key.value in names:
                raise ConfigError(f"{path}, line {_line(key)}: {key.value} stands there twice: keep one of them.")
            names.add(key.value)
            total += _count(path, value, known)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(path, item, known) for item in node.value)
    if total > _MOST_VALUES:
        raise ConfigError(f"{path}, line {_line(node)}: anchors that stand for more than {_MOST_VALUES:,} values.")
    known[id(node)] = total
    return total


def _check_content(rules: _Rules, node: Any, group: str, package: str) -> None:
    """Raise ConfigError for what is neither an option nor what our own files set."""
    prefix = "" if package == "_global_" else group.replace("/", ".") if package == "_group_" else package
    prefix = prefix.removeprefix("_global_.")
    where = f"{rules.path}, line 1"
    if group.split("/")[0] == "hydra" or prefix.split(".")[0] == "hydra":
        raise ConfigError(f"{where}: settings of Hydra's can run code, and are not taken from files.")
    if prefix and prefix not in rules.names.groups:
        raise ConfigError(
            f"{where}: its options would be those of a group {prefix}, which there is not. Make the first line "
            "# @package _global_ and write options by their whole names."
        )
    for name, key, value in _entries(node):
        if name == "defaults":
            _check_defaults(rules.path, value)
        else:
            _check_entry(rules, f"{prefix}.{name}" if prefix else name, key, value)


def _entries(node: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(merged, yaml.MappingNode):
                    yield from _entries(merged, prefix)
        else:
            yield f"{prefix}{key.value}", key, value


def _check_entry(rules: _Rules, name: str, key: Any, value: Any) -> None:
    """Raise ConfigError unless ``name`` is an option, a group of options that all exist, or what our own files set."""
    where, of_hydra = f"{rules.path}, line {_line(key)}", name.split(".")[0] == "hydra"
    if rules.is_recorded and (name in MOVED or name == OF_JOBS):
        return
    if isinstance(value, yaml.MappingNode) and (of_hydra or name in rules.names.groups):
        for inner, inner_key, inner_value in _entries(value, f"{name}."):
            _check_entry(rules, inner, inner_key, inner_value)
    elif of_hydra:
        plain = yaml.SafeLoader("").construct_object(value) if isinstance(value, yaml.ScalarNode) else value
        if name not in _HYDRA or plain != _HYDRA[name]:
            raise ConfigError(f"{where}: {name} is not taken from a file: settings of Hydra's can run code. Remove it.")
    elif name in rules.names.groups:
        raise ConfigError(f"{where}: {name} is a group of options: write them below it, one in a line.")
    elif name not in rules.names.options:
        raise ConfigError(f"{where}: {rules.names.unknown(name)}")
    elif isinstance(value, yaml.MappingNode):
        raise ConfigError(f"{where}: {name} is an option, and takes a value.")


def _check_defaults(path: Path, node: Any) -> None:
    for entry in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        pairs = entry.value if isinstance(entry, yaml.MappingNode) else [(entry, None)]
        for key, value in pairs:
            name = str(key.value)
            text = name if value is None else f"{name}: {value.value}"
            if "hydra" in re.split(r"[./@: ]", name) and not _DEFAULTS.fullmatch(text):
                raise ConfigError(f"{path}, line {_line(key)}: {text} is not taken: settings of Hydra's can run code.")


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
