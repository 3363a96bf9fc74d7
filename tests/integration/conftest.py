"""What tests of several modules share."""

from collections.abc import Iterator

import pytest

from aistore_data.embedded import EmbeddedAIS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedAIS]:
    """An embedded AIS for all tests of a module."""
    with EmbeddedAIS(tmp_path_factory.mktemp("ais")) as running:
        yield running
