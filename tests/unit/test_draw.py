"""One seed for all processes of the tests, and the share of the long matrices that it draws."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.support.draw import drawn

MATRIX = """
import pytest

@pytest.mark.long
@pytest.mark.parametrize("number", range(40))
def test_long(number, seed):
    print(f"drawn {number} with {seed}")

def test_short():
    pass
"""


def test_processes_share_the_seed_that_is_printed(tmp_path: Path) -> None:
    (tmp_path / "test_matrix.py").write_text(MATRIX)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.support.draw",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "-rP",
    ]
    options = ["--rootdir", str(tmp_path), "--numprocesses=2", "--share=50", str(tmp_path)]
    output = subprocess.run([*command, *options], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    told = re.search(r"50 % of the long matrices were drawn with --seed (\d+)", output)
    assert told is not None, output
    ran = {int(number): int(seed) for number, seed in re.findall(r"^drawn (\d+) with (\d+)$", output, re.MULTILINE)}
    seed = int(told[1])
    assert ran == {n: seed for n in range(40) if drawn(seed, f"test_matrix.py::test_long[{n}]", 50)}
    assert 5 < len(ran) < 35 and f"{len(ran) + 1} passed, {40 - len(ran)} skipped" in output


@pytest.mark.parametrize(("percent", "least", "most"), [(0, 0, 0), (5, 300, 700), (100, 10_000, 10_000)])
def test_the_share_is_of_the_size_that_was_asked_for(percent: float, least: int, most: int) -> None:
    assert least <= sum(drawn(seed, "tests/a.py::test", percent) for seed in range(10_000)) <= most
