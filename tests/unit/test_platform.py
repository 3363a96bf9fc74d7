"""Another system than Linux gets one sentence, before anything that it lacks is asked for."""

import subprocess
import sys

import pytest

from tests.conftest import PROJECT


@pytest.mark.parametrize(
    "module", ["sources.errors", "aistore_data.upload", "training.processes.launch", "scripts.shrink"]
)
@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_another_system_is_refused_in_a_sentence(module: str, platform: str) -> None:
    code = f"import sys, select; sys.platform = {platform!r}; del select.epoll; import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: imagenet-ais runs on Linux alone, and this is {platform}: use a Linux machine, WSL or a container.\n"
    )


def test_the_entry_imports_it_first() -> None:
    lines = (PROJECT / "train.py").read_text().splitlines()
    ours = [
        line
        for line in lines
        if line.startswith(("from aistore_data", "from sources", "from training", "import training"))
    ]
    assert ours[0].startswith("from sources")
