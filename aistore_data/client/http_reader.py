"""GETs one at a time, for what is read at a run's start and beside it. ``client.fetch`` makes many at a time.

They go the same way, with the same care for what a server may answer: kept connections, redirects, a bounded time and
a bounded size.
"""

import os
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from aistore_data.client.access import Access, object_path, server_message
from aistore_data.client.connection import MOST_BYTES, Get
from aistore_data.client.fetch import Fetcher
from sources.errors import ObjectError

__all__ = ["Access", "HttpReader", "object_path", "server_message"]

LEAST_RATE = 1 << 16
"""Bytes/s below which an answer is given up after ``Access.read_timeout_s``."""


class _Once:
    """A task of one GET."""

    def __init__(self, host: str) -> None:
        self.host = host


class HttpReader:
    """Kept-alive connections of one process, those of each thread. Pickles as its ``Access``."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._local = threading.local()
        access.credentials().current()  # a file without a token is told now

    def __reduce__(self) -> tuple[type, tuple[Access]]:
        return HttpReader, (self.access,)

    @property
    def reconnects(self) -> int:
        """How often this thread met a kept connection that the server had closed."""
        return self._fetcher().reconnects

    def get(self, path: str, most: int = MOST_BYTES, check: Callable[[Get], str] | None = None) -> bytes:
        """The body of a GET, of ``most`` bytes at most; ``check`` as in ``Get``.

        Raises ObjectError for an answer other than 200, and for one that is not HTTP; OSError if there is none.
        """
        get = self._request(path, most=most)
        get.check = check
        return bytes(self._ask(get).body)

    def get_into(self, path: str, row: memoryview, stated: bytes | None = None) -> None:
        """The body of a GET into ``row``, which it must fill exactly; errors as ``get``, and ObjectError otherwise.

        ``stated``: as in ``Get``, of a request whose answer has a proof.
        """
        self._ask(self._request(path, row, stated))

    def host_of(self, path: str) -> str:
        """Host and port that serve a GET of ``path``: where the proxy sends it."""
        get = self._request(path)
        get.follow = False
        return self._ask(get, any_status=True).host

    def _request(
        self, path: str, row: memoryview | None = None, stated: bytes | None = None, most: int = MOST_BYTES
    ) -> Get:
        access = self.access
        get = Get(path, urlsplit(access.endpoint).netloc, access.read_timeout_s, row, stated, most)
        get.connect_timeout_s, get.least_rate = access.connect_timeout_s, LEAST_RATE
        return get

    def _ask(self, get: Get, any_status: bool = False) -> Get:
        host, path = get.host, get.path
        self._fetcher().run([_Once(host)], lambda _: get, lambda *_: None)
        if isinstance(get.error, ObjectError) and get.error.out_of_step:  # once more, where nothing has been before
            get.body.clear()
            get.host, get.path, get.fresh, get.deadline = host, path, True, 0.0
            self._fetcher().run([_Once(host)], lambda _: get, lambda *_: None)
        if get.error is not None and not (any_status and get.status):
            raise get.error
        return get

    def _fetcher(self) -> Fetcher[_Once]:
        if getattr(self._local, "pid", None) != os.getpid():  # a forked process must not share its parent's sockets
            self._local.pid, self._local.fetcher = os.getpid(), Fetcher[_Once](self.access)
        fetcher: Fetcher[_Once] = self._local.fetcher
        return fetcher
