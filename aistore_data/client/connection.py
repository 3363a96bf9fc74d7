"""One kept connection: a GET goes out, and its answer comes straight into the memory where its bytes belong.

Nothing here waits: what can be sent or received now is, and whoever polls says when to go on. What has come is read by
``client.answer``.
"""

import errno
import select
import socket
import ssl
import time
from contextlib import suppress
from fcntl import ioctl
from struct import pack
from termios import FIONREAD

from aistore_data.client.addresses import Address
from aistore_data.client.answer import Answer, Get, Lead
from aistore_data.client.http_head import Chunks, parse_host

SCRATCH_BYTES = 1 << 18
"""Bytes of the memory that a caller lends for what cannot be read into its final place."""

_READ_HEAD = 512
"""Read at once where a head is expected: little, so that most of the body needs no copy."""
_RECEIVES = range(65)
"""Calls of recv until other connections have their turn."""
_NOTHING = pack("i", 0)
_IN, _IN_OUT = select.EPOLLIN, select.EPOLLIN | select.EPOLLOUT
_AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Connection(Answer):
    """A connection and the answer that it is receiving."""

    __slots__ = (
        *("address", "began", "connected", "drained", "fd", "heard", "host", "reached", "redirects", "reused", "sock"),
        *("tail", "tls", "token", "unsent", "watched"),
    )

    def __init__(self, sock: socket.socket, host: str, address: Address, tls: ssl.SSLContext | None) -> None:
        super().__init__()
        self.sock, self.host, self.address, self.fd = sock, host, address, sock.fileno()
        self.tls = tls
        self.began = time.monotonic()
        self.reached = self.connected = False  # TCP; TLS too
        self.reused = False
        self.watched = select.EPOLLOUT
        self.token = self.tail = ""

    def ask(self, get: Get, token: str, redirects: int) -> None:
        """Begin a request with ``token``, to which ``redirects`` redirects have led."""
        self.expect(get)
        self.redirects = redirects
        if not self.tail or token != self.token:
            authorization = f"Authorization: Bearer {token}\r\n" if token else ""
            self.token = token  # and all that comes after the line of the path
            self.tail = f"Host: {self.host}\r\n{authorization}Accept-Encoding: identity\r\n\r\n"
        wanted = "" if get.part is None else f"Range: bytes={get.part[0]}-{get.part[1] - 1}\r\n"
        self.unsent = f"GET {get.path} HTTP/1.1\r\n{wanted}{self.tail}".encode()
        self.heard = False
        self.drained = False  # whether nothing more was there to be received, so that epoll tells of what comes

    def due(self) -> float:
        """When, of time.monotonic, it is too late for the answer, as far as can be told now."""
        get = self.get
        if not self.connected:
            return min(get.deadline, self.began + get.connect_timeout_s)
        return get.deadline + self.received / get.least_rate if get.least_rate else get.deadline

    def is_quiet(self) -> bool:
        """Whether nothing lies in it that has not been read: what does is no answer to a request that is still to come.

        In a connection that has answered a request, TLS has nothing more of its own to say either.
        """
        if self.tls and isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():
            return False
        return ioctl(self.fd, FIONREAD, _NOTHING) == _NOTHING

    def advance(self, poll: select.epoll, scratch: memoryview) -> bool:
        """Whether the answer is complete. Raises OSError, or ObjectError for an answer that is none."""
        if self.unsent:
            if self.connected or self._finish_connecting(poll):
                self._send(poll)
            return False  # what there is to send or to receive now, epoll tells
        try:
            for _ in _RECEIVES:
                if self._receive(scratch):
                    return True
                if self.drained:
                    return False
            while self.tls and isinstance(self.sock, ssl.SSLSocket) and self.sock.pending():  # epoll does not tell
                if self._receive(scratch):
                    return True
        except _AGAIN:
            pass
        return False

    def _send(self, poll: select.epoll) -> None:
        if not self.reused and not self._is_quiet_after_connecting():
            raise ConnectionResetError(errno.ECONNRESET, "the server spoke before it was asked")
        try:
            sent = self.sock.send(self.unsent)
        except _AGAIN:
            sent = 0
        self.unsent = self.unsent[sent:]
        if self.unsent or self.watched != _IN:
            self._watch(poll, _IN_OUT if self.unsent else _IN)

    def _is_quiet_after_connecting(self) -> bool:
        """TLS may have sent tickets for later connections, which only an attempt to read takes away."""
        if isinstance(self.sock, ssl.SSLSocket):
            with suppress(*_AGAIN):
                return not self.sock.recv(1)
            return True
        return self.is_quiet()

    def _watch(self, poll: select.epoll, events: int) -> None:
        if events != self.watched:
            poll.modify(self.fd, events)
            self.watched = events

    def _finish_connecting(self, poll: select.epoll) -> bool:
        if code := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, f"{self.host}: {errno.errorcode.get(code, code)}")
        try:
            self.sock.getpeername()
        except OSError:  # it is connecting still
            return False
        self.reached = True
        if self.tls and not isinstance(self.sock, ssl.SSLSocket):  # its descriptor stays the same
            name, _ = parse_host(self.host)
            self.sock = self.tls.wrap_socket(self.sock, server_hostname=name, do_handshake_on_connect=False)
        if isinstance(self.sock, ssl.SSLSocket):
            try:
                self.sock.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                self._watch(poll, select.EPOLLIN if isinstance(error, ssl.SSLWantReadError) else select.EPOLLOUT)
                return False
        self.connected = True
        self._watch(poll, select.EPOLLIN)
        return True

    def _receive(self, scratch: memoryview) -> bool:
        """Receive once. Whether the answer is complete."""
        start, row = len(self.rest), self.get.row
        if row is not None and self.left > 0 and self.status == self.wanted and self.received < self.room:
            # Content that belongs in the row goes there, what comes after it is looked at.
            direct = row[self.received : self.received + self.left]
            if self.tls:  # cannot receive into two places
                count = self.sock.recv_into(direct)
            else:
                count = self.sock.recvmsg_into((direct, scratch))[0]
                self.drained = True
            if count:
                self.heard = True
                return self._have_in_place(count, len(direct), scratch)
        elif self.head is None:
            lead = self.lead
            if lead is not None and not self.tls and not start and row is not None and lead.total == self.total:
                return self._receive_like_before(lead, row, scratch)
            count = self.sock.recv_into(scratch[start : start + _READ_HEAD])
            self.drained = count < _READ_HEAD and not self.tls
        else:
            count = self.sock.recv_into(scratch[start:])
            self.drained = count < len(scratch) - start and not self.tls
        if count == 0 and self.to_close:
            return True
        if count == 0:
            raise _closed()
        self.heard = True
        if start:
            scratch[:start] = self.rest
        return self._take(scratch[: start + count])

    def _receive_like_before(self, lead: Lead, row: memoryview, scratch: memoryview) -> bool:
        """Receive an answer that probably begins as the last one, its content at once to its place."""
        size = len(lead.text)
        before, after = scratch[:size], scratch[size:]
        place = row if lead.first == self.room else row[: lead.first]
        count = self.sock.recvmsg_into((before, place, after))[0]
        if not count:
            raise _closed()
        self.heard = True  # and more may have come while this was copied: it is looked at once more
        if count < size or bytes(before) != lead.text:  # put together what has come, and read it
            self.lead = self.seen = None
            surplus = after[: max(0, count - size - len(place))]
            return self._take(memoryview(b"".join((before, place, surplus))[:count]))
        self.head, self.status, self.keep = lead.head, lead.head.status, lead.head.keep
        self.get.headers = lead.head.headers
        self.left = lead.left
        if lead.head.chunked:
            self.chunks = Chunks(lead.head.status, begun=True)
        return self._have_in_place(count - size, len(place), after) if count > size else False


def _closed() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "the server closed the connection before its answer ended")
