"""Files that appear whole or not at all, and never over what is there already."""

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sources.errors import ConfigError, UserError
from training.run_dir.checkpoint import sync

OF_A_FOLDER = {"config.json", "model.safetensors", "README.md"}
"""All that an exported folder holds."""


@contextmanager
def staging(target: Path, beside: Sequence[str], replace: bool) -> Iterator[Path]:
    """A path to write ``target`` to; when the block ends well, that and the files ``beside`` it get their places.

    ``beside``: suffixes of files that are written next to it. ``replace``: whether what is there may be replaced.
    Raises ConfigError for what may not, UserError where the folder cannot be written to.
    """
    names = [f"{target.name}{suffix}" for suffix in beside] + [target.name]  # that which is looked for comes last
    _require_free(target, names, replace)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
        yield temporary / target.name
        for path in temporary.rglob("*"):
            if path.is_file():
                sync(path)
        _require_free(target, names, replace)
        if (temporary / target.name).is_dir() and target.exists():
            target.replace(temporary / "former")
        for name in names:
            (temporary / name).replace(target.with_name(name))
    except OSError as error:
        raise UserError(
            f"{target} could not be written: {error.strerror or error}. Name another place with --out, or make room."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _require_free(target: Path, names: Sequence[str], replace: bool) -> None:
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent} is not a folder: make it, or name another place with --out.")
    for name in names:
        path = target.with_name(name)
        if not os.path.lexists(path):
            continue
        if not replace:
            raise ConfigError(f"{path} exists already: name another place with --out, or add --replace.")
        if path.is_dir() and (path.is_symlink() or {entry.name for entry in path.iterdir()} - OF_A_FOLDER):
            raise ConfigError(
                f"{path} is a folder that holds other things than an export: name another place with --out."
            )
