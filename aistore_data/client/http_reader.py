"""GETs one at a time, for what is read at a run's start and beside it. ``client.fetch`` makes many at a time.

They go the same way, with the same care for what a server may answer: kept connections, redirects, a bounded time and
a bounded size.
"""

import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from aistore_data.client.access import Access, object_path
from aistore_data.client.answer import MOST_BYTES, Get
from aistore_data.client.fetch import Fetcher
from sources.errors import ObjectError

__all__ = ["Access", "HttpReader", "object_path"]

LEAST_RATE = 1 << 16
"""Bytes/s below which an answer is given up after ``Access.read_timeout_s``."""


class HttpReader:
    """Kept-alive connections of one process, those of each thread. Pickles as its ``Access``."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._local = threading.local()
        access.credentials().current()  # a file without a token is told now

    def __reduce__(self) -> tuple[type, tuple[Access]]:
        return HttpReader, (self.access,)

    def get(self, path: str, most: int = MOST_BYTES, check: Callable[[Get], str] | None = None) -> bytes:
        """The body of a GET, of ``most`` bytes at most; ``check`` as in ``Get``.

        Raises ObjectError for an answer other than 200, and for one that is not HTTP; OSError if there is none.
        """
        return bytes(self._ask(self._request(path, most=most, check=check)).body)

    def get_into(self, path: str, row: memoryview, stated: bytes | None = None) -> None:
        """The body of a GET into ``row``, which it must fill exactly; errors as ``get``, and ObjectError otherwise.

        ``stated``: as in ``Get``, of a request whose answer has a proof.
        """
        self._ask(self._request(path, row=row, stated=stated))

    def host_of(self, path: str) -> str:
        """Host and port that serve a GET of ``path``: where the proxy sends it."""
        return self._ask(self._request(path, follow=False), any_status=True).host

    def _request(self, path: str, **options: Any) -> Get:
        access = self.access
        options |= {"connect_timeout_s": access.connect_timeout_s, "least_rate": LEAST_RATE}
        return Get(path, urlsplit(access.endpoint).netloc, access.read_timeout_s, **options)

    def _ask(self, get: Get, any_status: bool = False) -> Get:
        host, path = get.host, get.path
        self._run(get)
        if isinstance(get.error, ObjectError) and get.error.out_of_step:  # once more, where nothing has been before
            get.body.clear()
            get.host, get.path, get.fresh, get.deadline = host, path, True, 0.0
            self._run(get)
        if get.error is not None and not (any_status and get.status):
            raise get.error
        return get

    def _run(self, get: Get) -> None:
        if getattr(self._local, "pid", None) != os.getpid():  # a forked process must not share its parent's sockets
            self._local.pid, self._local.fetcher = os.getpid(), Fetcher[Get](self.access)
        self._local.fetcher.run([get], lambda _: get, lambda *_: None)
