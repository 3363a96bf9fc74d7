"""The whole embedded AIS in one process: proxy and target on two loopback ports, pods as processes."""

import fcntl
import os
import shlex
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Literal, get_args

from aistore_data.embedded.errors import EmbeddedError
from aistore_data.embedded.etls import Etls
from aistore_data.embedded.node import Cluster
from aistore_data.embedded.proxy import Proxy
from aistore_data.embedded.store import Entry, Store
from aistore_data.embedded.target import Target
from aistore_data.embedded.tls import Tls
from aistore_data.embedded.wire import Port, WireServer
from sources.command_line import print_line
from sources.disk import shown
from sources.errors import ConfigError

HOST = "127.0.0.1"
BUCKET = "imagenet"
"""The bucket in which the photos of a folder are served."""
Layout = Literal["folders", "pairs"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
BACKLOG = 256
THREADS = 1024
"""Threads for requests; a request for an ETL waits in its thread for the pod."""
_LOOKED_AT = 10_000


class EmbeddedServer:
    """Serves from construction until ``close``. Raises UserError where it cannot start."""

    def __init__(
        self,
        root: Path,
        token: str,
        port: int = 0,
        imagefolder: Path | None = None,
        layout: Layout = "folders",
        tls: Tls | None = None,
    ) -> None:
        root = root.absolute()
        _check_root(root, imagefolder)
        logs = root / ".logs"
        try:
            root.mkdir(0o700, parents=True, exist_ok=True)
            self._lock = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(logs, ignore_errors=True)
            logs.mkdir(0o700)
            served = {BUCKET: served_objects(imagefolder.absolute(), layout)} if imagefolder else {}
            store = Store(root, served)
        except BlockingIOError:
            raise EmbeddedError(f"--root {root} is in use by another embedded AIS: stop it or use another.") from None
        except OSError as error:
            raise EmbeddedError(f"--root {root} cannot be written: {error.strerror}.") from None
        context, scheme = (tls.context(), "https") if tls else (None, "http")
        proxy, target = _listen(port), _listen(0)
        self.endpoint = f"{scheme}://{HOST}:{proxy.getsockname()[1]}"
        target_url = f"{scheme}://{HOST}:{target.getsockname()[1]}"
        self._etls = Etls(logs, target_url)
        cluster = Cluster(token, store, self._etls, self.endpoint, target_url)
        threads = ThreadPoolExecutor(THREADS)  # starts none before there is work
        nodes = ((proxy, Proxy(cluster, threads)), (target, Target(cluster, threads)))
        self._wire = WireServer([Port(listener, node, context) for listener, node in nodes])

    def close(self) -> None:
        """Stops answering and ends every pod."""
        self._etls.close()
        self._wire.close()
        os.close(self._lock)


def served_objects(folder: Path, layout: Layout) -> dict[str, Entry]:
    """Object name → entry for ``folder``: those that an upload in this layout makes of it. Raises UserError.

    ``aistore_data.bucket.layout`` says what the layouts are.
    """
    from aistore_data.upload.items import File, index_folder, items_of  # here: a server without a folder needs no NumPy

    now, with_train = time.time_ns(), os.path.lexists(folder / "train")
    if not with_train:
        print_line(f"warning: {shown(folder)} holds no train/: its val/ is served alone")
    objects = {}
    for split in index_folder(folder, print_line, with_train):
        for name, place, size in items_of(split, split.manifest(), layout):
            path, content = (place.path, None) if isinstance(place, File) else ("", bytes(place.read()))
            try:
                path.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{path!r} is not UTF-8, as names in a bucket are: rename it.") from None
            objects[name] = Entry(size, path, now, content, read_only=True)
    return objects


def _check_root(root: Path, imagefolder: Path | None) -> None:
    """Raises EmbeddedError where the server's own folder would be one of photos."""
    if imagefolder and root.resolve().is_relative_to(imagefolder.resolve()):
        raise EmbeddedError(
            f"--root {root} lies in {imagefolder}, which is served unchanged: choose another folder, or leave it out."
        )
    for split in ("train", "val"):
        if (root / split).is_dir():
            raise EmbeddedError(
                f"--root {root} holds {split}/, so it is a folder of photos and not the server's own. To serve it, "
                f"unchanged, as ais://{BUCKET}: python -m aistore_data.embedded {shlex.quote(str(root))}"
            )
    near = list(islice(chain(root.glob("*"), root.glob("*/*")), _LOOKED_AT))
    if not near:
        return
    from sources.manifest import IMG_EXTENSIONS  # here, so that a new server without a folder needs no NumPy

    for path in near:
        if path.name.lower().endswith(IMG_EXTENSIONS) and path.parent not in (root / "buckets", root / ".logs"):
            raise EmbeddedError(
                f"--root {root} holds the photo {path}, so it is not the server's own. Choose a new folder."
            )


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port), backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise EmbeddedError(
            f"port {port} of {HOST} cannot be used: {reason}. Choose another, or 0 for any free one."
        ) from None
