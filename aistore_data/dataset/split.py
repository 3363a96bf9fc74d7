"""A split of a bucket: where its samples come from, and how."""

from dataclasses import dataclass

from aistore_data.bucket.uri import parse_bucket
from aistore_data.client.http_reader import Access
from aistore_data.client.placement import Placement
from aistore_data.dataset.breaker import Breakers
from aistore_data.etls.asking import EtlPaths
from etl.sample import Spec
from sources.manifest import Manifest
from sources.notices import Notices
from sources.source import Specs


@dataclass(frozen=True)
class Remote:
    """Where samples of a split come from and how; all that a worker must know."""

    access: Access
    uri: str
    manifest: Manifest
    placement: Placement
    breakers: Breakers
    spec: Spec | Specs
    seed: int
    direct: bool = False
    """Whether storage nodes answer without the proxy's redirect."""
    etl_name: str = ""
    """Without one samples are made here."""
    local_share: float = 0.0
    """Share of the samples, 0 to 1, that is made here though there is an ETL."""
    wire: str = "raw"
    deadline_s: float = 2.0
    adaptive_deadline: bool = True
    """Whether less than ``deadline_s`` is waited for a node that is much later than the others."""
    patience_s: float = 600.0
    audit_every: int = 256
    replace: bool = False
    tags: bool = False
    """Whether the ETL proves what its answers are answers to; one of an earlier version does not."""
    notices: Notices | None = None

    def locate(self, index: int) -> str:
        """Where sample ``index`` lies, for messages."""
        return f"{self.uri}/{self.manifest.name(index)}"


def etl_paths(remote: Remote, spec: Spec) -> EtlPaths:
    """Of the requests to the ETL of ``remote`` for samples of ``spec``."""
    return EtlPaths(remote.uri, remote.etl_name, spec, remote.seed, remote.wire, remote.tags)


def uname(uri: str) -> str:
    """What AIS puts before an object's name to place it."""
    bucket = parse_bucket(uri)
    return f"{bucket.provider.value}/@{bucket.cluster}#{bucket.namespace}/{bucket.name}/"
