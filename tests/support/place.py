"""A cluster behind links that break when a test says so, and the run that trains from it."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aistore import Client

from aistore_data.bucket.store import AisStore
from aistore_data.client.access import Access
from aistore_data.client.placement import Placement
from aistore_data.client.sdk import connect, make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.upload.__main__ import upload
from tests.conftest import SMALL_MODEL, TINY, make_small_folder
from tests.support.link import Gate, Link, links_to
from tests.support.processes import pod_processes

RUN = [
    *TINY,
    *SMALL_MODEL,
    *("train.epochs=10", "train.log_every=1", "data.fingerprint=full", "data.workers=1", "data.prefetch=2"),
    *("data=aistore", "data.etl.num_workers=2", "data.etl.on_exit=keep", "data.etl.deadline_s=1"),
]
"""30 steps in 10 epochs, 510 samples."""


@dataclass
class Place:
    """A cluster behind links. ``server``: the embedded one, whose processes can be harmed."""

    access: Access
    client: Client
    links: list[Link]
    server: EmbeddedAIS | None
    bucket: str = "ais://faults"

    @property
    def words(self) -> list[str]:
        """Overrides that name it."""
        return [f"data.endpoint=http://{self.links[0].host}", f"data.bucket={self.bucket}", *RUN]

    @property
    def variables(self) -> dict[str, str]:
        return {"AIS_AUTHN_TOKEN": self.access.token}

    @property
    def to_proxy(self) -> Gate:
        return self.links[0].gate

    @property
    def to_target(self) -> Gate:
        """All of them, if there are several."""
        return self.links[1].gate

    def processes(self) -> list[int]:
        """Of all pods. Skips the test where they cannot be reached."""
        if self.server is None:
            pytest.skip("the processes of a cluster's pods cannot be reached from here")
        return pod_processes(self.server.pid)

    def pods(self) -> list[int]:
        """Main processes of the pods."""
        return [pid for pid in self.processes() if os.getpgid(pid) == pid]

    def quiet(self) -> None:
        """No faults, no ETL that a fault has left stopped, and counting begins again."""
        self.to_proxy.quiet()
        self.to_target.quiet()
        for etl in self.client.cluster().list_etls(["Aborted"]):
            if etl.id.startswith("imagenet-"):
                self.client.etl(etl.id).delete()


def put(folder: Path, access: Access, uri: str) -> None:
    """Upload a data set, in the place of what else there is."""
    bucket = AisStore(uri, access)
    bucket.create()
    upload(folder, bucket, "folders", workers=1, replace=True)


@contextmanager
def opened(root: Path, cluster: Access | None = None) -> Iterator[Place]:
    """A cluster with the data set, and links before it: an embedded server's, or a given one."""
    folder = make_small_folder(root / "small")
    with ExitStack() as stack:
        server = None if cluster else stack.enter_context(EmbeddedAIS(root / "ais"))
        access = Access(server.endpoint, server.token) if server else cluster
        assert access is not None
        put(folder, access, "ais://faults")
        links = links_to(access.endpoint, Placement(connect(access), access.endpoint).hosts)
        for link in links:
            stack.callback(link.close)
        yield Place(access, make_client(access), links, server)


def after(seconds: float, call: Callable[[], None]) -> None:
    """Later, in a thread."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
