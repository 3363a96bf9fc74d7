"""The embedded AIS at the command line: ``python -m aistore_data.embedded FOLDER``."""

import argparse
import os
import resource
import secrets
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

from aistore_data.embedded.server import BUCKET, LAYOUTS, EmbeddedServer
from aistore_data.embedded.tls import Tls
from sources.errors import UserError

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def main() -> int:
    """Serves until a signal, or until standard input closes; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m aistore_data.embedded",
        description="A small AIStore on the loopback address, for the SDK, curl and PyTorch data sets: buckets, "
        "objects and ETLs by class. It runs the code that it is sent, so every request needs the token that it prints: "
        "AIS_AUTHN_TOKEN of its environment, else a random one.",
    )
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="FOLDER",
        help=f"photos in train/CLASS/ and val/CLASS/, which are served, unchanged, as ais://{BUCKET}",
    )
    parser.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0], help="object names of the photos of FOLDER")
    parser.add_argument(
        "--root", type=Path, help="the server's own folder, for buckets and objects (default: a temporary one)"
    )
    parser.add_argument("--port", type=int, default=0, help="port of the endpoint (default: any free one)")
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="serve https with this certificate")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    parser.add_argument("--tls-client-ca", type=Path, metavar="PEM", help="want client certificates, signed by this CA")
    parser.add_argument(
        "--die-with-stdin", action="store_true", help="end when standard input closes, and ignore signals: for a child"
    )
    arguments = parser.parse_args()
    if bool(arguments.tls_cert) != bool(arguments.tls_key) or (arguments.tls_client_ca and not arguments.tls_cert):
        parser.error("--tls-cert and --tls-key belong together, and --tls-client-ca needs both")
    os.umask(0o077)  # objects, logs and sockets are this user's alone
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for connections
    stop = threading.Event()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN if arguments.die_with_stdin else lambda *_: stop.set())
    if arguments.die_with_stdin:
        threading.Thread(target=_wait_for_stdin, args=(stop,), daemon=True).start()
    token = os.environ.get("AIS_AUTHN_TOKEN") or secrets.token_urlsafe(24)
    tls = Tls(arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca) if arguments.tls_cert else None
    with ExitStack() as stack:
        try:
            root = arguments.root or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="embedded-ais-")))
            server = EmbeddedServer(root, token, arguments.port, arguments.folder, arguments.layout, tls)
        except (UserError, OSError) as error:
            print(error, file=sys.stderr)
            return 2
        stack.callback(server.close)
        print(f"AIS_ENDPOINT={server.endpoint}\nAIS_AUTHN_TOKEN={token}", flush=True)
        stop.wait()
    return 0


def _wait_for_stdin(stop: threading.Event) -> None:
    while (data := os.read(0, 4096)) and b"stop" not in data:
        pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
