"""What runs in a pod: one ETL class behind the SDK's own web server. Self-contained, and run by its path.

    python -P pod_main.py DESCRIPTOR

It serves the listening socket of that file descriptor, which it inherits. Environment: ETL_CLASS_PAYLOAD (base64 of the
class, by cloudpickle), NUM_WORKERS, AIS_TARGET_URL, EMBEDDED_AIS_POD_SECRET (requests must have it in the header
X-Pod-Secret), and whatever the class wants. The pod's standard input is a pipe that the server holds: when it closes,
for whatever reason, the pod ends its whole process group.
"""

import base64
import hmac
import logging
import os
import signal
import sys
import threading
from typing import Any
from urllib.parse import parse_qsl

import cloudpickle  # type: ignore[import-untyped]
import uvicorn
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer  # type: ignore[import-untyped]
from starlette.responses import PlainTextResponse

FILE_OF_SCOPE = "embedded_ais.file"
"""Key of an ASGI scope: the file of the object that is asked for, as the server knows it. As in etl/files.py."""
DEFAULT_WORKERS = "6"  # as in AIS's own runtime
IDLE_S = 3600  # the server keeps its connections; a short time would close them under a request

refusal = PlainTextResponse("The embedded AIS alone may ask this pod.", status_code=403)
other_file = PlainTextResponse("The object's name makes this a request for another file.", status_code=400)


def etl_server() -> FastAPIServer:
    """The ETL class of the environment, instantiated. Raises TypeError for anything but a FastAPIServer."""
    etl_class = cloudpickle.loads(base64.b64decode(os.environ["ETL_CLASS_PAYLOAD"]))
    if not isinstance(etl_class, type) or not issubclass(etl_class, FastAPIServer):
        raise TypeError(f"{etl_class!r} is not a subclass of FastAPIServer, the one server that the embedded AIS runs")
    return etl_class()


def app(server: FastAPIServer | None = None) -> Any:
    """The web application of the ETL class, for requests with the server's secret; made anew in each worker.

    Names of objects are not encoded in a request (pods.py), so a name may hold a path of its own. What the server says
    in the header X-Pod-File is the one that counts.
    """
    inner = (server or etl_server()).app
    secret = os.environ["EMBEDDED_AIS_POD_SECRET"].encode()

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await (inner if scope["type"] == "lifespan" else refusal)(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(b"x-pod-secret", b""), secret):
            await refusal(scope, receive, send)
            return
        file = headers.get(b"x-pod-file", b"").decode("latin-1")
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if [value for name, value in query if name == "etl_fqn"] not in ([], [file]):
            await other_file(scope, receive, send)
            return
        await inner({**scope, FILE_OF_SCOPE: file} if file else scope, receive, send)

    return guarded


def end_with_server() -> None:
    """Kills this process group when standard input closes."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Serve requests until the process is killed."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_DFL)
    threading.Thread(target=end_with_server, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    listener = int(sys.argv[1])
    workers = int(os.environ.get("NUM_WORKERS", DEFAULT_WORKERS))
    server = etl_server()  # also with several workers: a class that fails must end the pod, not its workers for ever
    several = workers > 1  # worker processes import this file again, as their __main__
    uvicorn.run(
        "__main__:app" if several else app(server),
        factory=several,
        workers=workers,
        fd=listener,
        access_log=False,
        timeout_keep_alive=IDLE_S,
    )


if __name__ == "__main__":
    main()
