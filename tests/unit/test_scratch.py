"""Temporary folders of killed processes go with the next start; nobody else's do."""

import json
import os
import tempfile
from pathlib import Path

import pytest

from sources.disk import PREFIX, scratch_folder
from sources.lease import myself


def test_what_killed_processes_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    owners = {
        "dead": myself() | {"pid": 1 << 22},
        "alive": myself() | {"pid": os.getpid()},
        "elsewhere": myself() | {"boot": "another", "pid": 1 << 22},
    }
    for name, owner in owners.items():
        (tmp_path / f"{PREFIX}{name}").mkdir()
        (tmp_path / f"{PREFIX}{name}" / "owner.json").write_text(json.dumps(owner))
    (tmp_path / f"{PREFIX}unknown").mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / f"{PREFIX}dead")
    with scratch_folder() as folder:
        (folder / "a").write_text("b")
        kept = {path.name.removeprefix(PREFIX) for path in tmp_path.iterdir()} - {folder.parent.name[len(PREFIX) :]}
        assert kept == {"alive", "elsewhere", "unknown", "link"}
    assert not folder.parent.exists()
