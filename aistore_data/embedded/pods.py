"""A pod: a process group that runs one ETL class, and the kept-alive connections to it.

A pod listens on a Unix socket in a folder that is this user's alone, and this process has bound it and listens before
the pod starts. So no other user can take its place, reach it, or learn its secret.
"""

import http.client
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlencode

from urllib3.util.wait import wait_for_read

from aistore_data.embedded.errors import ApiError

LOG_LINES, LOG_BYTES = 20, 1 << 16
SECRET_HEADER, FILE_HEADER, SECRET_VARIABLE = "X-Pod-Secret", "X-Pod-File", "EMBEDDED_AIS_POD_SECRET"
POLL_S = 0.03
BACKLOG = 1024
MAX_ANSWER_BYTES = 1 << 30
"""The most bytes of a transformed object, which is held in memory."""

INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TZ|TMPDIR|LANG|LANGUAGE|LC_\w+|LD_LIBRARY_PATH|LD_PRELOAD|VIRTUAL_ENV|CONDA_PREFIX"
    r"|PYTHON(?!PATH)\w+|(?:OMP|MKL|OPENBLAS|NUMEXPR|MALLOC|GOMP|KMP)_\w+|GLIBC_TUNABLES|CUDA_VISIBLE_DEVICES"
)
"""Variables of the server's environment that its pods have too. Tokens and keys of the user are not among them, and no
PYTHONPATH: a pod has the installed packages but not this checkout, as on a real cluster."""


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What of an environment pods get."""
    return {name: value for name, value in environment.items() if INHERITED.fullmatch(name)}


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


class PodConnection(http.client.HTTPConnection):
    """A connection to the Unix socket ``name`` in the folder whose descriptor is ``folder``."""

    def __init__(self, folder: int, name: str, timeout_s: float) -> None:
        super().__init__("pod", timeout=timeout_s)
        self._address = socket_address(folder, name)

    def connect(self) -> None:
        """Connect to the pod's socket. Raises OSError."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._address)


def socket_address(folder: int, name: str) -> str:
    """A path that is short enough for a socket, however deep the folder lies."""
    return f"/proc/self/fd/{folder}/{name}"


class Pod:
    """Runs until ``kill``, or until its main process ends by itself: then ``on_death`` is called, once.

    The socket and the log are ``NAME.sock`` and ``NAME.log`` in the folder ``logs``, which must be private. Raises
    OSError where the pod cannot be started.
    """

    def __init__(self, environment: dict[str, str], logs: Path, name: str, on_death: Callable[["Pod"], None]) -> None:
        self._log = logs / f"{name}.log"
        self._socket = f"{name}.sock"
        self._on_death = on_death
        self._idle: deque[PodConnection] = deque()
        self._reaping = threading.Lock()
        self._killed = False
        self.died = threading.Event()
        secret = secrets.token_urlsafe(16)  # once more, for a folder that its owner has opened to others
        self._headers = {SECRET_HEADER: secret}
        self.exit_status = ""
        (logs / self._socket).unlink(missing_ok=True)
        self._log.touch(0o600)
        self._folder = os.open(logs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with socket.socket(socket.AF_UNIX) as listener, open(self._log, "wb") as output:
                listener.bind(socket_address(self._folder, self._socket))
                listener.listen(BACKLOG)
                self._process = subprocess.Popen(
                    # -P: a class that was pickled by reference is not found here either.
                    [sys.executable, "-P", Path(__file__).with_name("pod_main.py"), str(listener.fileno())],
                    env=environment | {SECRET_VARIABLE: secret},
                    cwd=logs,
                    stdin=subprocess.PIPE,  # this process alone holds the other end: the pod ends when it closes
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    pass_fds=(listener.fileno(),),
                )
        except BaseException:
            os.close(self._folder)
            raise
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
        if not self._log.exists():
            return ""
        with open(self._log, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            lines = log.read().decode("utf-8", "replace").splitlines(keepends=True)
        return "".join(lines[-LOG_LINES:])

    def wait_ready(self, timeout_s: float) -> str:
        """Empty once the pod answers; else why it does not."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.died.wait(POLL_S):
                return f"pod terminated with {self.exit_status}"
            connection = PodConnection(self._folder, self._socket, max(0.1, deadline - time.monotonic()))
            try:
                connection.request("GET", "/health", headers=self._headers)
                if connection.getresponse().status == 200:
                    return ""
            except TimeoutError:
                break
            except (http.client.HTTPException, OSError):
                continue  # it ends, or its first worker did: seen above
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
        headers = self._headers | {FILE_HEADER: query.get("etl_fqn", "")}
        connection, keep = self._connection(timeout_s), False
        try:
            connection.request("PUT", url, body, headers)
            response = connection.getresponse()
            data = response.read(MAX_ANSWER_BYTES + 1)
            if len(data) > MAX_ANSWER_BYTES:
                raise ApiError(400, f"the ETL's answer for {bucket}/{name} has over {MAX_ANSWER_BYTES} bytes", "ErrETL")
            keep = not response.will_close
        except TimeoutError:
            raise ApiError(400, f'Put "http://pod{url}": context deadline exceeded (after {timeout_s:g} s)') from None
        except (http.client.HTTPException, OSError) as error:
            raise ApiError(400, f'Put "http://pod{url}": EOF ({error})') from None
        finally:
            if keep:
                self._idle.append(connection)
            else:
                connection.close()
        if response.status >= 400:
            raise ApiError(response.status, f"ETL error: {data.decode('utf-8', 'replace')}", "ErrETL")
        return data

    def _connection(self, timeout_s: float) -> PodConnection:
        """The connection used last, unless the pod closed it (a worker that died); else a new one.

        A request that was sent is not sent again: the transform may have killed its worker.
        """
        with suppress(IndexError):  # other threads take connections, too
            while True:
                connection = self._idle.pop()
                if not wait_for_read(connection.sock, 0):
                    return connection
                connection.close()
        connection = PodConnection(self._folder, self._socket, timeout_s)
        try:
            connection.connect()
        except OSError as error:
            raise ApiError(400, f'Put "http://pod": {error}') from None
        return connection
