"""Runs the embedded AIS as a child that ends with this process, however this process ends."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from aistore_data.embedded.errors import EmbeddedError
from aistore_data.embedded.tls import Tls

_PROJECT = Path(__file__).parents[2]
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0


class EmbeddedAIS:
    """A context manager: the server runs within it. ``endpoint`` and ``token`` are what a client needs.

    ``imagefolder`` is served, unchanged, as ``ais://imagenet``. The child has a session of its own, so ctrl-C does not
    reach it: it ends with this context, or when this process dies. ``token``: a random one unless
    given. Raises EmbeddedError where it cannot start.
    """

    endpoint: str
    token: str
    pid: int
    """The server's process, while it runs."""

    def __init__(
        self,
        root: Path,
        *,
        imagefolder: Path | None = None,
        layout: str = "folders",
        port: int = 0,
        token: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._command = [sys.executable, "-m", "aistore_data.embedded", "--die-with-stdin"]
        self._command += ["--root", str(root.absolute()), "--port", str(port)]
        if tls is not None:
            self._command += ["--tls-cert", str(tls.certificate.absolute()), "--tls-key", str(tls.key.absolute())]
            self._command += ["--tls-client-ca", str(tls.client_ca.absolute())] if tls.client_ca else []
        if imagefolder is not None:
            self._command += ["--layout", layout, "--", str(imagefolder.absolute())]
        # Not the token of this environment, which is for a cluster: without one here, the server makes one.
        self._environment = os.environ | {"AIS_AUTHN_TOKEN": token or ""}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "EmbeddedAIS":
        with tempfile.TemporaryFile() as errors:
            process = self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=_PROJECT,
                stdin=subprocess.PIPE,  # the child ends when this closes; no other process inherits it
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
            self.pid = process.pid
            assert process.stdout is not None
            alarm = threading.Timer(START_TIMEOUT_S, process.kill)
            try:
                alarm.start()
                lines = [process.stdout.readline().decode().strip() for _ in range(2)]
            except BaseException:
                self._stop()
                raise
            finally:
                alarm.cancel()
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").splitlines()
        warnings = [line for line in said if line.startswith("warning: ")]
        if not all(lines):
            self._stop()
            text = "\n".join(line for line in said if line not in warnings).strip()
            raise EmbeddedError(text or f"The embedded AIS did not start within {START_TIMEOUT_S:g} s.")
        for line in warnings:
            print(line, file=sys.stderr, flush=True)
        self.endpoint, self.token = (line.partition("=")[2] for line in lines)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            process.communicate(b"stop\n", STOP_TIMEOUT_S)  # said too, as a forked child of ours may hold the pipe
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # pods end too: their standard input is held by the server
            process.communicate()
        self._process = None
