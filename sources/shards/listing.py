"""Which shards a split has: those of a folder, of a pattern, or of a list in JSON that counts the samples of each."""

import glob
import itertools
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sources.disk import cause, shown
from sources.errors import ConfigError, DataError
from sources.manifest import class_names
from sources.shards.manifest import Shard
from sources.shards.members import MAKE_SHARDS
from sources.walk import is_folder, top_of

LIST = "index.json"
"""Of a folder of shards: wids' list of them."""
CLASSES = "classes.json"
"""Of a folder of shards: the list of the classes' names, by their numbers."""
INFO = "_info.json"
"""Hugging Face's list of the shards of all splits, as timm's data sets have it."""

_NAMES = {"train": ("train",), "val": ("val", "validation")}
"""What lists call a split."""
_MOST = 1_000_000
_MOST_BYTES = 1 << 28
_ARCHIVE = re.compile(r"(n\d{8}|ILSVRC.*)\.tar")
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_OTHERS = (".tar.gz", ".tgz", ".tar.zst", ".tar.lz4", ".tar.bz2", ".tar.xz", ".zip")


@dataclass(frozen=True)
class Listing:
    """The shards of a split, sorted: names below ``folder``, and the samples that a list says each has, -1 for none."""

    folder: Path
    names: tuple[str, ...]
    counts: tuple[int, ...]
    source: str
    """What named them, for messages."""

    def shards(self) -> list[Shard]:
        """As they lie there now. Raises DataError that names the one that does not."""
        found = []
        for name in self.names:
            path = f"{self.folder}/{name}"
            try:
                status = os.stat(path)  # noqa: PTH116 - there may be many
            except OSError as error:
                raise DataError(
                    f"{shown(path)}, a shard of {shown(self.source)}, cannot be read: {cause(error)}. Copy it there, "
                    "or name the shards that are there."
                ) from None
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{shown(path)} is not a file: a shard is a tar. Name the tars themselves.")
            found.append(Shard(name, status.st_size, status.st_mtime_ns))
        return found

    def classes(self) -> tuple[str, ...] | None:
        """The names that lie beside the shards; None if there are none. Raises ConfigError."""
        path = self.folder / CLASSES
        try:
            names = class_names(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{shown(path)} cannot be read: {cause(error)}.") from None
        except ValueError as error:
            raise ConfigError(f"{shown(path)} cannot be used: {error}. It holds the names by their numbers.") from None
        if len(set(names)) < len(names):
            raise ConfigError(f"{shown(path)} names a class twice: each number has a name of its own.")
        return names


def holds_shards(root: Path) -> bool:
    """Whether shards lie in a folder, as data.root is told them, and no classes. Raises ConfigError or DataError."""
    return (root / INFO).is_file() or (is_folder(root / "train") and has_shards(root / "train"))


def has_shards(folder: Path) -> bool:
    """Whether tars lie in a folder, no class folders, and not ImageNet's archives as they are downloaded.

    Raises ConfigError or DataError.
    """
    top = top_of(folder)
    tars = [name for name in top.archives if name.endswith(".tar") and not name.startswith(".")]
    folders = [name for name in top.folders if not name.startswith(".")]
    return not folders and any(not _ARCHIVE.fullmatch(name) for name in tars)


def shards_of(where: str, split: str, option: str) -> Listing:
    """The shards that ``where`` names: a folder, a pattern with braces or stars, or a list in JSON.

    ``split`` is train or val, which lists know; ``option`` named them. Raises ConfigError or DataError.
    """
    path = Path(where)
    if is_folder(path):
        return _in_folder(path, split)
    if where.endswith(".json"):
        return _in_list(path, split)
    names = [name for text in _braces(where, option) for name in _matches(text)]
    if not names:
        raise ConfigError(f"{option}={where} matches no file: name tars, as …/train-{{000000..001023}}.tar.")
    return _listing(names, [-1] * len(names), where)


def _in_folder(folder: Path, split: str) -> Listing:
    for name in (LIST, INFO):
        if (folder / name).is_file():
            return _in_list(folder / name, split)
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    tars = [f"{folder}/{name}" for name in names if name.endswith(".tar") and not name.startswith(".")]
    if not tars:
        raise ConfigError(f"{shown(folder)} holds no shards, which are files named *.tar{_instead(folder, names)}.")
    return _listing(tars, [-1] * len(tars), str(folder))


def _instead(folder: Path, names: Sequence[str]) -> str:
    packed = sorted(name for name in names if name.endswith(_OTHERS))
    if packed:
        return (
            f": {shown(packed[0])} is compressed, and photos are read from the middle of a shard. Unpack such files "
            "to tars, as gunzip does"
        )
    if any(is_folder(folder / name) for name in names if not name.startswith(".")):
        return (
            f". It holds folders: where these are classes, data=imagefolder takes them, or {MAKE_SHARDS} makes shards "
            "of them"
        )
    return f": {MAKE_SHARDS} makes them of a folder"


def _in_list(path: Path, split: str) -> Listing:
    try:
        with open(path, "rb") as file:
            content: Any = json.loads(file.read(_MOST_BYTES))
        found = list(_info(content["splits"], split) if "splits" in content else _wids(content))
    except OSError as error:
        raise ConfigError(f"{shown(path)} cannot be read: {cause(error)}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(
            f"{shown(path)} is not a list of shards: wids' has shardlist with url and nsamples of each, and {INFO} has "
            f"splits with filenames and shard_lengths of {' or '.join(_NAMES[split])}."
        ) from None
    if not found:
        raise ConfigError(f"{shown(path)} lists no shards: name some, or leave the list out.")
    for url, _ in found:
        if "://" in url or url.startswith("pipe:"):
            raise ConfigError(
                f"{shown(path)} lists {url!r}, which is not a file: copy the shards to a disk, beside it."
            )
    return _listing([os.path.join(path.parent, url) for url, _ in found], [count for _, count in found], str(path))  # noqa: PTH118


def counts_in(text: bytes) -> dict[str, int]:
    """The shards of wids' list, relative to it, and how many samples each has. Raises ValueError for anything else."""
    try:
        return {os.path.normpath(url): count for url, count in _wids(json.loads(text))}
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _wids(content: dict[str, Any]) -> Iterator[tuple[str, int]]:
    base = content.get("base", "")
    for item in content["shardlist"]:
        yield os.path.join(base, str(item["url"]).removeprefix("file:")), int(item["nsamples"])  # noqa: PTH118


def _info(splits: dict[str, Any], split: str) -> Iterator[tuple[str, int]]:
    found = next(splits[name] for name in _NAMES[split] if name in splits)
    lengths = [int(length) for length in found["shard_lengths"]]
    if "num_samples" in found and sum(lengths) != int(found["num_samples"]):
        raise ValueError("its numbers contradict each other")
    yield from zip(map(str, found["filenames"]), lengths, strict=True)


def _listing(paths: Sequence[str], counts: Sequence[int], source: str) -> Listing:
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100
    folder = os.path.commonpath([os.path.dirname(path) for path in absolute])  # noqa: PTH120
    rows = sorted(
        (os.fsencode(os.path.relpath(path, folder)), count) for path, count in zip(absolute, counts, strict=True)
    )
    names = tuple(os.fsdecode(name) for name, _ in rows)
    for name, other in itertools.pairwise(names):
        if name == other:
            raise ConfigError(f"{shown(source)} names the shard {shown(name)} twice: each counts once.")
    return Listing(Path(folder), names, tuple(count for _, count in rows), source)


def _braces(text: str, option: str) -> list[str]:
    """{000..123} and {a,b} spelled out, as shells do it."""
    texts = [text]
    for place in itertools.count():
        if len(texts) > _MOST:
            raise ConfigError(f"{option}={text} names more than {_MOST:,} shards: name fewer.")
        if not (_RANGE.search(texts[0]) or _CHOICE.search(texts[0])) or place > 8:
            return texts
        texts = [new for old in texts for new in _first_brace(old)]
    raise AssertionError


def _first_brace(text: str) -> Iterator[str]:
    match = min(
        filter(None, (_RANGE.search(text), _CHOICE.search(text))), key=lambda found: found.start(), default=None
    )
    if match is None:
        yield text
        return
    begin, end = text[: match.start()], text[match.end() :]
    if match.re is _CHOICE:
        yield from (f"{begin}{word}{end}" for word in match[1].split(","))
        return
    first, last = int(match[1]), min(int(match[2]), int(match[1]) + _MOST)
    width = len(match[1]) if match[1].startswith("0") or len(match[1]) == len(match[2]) else 0
    yield from (f"{begin}{number:0{width}d}{end}" for number in range(first, last + 1))


def _matches(text: str) -> list[str]:
    if not glob.has_magic(text) or os.path.exists(text):  # noqa: PTH110
        return [text]
    return sorted(glob.glob(text))  # noqa: PTH207
