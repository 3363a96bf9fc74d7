"""The addresses of hosts: looked up once, and again when none of them can be connected to any more."""

import errno
import socket
from contextlib import suppress
from dataclasses import dataclass, field

from aistore_data.client.http_head import parse_host

Address = tuple[int, tuple[object, ...]]
"""(family, address), as ``socket`` has them."""


@dataclass
class _Known:
    found: list[Address]
    failed: set[Address] = field(default_factory=set)
    stale: bool = False


class Addresses:
    """The addresses of hosts, which are written ``name:port``; a host without a port gets ``port``."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._known: dict[str, _Known] = {}

    def next(self, host: str) -> Address:
        """An address to connect to; of several one after the other. Raises OSError for a host that is not known.

        Where a host cannot be looked up any more, its last known addresses are taken.
        """
        known = self._known.get(host)
        if known is None or known.stale:
            try:
                known = self._known[host] = _Known(self._look_up(host))
            except OSError:
                if known is None:
                    raise
                known.stale = False
        good = [address for address in known.found if address not in known.failed] or known.found
        known.found.remove(good[0])
        known.found.append(good[0])
        return good[0]

    def connect(self, host: str) -> tuple[socket.socket, Address]:
        """A socket that is connecting, without waiting for it, and the address. Raises OSError if none can be tried."""
        while True:
            family, address = self.next(host)
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with suppress(BlockingIOError):
                    sock.connect(address)
                return sock, (family, address)
            except OSError as error:
                sock.close()
                if not self.failed(host, (family, address)):
                    code = error.errno or 0
                    raise OSError(code, f"{host}: {errno.errorcode.get(code, code)}") from None

    def failed(self, host: str, address: Address) -> bool:
        """No connection could be made to ``address``; whether another one can be tried at once."""
        known = self._known[host]
        known.failed.add(address)
        if not known.failed.issuperset(known.found):
            return True
        try:
            found = self._look_up(host)
        except OSError:
            known.stale = True
            known.failed.clear()
            return False
        others = not known.failed.issuperset(found)
        self._known[host] = _Known(found, known.failed if others else set(), stale=not others)
        return others

    def worked(self, host: str) -> None:
        """A connection to the host has been made."""
        self._known[host].failed.clear()

    def _look_up(self, host: str) -> list[Address]:
        name, port = parse_host(host)
        try:
            found = socket.getaddrinfo(name, port or self._port, type=socket.SOCK_STREAM)
        except (UnicodeError, ValueError, OverflowError) as error:
            raise OSError(f"{host[:100]!r} cannot be looked up: {error}") from None
        return list(dict.fromkeys((int(family), address) for family, _, _, _, address in found))
