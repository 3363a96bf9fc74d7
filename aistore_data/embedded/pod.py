"""What runs in a pod: one ETL class behind the SDK's own web server. Self-contained, and run by its path.

    python -P pod.py PORT

It listens on PORT of the loopback address. Environment: ETL_CLASS_PAYLOAD (base64 of the class, by cloudpickle),
NUM_WORKERS, AIS_TARGET_URL, EMBEDDED_AIS_POD_SECRET (requests must have it in the header X-Pod-Secret), and whatever
the class wants. The pod's standard input is a pipe that the server holds: when it closes, for whatever reason, the pod
ends its whole process group.
"""

import base64
import hmac
import logging
import os
import signal
import sys
import threading
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import uvicorn
from aistore.sdk.etl.webserver.fastapi_server import FastAPIServer  # type: ignore[import-untyped]
from starlette.responses import PlainTextResponse

HOST = "127.0.0.1"
DEFAULT_WORKERS = "6"  # as in AIS's own runtime
IDLE_S = 3600  # the server keeps its connections; a short time would close them under a request

refusal = PlainTextResponse("The embedded AIS alone may ask this pod.", status_code=403)


def etl_server() -> FastAPIServer:
    """The ETL class of the environment, instantiated. Raises TypeError for anything but a FastAPIServer."""
    etl_class = cloudpickle.loads(base64.b64decode(os.environ["ETL_CLASS_PAYLOAD"]))
    if not isinstance(etl_class, type) or not issubclass(etl_class, FastAPIServer):
        raise TypeError(f"{etl_class!r} is not a subclass of FastAPIServer, the one server that the embedded AIS runs")
    return etl_class()


def app(server: FastAPIServer | None = None) -> Any:
    """The web application of the ETL class, for requests with the server's secret; made anew in each worker."""
    inner = (server or etl_server()).app
    secret = os.environ["EMBEDDED_AIS_POD_SECRET"].encode()

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        given = dict(scope.get("headers", ())).get(b"x-pod-secret", b"")
        allowed = scope["type"] == "lifespan" or hmac.compare_digest(given, secret)
        await (inner if allowed else refusal)(scope, receive, send)

    return guarded


def end_with_server() -> None:
    """Kills this process group when standard input closes."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Serves until killed."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_DFL)
    threading.Thread(target=end_with_server, daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    port = int(sys.argv[1])
    workers = int(os.environ.get("NUM_WORKERS", DEFAULT_WORKERS))
    server = etl_server()  # also with several workers: a class that fails must end the pod, not its workers for ever
    several = workers > 1  # worker processes import this file again, as their __main__
    uvicorn.run(
        "__main__:app" if several else app(server),
        factory=several,
        workers=workers,
        host=HOST,
        port=port,
        access_log=False,
        timeout_keep_alive=IDLE_S,
    )


if __name__ == "__main__":
    main()
