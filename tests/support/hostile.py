"""A server that answers as none should: twice, late, short, long, for another name, with another size, too early.

It stands for proxy, storage node and ETL at once, each right answer being that of ``etl.request``. Which answers are
wrong, and how, is drawn from a seed.
"""

import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import xxhash

from etl.request import LABEL, Request, encode_jpeg, label, parse, proved, statement
from etl.sample import transform

DOUBTFUL = ("other", "other-name", "namesake", "other-size", "short", "long", "cut")
"""Ways to give other bytes than those of the sample."""

OUT_OF_STEP = ("twice", "twice-soon", "twice-next", "surplus", "early")
"""Ways to say more than was asked for: at once, within milliseconds, exactly after the next request, in between."""

BROKEN = ("reset", "close", "partial", "empty", "gzip", "two-lengths", "garbage", "error", "bare", "late", "slow")
HARMLESS = ("interim", "label")
KINDS = (*DOUBTFUL, *OUT_OF_STEP, *BROKEN, *HARMLESS)


class Hostile:
    """``photos`` by their names in ``BUCKET``; of all answers a ``share`` is hostile, of ``kinds``.

    ``chunked``: whether bodies come in chunks, of random sizes. ``redirect``: whether the first of the two ports, the
    proxy's, redirects to the second, the storage node's, as it does then. ``pieces``: whether answers come in two.
    """

    BUCKET = "hostile"

    def __init__(
        self, photos: dict[str, bytes], seed: int, share: float, tls: ssl.SSLContext | None = None, **options: Any
    ) -> None:
        self.photos, self.seed, self.share, self.tls = photos, seed, share, tls
        self.chunked: bool = options.get("chunked", False)
        self.redirect: bool = options.get("redirect", False)
        self.kinds: tuple[str, ...] = options.get("kinds", KINDS)
        self.answers = 0
        self.used = Counter[str]()
        self._lock = threading.Lock()
        self._made: dict[tuple[str, str], bytes] = {}
        self._names = list(photos)
        self._open: set[socket.socket] = set()
        self._listeners = [socket.create_server(("127.0.0.1", 0), backlog=256) for _ in range(2)]
        self.hosts = [f"127.0.0.1:{listener.getsockname()[1]}" for listener in self._listeners]
        for number, listener in enumerate(self._listeners):
            threading.Thread(target=self._accept, args=(listener, number), daemon=True).start()

    def __enter__(self) -> "Hostile":
        return self

    def __exit__(self, *exception: object) -> None:
        for listener in self._listeners:
            listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def content(self, name: str, query: dict[str, str]) -> bytes:
        """The right body of an answer."""
        photo = self.photos[name]
        if "etl_name" not in query:
            return photo
        etl_args = query["etl_args"]
        request = parse(etl_args, "val" if query["etl_name"].endswith("val") else "train")
        return proved(self._body(name, request), request, f"{self.BUCKET}/{name}", etl_args)

    def _body(self, name: str, request: Request) -> bytes:
        key = name, repr((request.spec, request.key, request.wire))
        if key not in self._made:
            pixels = transform(self.photos[name], request.spec, request.key)
            self._made[key] = pixels.tobytes() if request.wire == "raw" else encode_jpeg(pixels, request.quality)
        return self._made[key]

    def _accept(self, listener: socket.socket, number: int) -> None:
        count = 0
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            count += 1
            drawn = random.Random(f"{self.seed} {number} {count}")
            threading.Thread(target=self._serve, args=(connection, number, drawn), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int, drawn: random.Random) -> None:
        self._open.add(connection)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            _Serving(self, connection, number, drawn).run()
        except (OSError, ValueError):
            pass  # the client has closed it
        finally:
            self._open.discard(connection)
            with suppress(OSError):
                connection.close()


class _Serving:
    """One connection."""

    def __init__(self, server: Hostile, connection: socket.socket, number: int, drawn: random.Random) -> None:
        self.server, self.connection, self.drawn = server, connection, drawn
        self.proxy = number == 0 and server.redirect
        self.owed: list[bytes] = []
        self.lock = threading.Lock()

    def run(self) -> None:
        reader = self.connection.makefile("rb")
        while line := reader.readline():
            while reader.readline() not in (b"\r\n", b""):
                pass
            target = urlsplit(line.split(b" ")[1].decode())
            name = unquote(target.path).removeprefix(f"/v1/objects/{Hostile.BUCKET}/")
            query = {key: values[0] for key, values in parse_qs(target.query).items()}
            for answer in self.owed:
                self.send(answer)
            self.owed.clear()
            if not self.answer(f"{target.path}?{target.query}", name, query):
                return

    def send(self, data: bytes) -> None:
        with self.lock:
            if len(data) > 2 and self.drawn.random() < 0.2:
                at = self.drawn.randrange(1, len(data))
                self.connection.sendall(data[:at])
                self.connection.sendall(data[at:])
            else:
                self.connection.sendall(data)

    def answer(self, path: str, name: str, query: dict[str, str]) -> bool:
        """Whether the connection goes on."""
        server, drawn = self.server, self.drawn
        kind = drawn.choice(server.kinds) if drawn.random() < server.share else "right"
        with server._lock:
            server.answers += 1
            server.used[kind] += 1
        if self.proxy:
            other = path if kind != "other" else path.replace(name, drawn.choice(server._names))
            head = f"HTTP/1.1 307 Go\r\nLocation: http{'s' * bool(server.tls)}://{server.hosts[1]}{other}\r\n"
            right = head.encode() + b"Content-Length: 3\r\n\r\nabc"
        else:
            right = self.whole(name, query, kind)
        return self.deliver(kind, right)

    def whole(self, name: str, query: dict[str, str], kind: str) -> bytes:
        """An answer 200, of which ``kind`` may make another one."""
        server, drawn = self.server, self.drawn
        asked = name, query
        if kind in ("other", "other-name") or (kind == "namesake" and "etl_name" in query):
            others = [other for other in server._names if other != name]
            last = name.rpartition("/")[2]
            namesakes = [other for other in others if other.rpartition("/")[2] == last]
            name = drawn.choice(namesakes if namesakes and (kind == "namesake" or drawn.random() < 0.3) else others)
            if kind == "other" and '"tag":' in query.get("etl_args", ""):  # one that somebody else asked for
                index = query["etl_args"].rpartition(":")[2]
                theirs = str(server._names.index(name))
                query = query | {"etl_args": query["etl_args"].replace(f":{index[:-1]}", f":{theirs}")}
        elif kind == "other-size" and "etl_args" in query:
            query = query | {"etl_args": query["etl_args"].replace('"size":32', '"size":31')}
        body = server.content(name, query)
        if kind == "short":
            body = body[: -drawn.randrange(1, min(40, len(body)))]
        elif kind == "long":
            body += bytes(drawn.randrange(1, 40))
        elif kind == "cut":  # the right length, with bytes missing and others after it
            at = drawn.randrange(1, len(body))
            body = body[at:] + body[:at]
        headers = [f"Date: {time.time():.0f}", "Content-Type: application/octet-stream"]
        if "etl_name" not in query:
            headers += ["Ais-Checksum-Type: xxhash2", f"Ais-Checksum-Value: {xxhash.xxh64_hexdigest(body)}"]
        elif kind == "label":
            value = label(statement(asked[0], query["etl_args"]))
            headers += [f"{LABEL}: {value.decode()}"] if value else []
        elif kind == "gzip":
            headers.append("Content-Encoding: gzip")
        return self.framed(headers, body, kind)

    def framed(self, headers: list[str], body: bytes, kind: str) -> bytes:
        if kind == "two-lengths":
            headers += [f"Content-Length: {len(body)}", f"Content-Length: {len(body) + 1}"]
        elif self.server.chunked and kind != "two-lengths":
            headers.append("Transfer-Encoding: chunked")
            pieces, at = [], 0
            while at < len(body):
                piece = body[at : at + self.drawn.choice((7, 100, 700, 1024, 4096))]
                pieces.append(b"%x\r\n%b\r\n" % (len(piece), piece))
                at += len(piece)
            body = b"".join(pieces) + b"0\r\n\r\n"
        else:
            headers.append(f"Content-Length: {len(body)}")
        return "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode() + body

    def deliver(self, kind: str, right: bytes) -> bool:
        drawn = self.drawn
        if kind == "reset" or kind == "close":
            if kind == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return False
        if kind == "partial":
            self.send(right[: drawn.randrange(1, len(right))])
            return False
        if kind in ("empty", "garbage", "error", "bare"):
            self.send(_WRONG[kind])
            return kind != "garbage"
        if kind == "late":  # after the client has given it up
            time.sleep(0.3)
        elif kind == "slow":
            for at in range(0, len(right), max(1, len(right) // 7)):
                self.connection.sendall(right[at : at + max(1, len(right) // 7)])
                time.sleep(0.001)
            return True
        if kind == "twice":
            right = right + right
        elif kind == "surplus":
            right += drawn.choice((b"x", b"\r\n", b"HTTP/1.1 200 OK\r\n", bytes(100)))
        elif kind == "interim":
            right = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\n" + right
        self.send(right)
        if kind == "twice-soon":
            self.later(drawn.uniform(0, 0.004), right)
        elif kind == "twice-next":
            self.owed.append(right)
        elif kind == "early":
            self.later(drawn.uniform(0, 0.004), b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        return True

    def later(self, seconds: float, data: bytes) -> None:
        def send() -> None:
            with suppress(OSError, ValueError):
                self.send(data)

        timer: Callable[..., threading.Timer] = threading.Timer
        thread = timer(seconds, send)
        thread.daemon = True
        thread.start()


_WRONG = {
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "garbage": b"\x16\x03\x01SSH-2.0\r\n\r\n",
    "error": b'HTTP/1.1 500 Oh\r\nContent-Length: 17\r\n\r\n{"message":"bad"}',
    "bare": b"HTTP/1.1 204 No Content\r\n\r\n",
}
