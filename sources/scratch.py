"""Folders that end with their process, or, where that was killed, with the next one on this machine."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sources.lease import is_process_alive, myself

PREFIX = "imagenet-ais-"
_OWNER = "owner.json"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in the machine's place for temporary files; those of killed processes are removed before."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # another's, one that is being made or removed, or one of an older version
            mine = path.lstat().st_uid == os.getuid() and not path.is_symlink()
            if mine and is_process_alive((path / _OWNER).read_text()) is False:
                shutil.rmtree(path, ignore_errors=True)
    whole = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        (whole / _OWNER).write_text(json.dumps(myself()))
        inside = whole / "files"
        inside.mkdir()
        yield inside
    finally:
        shutil.rmtree(whole, ignore_errors=True)
