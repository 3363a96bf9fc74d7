"""A cluster: can it be used from here, and the SDK's client for everything that is not the hot path."""

import json
import logging
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from aistore import Client
from aistore.sdk.errors import AISError
from aistore.sdk.request_client import RequestClient
from aistore.sdk.response_handler import AISResponseHandler
from aistore.sdk.retry_config import RetryConfig
from aistore.sdk.session_manager import SessionManager
from requests import PreparedRequest, Response, Session
from tenacity import Retrying, stop_after_attempt
from urllib3 import Retry

from aistore_data.client.access import Access, server_message
from aistore_data.client.credentials import Token, tls_problem
from aistore_data.client.http_reader import HttpReader
from sources.errors import ClusterError, ObjectError

_MAP = "/v1/daemon?what=smap"

_REACH_S = 2.0
"""Seconds in which a node must take a connection: the SDK alone would be silent for 48 to 90."""


class _Sessions(SessionManager):
    """The SDK's sessions, which read the token once and for all, with a token that may be replaced."""

    def __init__(self, token: Token, retry: Retry) -> None:
        super().__init__(retry=retry)
        self._token = token

    @property
    def session(self) -> Session:
        """This process's; of the environment it takes what the fast reader takes.

        That is no proxy, no .netrc, and not REQUESTS_CA_BUNDLE, which ``requests`` prefers to AIS_CLIENT_CA.
        """
        session: Session = super().session
        session.auth, session.trust_env = self._sign, False
        return session

    def _sign(self, request: PreparedRequest) -> PreparedRequest:
        if token := self._token.current():  # as it is now
            request.headers["Authorization"] = f"Bearer {token}"
        return request


class _Answers(AISResponseHandler):
    """The SDK's errors without the token, which AIStore 5.0 repeats in what it says of one that has expired."""

    def __init__(self, token: Token) -> None:
        self._token = token

    def parse_error(self, r: Response) -> AISError:
        """Return the SDK's error without the token in its message."""
        error = super().parse_error(r)
        return type(error)(error.status_code, self._token.hide(error.message), error.req_url, error.req)


def make_client(access: Access, timeout_s: float = 30.0) -> Client:
    """The SDK's client with two tries instead of seven, so that a fault becomes a sentence and not a silence."""
    # It warns of every answer to a PUT that is no redirect, and such an answer becomes an error with a sentence.
    logging.getLogger("aistore.sdk.request_client").setLevel(logging.CRITICAL)
    retry = RetryConfig(http_retry=Retry(total=0), network_retry=Retrying(stop=stop_after_attempt(2), reraise=True))
    client, token = Client(access.endpoint, retry_config=retry), access.credentials()
    client._request_client = RequestClient(
        endpoint=access.endpoint,
        session_manager=_Sessions(token, retry.http_retry),
        timeout=(3.0, timeout_s),
        response_handler=_Answers(token),
        retry_config=retry,
    )
    return client


def explain(error: Exception, access: Access) -> str:
    """Why a request of either client failed: a sentence on the token or on TLS, or the server's own words."""
    status = error.status_code if isinstance(error, AISError) else error.status if isinstance(error, ObjectError) else 0
    said = server_message(error.message.encode()) if isinstance(error, AISError) else getattr(error, "message", "")
    if status in (401, 403):
        return f"the cluster at {access.endpoint} {access.credentials().refused(status, said)}"
    if problem := tls_problem(error, access.endpoint, access.option):
        return problem
    return f"status {status} {said}".rstrip(" .") + "." if status else f"{error}."


def cluster_map(access: Access) -> dict[str, Any] | None:
    """The cluster map as it is now; None if it cannot be had within a few seconds."""
    try:
        found = json.loads(HttpReader(replace(access, connect_timeout_s=_REACH_S, read_timeout_s=_REACH_S)).get(_MAP))
    except (ObjectError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "tmap" in found else None


def connect(access: Access) -> dict[str, Any]:
    """The cluster map, if proxy and targets can be reached from here.

    Empty where the token may read buckets and nothing else: the cluster map needs the permission SHOW-CLUSTER. Raises
    ClusterError within some 5 seconds.
    """
    reader = HttpReader(replace(access, connect_timeout_s=_REACH_S, read_timeout_s=_REACH_S))
    try:
        cluster_map: dict[str, Any] = json.loads(reader.get(_MAP))
        targets = {name: node["public_net"]["direct_url"] for name, node in cluster_map["tmap"].items()}
    except ClusterError:
        raise
    except ObjectError as error:
        if error.status == 403:
            return {}
        if error.status == 401 or tls_problem(error, access.endpoint, access.option):
            raise ClusterError(explain(error, access)) from None
        raise ClusterError(
            f"{access.endpoint} answers, but is not an AIStore: {error}. Check {access.option}."
        ) from None
    except OSError as error:
        if problem := tls_problem(error, access.endpoint, access.option):
            raise ClusterError(problem) from None
        reason = error.strerror or str(error) or type(error).__name__
        raise ClusterError(
            f"no AIStore answers at {access.endpoint}: {reason}. Check {access.option} and that the cluster runs."
        ) from None
    except Exception as error:  # no HTTP, no JSON, or not a cluster map
        raise ClusterError(
            f"{access.endpoint} answers, but is not an AIStore ({type(error).__name__}). Check {access.option}."
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
    return cluster_map


def _unreachable(url: str) -> str | None:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname, parts.port), timeout=_REACH_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return None
