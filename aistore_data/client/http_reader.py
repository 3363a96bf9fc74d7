"""GETs one at a time, for what is read at a run's start and beside it. ``client.fetch`` makes many at a time.

They go the same way, with the same care for what a server may answer: kept connections, redirects, a bounded time and
a bounded size.
"""

import os
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from aistore_data.client.access import Access
from aistore_data.client.answer import MOST_BYTES, Get
from aistore_data.client.fetch import Fetcher
from sources.errors import ObjectError

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

    def get(
        self,
        path: str,
        most: int = MOST_BYTES,
        check: Callable[[Get], str] | None = None,
        part: tuple[int, int] | None = None,
    ) -> bytes:
        """The body of a GET, of ``most`` bytes at most; ``check`` and ``part`` as in ``Get``.

        Raises ObjectError for a refusal, and for an answer that is not HTTP; OSError if there is none.
        """
        return bytes(self._ask(path, most=most, check=check, part=part).body)

    def get_into(self, path: str, row: memoryview, stated: bytes | None = None) -> None:
        """The body of a GET into ``row``, which it must fill exactly; errors as ``get``, and ObjectError otherwise.

        ``stated``: as in ``Get``, of a request whose answer has a proof.
        """
        self._ask(path, row=row, stated=stated)

    def host_of(self, path: str) -> str:
        """Host and port that serve a GET of ``path``: where the proxy sends it."""
        return self._ask(path, any_status=True, follow=False).host

    def _ask(self, path: str, any_status: bool = False, **options: Any) -> Get:
        """A GET with these fields; where the answer may be another's, once more on a new connection."""
        access = self.access
        options |= {"connect_timeout_s": access.connect_timeout_s, "least_rate": LEAST_RATE}
        for fresh in (False, True):
            get = Get(path, urlsplit(access.endpoint).netloc, access.read_timeout_s, fresh=fresh, **options)
            self._fetcher().run([get], lambda get: get, lambda *_: None)
            if not (isinstance(get.error, ObjectError) and get.error.out_of_step):
                break
        if get.error is not None and not (any_status and get.status):
            raise get.error
        return get

    def _fetcher(self) -> Fetcher[Get]:
        """This thread's, and this process's: a forked one must not share its parent's sockets."""
        if getattr(self._local, "pid", None) != os.getpid():
            self._local.pid, self._local.fetcher = os.getpid(), Fetcher[Get](self.access)
        fetcher: Fetcher[Get] = self._local.fetcher
        return fetcher
