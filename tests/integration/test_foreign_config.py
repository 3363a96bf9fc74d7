"""``train.py`` with a config.yaml of somebody else, as a user starts it: exit code 2, a sentence, and nothing is run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Result


@pytest.mark.parametrize("by", ["file", "word", "bomb"])
def test_code_is_not_run(train_py: Callable[..., Result], tmp_path: Path, by: str) -> None:
    mark = tmp_path / "mark"
    evil = f"hydra:\n  callbacks:\n    x:\n      _target_: os.mkdir\n      path: {mark}\n"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    (tmp_path / "config.yaml").write_text("defaults: [/schema, _self_]\n" + (bomb if by == "bomb" else evil))
    words = ["--config-path", str(tmp_path), "--config-name", "config"]
    if by == "word":
        words = ["experiment=smoke", f"+hydra.callbacks.x={{_target_:os.mkdir,path:{mark}}}"]
    result = train_py(*words, timeout=120)
    assert result.code == 2 and len(result.output.splitlines()) == 1
    assert result.output.startswith("error: ") and not mark.exists() and not result.run_dir.exists()
