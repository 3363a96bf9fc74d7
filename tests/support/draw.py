"""A pytest plugin: the seed that everything random is drawn with, and the share of the long matrices that always runs.

Both are the same in all processes of pytest-xdist. A run draws a new seed and prints it, so that the drawn cases differ
from run to run, and ``--seed`` repeats one.
"""

import hashlib
import os
from typing import Any

import pytest

SHARE = 5.0
"""Percent of the tests marked ``long`` that run unless ``--share`` or ``--all`` says otherwise."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the long matrices in full")
    parser.addoption("--share", type=float, default=SHARE, help="percent of the long matrices to run (%(default)s)")
    parser.addoption("--seed", type=int, help="of the random moments, samples and share; a new one by default")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "long: one more of a matrix whose other cases run always; a share of them runs, and all with --all"
    )
    if hasattr(config, "workerinput"):  # a process of pytest-xdist: draws nothing of its own
        config.option.seed = config.workerinput["seed"]
    elif config.option.seed is None:
        config.option.seed = int.from_bytes(os.urandom(3))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a process of pytest-xdist the seed that this one will print."""
    node.workerinput["seed"] = node.config.option.seed


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    share = "all" if config.option.all else f"{config.option.share:g} %"
    terminalreporter.write_line(
        f"random moments, samples and {share} of the long matrices were drawn with --seed {config.option.seed}"
    )


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of whatever a test draws at random; printed at the end, and again where a test fails."""
    value: int = request.config.option.seed
    print(f"--seed {value}")
    return value


def drawn(seed: int, node_id: str, percent: float) -> bool:
    """Whether this test is of the share. Depends on nothing else, so a test stays in it when others come or go."""
    digest = hashlib.sha256(f"{seed} {node_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < percent / 100 * 2**64


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") is None or config.option.all:
            continue
        if not drawn(config.option.seed, item.nodeid, config.option.share):
            item.add_marker(pytest.mark.skip(reason="not of the share of the long matrices: make test-all runs it"))
