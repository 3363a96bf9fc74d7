"""A pod: a process group that runs one ETL class, and the kept-alive connections to it."""

import http.client
import os
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, urlencode

from aistore_data.embedded.errors import ApiError

LOG_LINES = 20
SECRET_HEADER, SECRET_VARIABLE = "X-Pod-Secret", "EMBEDDED_AIS_POD_SECRET"  # as in pod.py
POLL_S = 0.03
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}")


def pod_url(path: str, query: dict[str, str]) -> str:
    """Path and query of a request to a pod for the decoded ``path``. Raises ApiError 400.

    With AIS's own mistake, which clients must know: the name is not encoded. So "%41" in it is decoded, "?" and "#" end
    the path and make arguments disappear, and a "%" without two hexadecimal digits is an error.
    """
    whole = path + (f"?{urlencode(query)}" if query else "")
    sent, _, fragment = whole.partition("#")
    path, mark, rest = sent.partition("?")
    if bad := _BAD_ESCAPE.search(path) or _BAD_ESCAPE.search(fragment):
        raise ApiError(400, f'parse "{whole}": invalid URL escape "{bad[0]}"', "Error")
    return quote(path, safe="/%") + mark + quote(rest, safe="/%?&=+")


class Pod:
    """Runs until ``kill``, or until its main process ends by itself: then ``on_death`` is called, once."""

    def __init__(self, environment: dict[str, str], log: Path, on_death: Callable[["Pod"], None]) -> None:
        self._log = log
        self._on_death = on_death
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._reaping = threading.Lock()
        self._killed = False
        self.died = threading.Event()
        # A pod reads the files that a request names, so not everybody on this machine may ask it.
        secret = secrets.token_urlsafe(16)
        self._headers = {SECRET_HEADER: secret}
        self.exit_status = ""
        # Bound, never listening, while the pod starts: so nobody else is given the port, and the pod can listen on it.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self._port: int = self._reserved.getsockname()[1]
        with open(log, "wb") as output:
            script = str(Path(__file__).with_name("pod.py"))
            # -P and no PYTHONPATH: a pod has the installed packages but not this checkout, as on a real cluster, where
            # a class that was pickled by reference is not found.
            self._process = subprocess.Popen(
                [sys.executable, "-P", script, str(self._port)],
                env={**environment, SECRET_VARIABLE: secret},
                cwd=log.parent,
                stdin=subprocess.PIPE,  # this process alone holds the other end: the pod ends when it closes
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        # Not reaped before the group is killed: until then nobody else can get this process id.
        result = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        assert result is not None and self._process.stdin is not None
        self._process.stdin.close()
        self.exit_status = f"{'exit code' if result.si_code == os.CLD_EXITED else 'signal'} {result.si_status}"
        self._reserved.close()
        self.died.set()
        if not self._killed:
            self._on_death(self)

    def kill(self) -> None:
        """Ends all processes of the pod, at once and without grace, as AIS does."""
        self._killed = True
        with self._reaping:
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)
        self.died.wait()

    def log_tail(self) -> str:
        """The last lines that the pod wrote."""
        lines = self._log.read_text("utf-8", "replace").splitlines(keepends=True) if self._log.exists() else []
        return "".join(lines[-LOG_LINES:])

    def wait_ready(self, timeout_s: float) -> str:
        """Empty once the pod answers; else why it does not."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.died.wait(POLL_S):
                return f"pod terminated with {self.exit_status}"
            connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=max(0.1, deadline - time.monotonic())
            )
            try:
                connection.request("GET", "/health", headers=self._headers)
                if connection.getresponse().status == 200:
                    self._reserved.close()
                    return ""
            except ConnectionError:
                continue  # not listening yet
            except TimeoutError:
                break
            finally:
                connection.close()
        return f"pod was not ready within {timeout_s:g} s"

    def transform(self, bucket: str, name: str, args: str | None, source: Path | bytes, timeout_s: float) -> bytes:
        """Pushes an object (its bytes, or the path that the pod reads itself) and returns the transformed bytes.

        Raises ApiError: the pod's own status with its text, or 400 where the pod is too slow or dies.
        """
        query = {"etl_args": args} if args else {}
        body = source if isinstance(source, bytes) else b""
        if isinstance(source, Path):
            query["etl_fqn"] = quote(str(source), safe="")  # encoded twice: urlencode does it again
        url = pod_url(f"/{bucket}/{name}", query)
        connection = self._connection(timeout_s)
        try:
            connection.request("PUT", url, body, self._headers)
            response = connection.getresponse()
            data = response.read()
        except TimeoutError:
            connection.close()
            raise ApiError(400, f'Put "{self._url(url)}": context deadline exceeded (after {timeout_s:g} s)') from None
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            raise ApiError(400, f'Put "{self._url(url)}": EOF ({error})') from None
        if response.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        if response.status >= 400:
            raise ApiError(response.status, f"ETL error: {data.decode('utf-8', 'replace')}", "ErrETL")
        return data

    def _url(self, url: str) -> str:
        return f"http://127.0.0.1:{self._port}{url}"

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """The connection used last, unless the pod closed it (a worker that died); else a new one.

        A request that was sent is not sent again: the transform may have killed its worker.
        """
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)
                try:
                    connection.connect()
                except OSError as error:
                    raise ApiError(400, f'Put "{self._url("")}": {error}') from None
                connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            poll = select.poll()  # not select(), which fails from file descriptor 1024 on
            poll.register(connection.sock, select.POLLIN)
            if not poll.poll(0):
                return connection
            connection.close()
