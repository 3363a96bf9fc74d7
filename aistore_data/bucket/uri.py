"""Where a bucket is, as AIStore writes it: ``ais://NAME``, ``s3://NAME``, ``ais://#NAMESPACE/NAME``.

``ais://@CLUSTER#NAMESPACE/NAME`` is a bucket of another AIStore cluster that this one is attached to.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aistore.sdk.errors import InvalidBckProvider
from aistore.sdk.namespace import Namespace
from aistore.sdk.provider import Provider

from sources.errors import ConfigError

_URI = re.compile(r"([a-z0-9]+)://(?:(?=[@#])(?:@([\w-]*))?(?:#([\w-]*))?/)?((?!\.)(?:[\w-]|\.(?!\.))+)", re.ASCII)
_ALIASES = {"az": "azure", "oc": "oci"}
"""What AIStore takes as providers in addresses, beside those that the SDK knows: s3 and gs."""


@dataclass(frozen=True)
class BucketUri:
    """A bucket: AIStore's own one, or one of a cloud that AIStore reads and writes through (s3, gs, az, oc)."""

    provider: Provider
    name: str
    cluster: str = ""
    namespace: str = ""

    @property
    def query(self) -> dict[str, str]:
        """The parameters of a request that say which bucket of this name is meant."""
        query = {"provider": str(self.provider.value)}
        if self.cluster or self.namespace:
            query["namespace"] = Namespace(uuid=self.cluster, name=self.namespace).get_path()
        return query

    def of(self, client: Any) -> Any:
        """Return the SDK's bucket that this address names."""
        namespace = Namespace(uuid=self.cluster, name=self.namespace) if self.cluster or self.namespace else None
        return client.bucket(self.name, provider=self.provider, namespace=namespace)


@lru_cache
def parse_bucket(uri: str, option: str = "") -> BucketUri:
    """The bucket of an address without an object's name; ``option`` is where it was given, for the message.

    Raises ConfigError for anything else.
    """
    bucket, rest = split_uri(uri, option)
    if rest is not None:
        group = option.partition(".")[0] if "." in option else ""  # a tool has no options for what follows
        prefixes = f"; what the names of objects begin with belongs in {group}.train_prefix and {group}.val_prefix"
        raise ConfigError(
            f"{option}{uri} goes on after the bucket's name: write {uri.removesuffix(f'/{rest}')}"
            f"{prefixes if group else ''}."
        )
    return bucket


def split_uri(uri: str, option: str = "") -> tuple[BucketUri, str | None]:
    """The bucket, and what follows its name and a slash, if there is a slash. Raises ConfigError."""
    match = _URI.match(uri)
    if match is None or uri[match.end() : match.end() + 1] not in ("", "/"):
        raise ConfigError(
            f"{option}{uri} is not the address of a bucket: write ais://NAME, s3://NAME or gs://NAME, or "
            "ais://#NAMESPACE/NAME; a name has letters, digits, -, _ and single dots."
        )
    scheme, cluster, namespace, name = match.groups()
    try:
        provider = Provider.parse(_ALIASES.get(scheme, scheme))
    except InvalidBckProvider:
        raise ConfigError(
            f"{option}{uri}: AIStore knows no provider {scheme}. It has ais, s3, gs, az and oc."
        ) from None
    rest = uri[match.end() + 1 :] if match.end() < len(uri) else None
    return BucketUri(provider, name, cluster or "", namespace or ""), rest
