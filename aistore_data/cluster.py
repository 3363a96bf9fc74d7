"""A cluster: can it be used from here, and the SDK's client for everything that is not the hot path."""

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from aistore import Client
from aistore.sdk.retry_config import RetryConfig
from tenacity import Retrying, stop_after_attempt
from urllib3 import Retry

from aistore_data.errors import ClusterError, ObjectError
from aistore_data.http_reader import Access, HttpReader

_MAP = "/v1/daemon?what=smap"

_REACH_S = 2.0
"""Seconds in which a node must take a connection: the SDK alone would be silent for 48 to 90."""


def make_client(access: Access, timeout_s: float = 30.0) -> Client:
    """The SDK's client with two tries instead of seven, so that a fault becomes a sentence and not a silence."""
    retry = RetryConfig(http_retry=Retry(total=0), network_retry=Retrying(stop=stop_after_attempt(2), reraise=True))
    return Client(access.endpoint, token=access.token or None, timeout=(3.0, timeout_s), retry_config=retry)


def cluster_map(access: Access) -> dict[str, Any] | None:
    """The cluster map as it is now; None if it cannot be had within a few seconds."""
    try:
        found = json.loads(HttpReader(replace(access, connect_timeout_s=_REACH_S, read_timeout_s=_REACH_S)).get(_MAP))
    except (ObjectError, OSError, http.client.HTTPException, ValueError):
        return None
    return found if isinstance(found, dict) and "tmap" in found else None


def connect(access: Access) -> dict[str, Any]:
    """The cluster map, if proxy and targets can be reached from here. Raises ClusterError within some 5 seconds."""
    reader = HttpReader(Access(access.endpoint, access.token, _REACH_S, _REACH_S))
    try:
        cluster_map = json.loads(reader.get(_MAP))
        targets = {name: node["public_net"]["direct_url"] for name, node in cluster_map["tmap"].items()}
    except ObjectError as error:
        if error.status in (401, 403):
            raise ClusterError(
                f"the cluster at {access.endpoint} refuses the token (status {error.status}): {error.message}. "
                "Set AIS_AUTHN_TOKEN to a valid one."
            ) from None
        raise ClusterError(f"{access.endpoint} answers, but is no AIStore: {error}. Check data.endpoint.") from None
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise ClusterError(
            f"no AIStore answers at {access.endpoint}: {reason}. Check data.endpoint and that the cluster runs."
        ) from None
    except Exception as error:  # no HTTP, no JSON, or not a cluster map
        raise ClusterError(
            f"{access.endpoint} answers, but is no AIStore ({type(error).__name__}). Check data.endpoint."
        ) from None
    if not targets:
        raise ClusterError(f"the cluster at {access.endpoint} has no targets yet: wait until it is up.")
    with ThreadPoolExecutor(len(targets)) as pool:
        for name, problem in zip(targets, pool.map(_unreachable, targets.values()), strict=True):
            if problem:
                raise ClusterError(
                    f"the proxy at {access.endpoint} answers, but its target {name} at {targets[name]} "
                    f"cannot be reached from here: {problem}. It must publish addresses that are routed here."
                )
    result: dict[str, Any] = cluster_map
    return result


def _unreachable(url: str) -> str | None:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=_REACH_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
