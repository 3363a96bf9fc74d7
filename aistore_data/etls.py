"""The life cycle of the two ETLs on a cluster: start what is missing, attach to what is ours, prove it, stop it.

"Ours" is decided by a fingerprint of the code that travels as an environment variable of the pod and is read back. An
ETL that runs other code under our name belongs to somebody: it is left alone, and ours starts under another name.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any, Literal

import numpy as np
import PIL
from aistore import Client
from aistore.sdk.errors import AISError
from requests.exceptions import RequestException

from aistore_data.errors import ClusterError, ObjectError
from aistore_data.http_reader import HttpReader, object_path
from aistore_data.manifest import Manifest
from etl.code import code_sha256
from etl.request import CODE_VARIABLE, Request, encode
from etl.sample import Key, Spec, transform
from etl.server import TrainETL, ValETL, ship_by_value

Say = Callable[[str], None]
Recipe = Literal["train", "val"]


@dataclass(frozen=True)
class EtlSettings:
    """How ETLs are started."""

    manage: Literal["auto", "reuse"] = "auto"
    num_workers: int = 4
    init_timeout_s: int = 300
    comm_type: str = "hpush"
    dependencies: tuple[str, ...] = ()
    image: str = ""


def default_dependencies() -> tuple[str, ...]:
    """What a pod needs beside the SDK, in the versions that are used here: other versions might make other pixels."""
    return (f"numpy=={np.__version__}", f"pillow=={PIL.__version__}")


def ensure(
    client: Client, name: str, recipe: Literal["train", "val"], settings: EtlSettings, say: Say
) -> tuple[str, bool]:
    """The name of a running ETL with our code, and whether it was started here.

    Raises ClusterError with the pod's last words if it does not start.
    """
    if settings.manage == "reuse":
        return name, False
    code = code_sha256()
    try:
        owner = _fingerprint(client, name)
        if owner is not None and owner != code:
            ours = f"{name[:23]}-{code[:8]}"
            say(f"ETL {name} runs other code and is left alone; this run uses {ours}")
            name, owner = ours, _fingerprint(client, ours)
        if owner == code and _stage(client, name) == "Running":
            say(f"ETL {name} is running already")
            return name, False
        if owner == code:
            _restart(client, name, settings, say)
            return name, False
        if _init(client, name, recipe, code, settings, say):
            return name, True
        say(f"ETL {name} was started by somebody at the same moment")
        return ensure(client, name, recipe, settings, say)
    except RequestException as error:
        raise ClusterError(f"the cluster did not answer while ETL {name} was being started: {error}.") from None


def stop(client: Client, name: str) -> None:
    """Stop and delete an ETL; one that is gone already is fine."""
    etl = client.etl(name)
    for action in (etl.stop, etl.delete):
        try:
            action()
        except AISError as error:
            if error.status_code != 404:
                raise ClusterError(f"ETL {name} could not be stopped: {error.message}") from None


def prove(reader: HttpReader, uri: str, manifest: Manifest, name: str, spec: Spec, targets: int) -> int:
    """Compare the ETL's samples with those made here, on objects of every target; answers how many were compared.

    Raises ClusterError that names the versions on both sides if a byte differs.
    """
    hosts: set[str] = set()
    compared = 0
    for index in np.linspace(0, len(manifest) - 1, min(len(manifest), 64)).astype(int).tolist():
        if compared >= 2 and len(hosts) >= targets:
            break
        object_name = manifest.name(index)
        host = reader.host_of(object_path(uri, object_name))
        if host in hosts and compared >= 2:
            continue
        hosts.add(host)
        key = Key(compared, 3, index) if spec.recipe == "train" else None
        row = bytearray(spec.size * spec.size * 3)
        arguments = encode(Request(spec, key))
        try:
            reader.get_into(object_path(uri, object_name, etl_name=name, etl_args=arguments), memoryview(row))
            here = transform(reader.get(object_path(uri, object_name)), spec, key).tobytes()
        except ObjectError as error:
            if error.corrupt_sample:
                continue
            raise ClusterError(f"ETL {name} does not answer for {uri}/{object_name}: {error}.") from None
        if here != bytes(row):
            info = reader.get(object_path(uri, object_name, etl_name=name, etl_args='{"wire":"info"}')).decode()
            raise ClusterError(
                f"ETL {name} makes other pixels of {uri}/{object_name} than this machine. There: {info}. Here: "
                f"Pillow {PIL.__version__}, NumPy {np.__version__}, code {code_sha256()}. "
                "Use the same versions on both sides."
            )
        compared += 1
    return compared


def _fingerprint(client: Client, name: str) -> str | None:
    """The code that an ETL of this name runs: a fingerprint, "" for somebody else's, None if there is no such ETL."""
    if not _stage(client, name):
        return None
    try:
        details = client.etl(name).view()
    except AISError as error:
        if error.status_code == 404:  # aborted: the targets know it no longer, and nobody can tell whose it was
            return ""
        raise ClusterError(f"ETL {name} cannot be viewed: {error.message}") from None
    environment = details.init_msg.runtime.env or []
    return next((variable.value for variable in environment if variable.name == CODE_VARIABLE), "")


def _stage(client: Client, name: str) -> str:
    """Running, Initializing, Aborted or Unknown; "" if there is no ETL of this name."""
    stages = ["Running", "Initializing", "Aborted", "Unknown"]
    return next((info.stage for info in client.cluster().list_etls(stages) if info.id == name), "")


def _restart(client: Client, name: str, settings: EtlSettings, say: Say) -> None:
    """Wait for one that is starting; stop and start one that is broken, which repairs what AIS leaves behind."""
    end = time.monotonic() + settings.init_timeout_s
    while _stage(client, name) == "Initializing" and time.monotonic() < end:
        say(f"ETL {name} is being started by somebody")
        time.sleep(2)
    if _stage(client, name) != "Running":
        say(f"ETL {name} is stopped or broken; starting it again")
        try:
            client.etl(name).stop()
            client.etl(name).start()
        except AISError as error:
            raise ClusterError(f"ETL {name} could not be started again: {error.message}") from None
    say(f"ETL {name} is running again")


def _init(client: Client, name: str, recipe: Recipe, code: str, settings: EtlSettings, say: Say) -> bool:
    """Start the ETL; False if there is one of this name by now."""
    options: dict[str, Any] = {
        "comm_type": settings.comm_type,
        "init_timeout": f"{settings.init_timeout_s}s",
        "direct_file_access": settings.comm_type == "hpush",
        CODE_VARIABLE: code,
        "NUM_WORKERS": str(settings.num_workers),
    }

    def start() -> None:
        if settings.image:
            client.etl(name).init(image=settings.image, IMAGENET_AIS_RECIPE=recipe, **options)
            return
        ship_by_value()
        dependencies = list(settings.dependencies or default_dependencies())
        client.etl(name).init_class(dependencies=dependencies, **options)(TrainETL if recipe == "train" else ValETL)

    with _said_every(10, lambda s: say(f"ETL {name} is starting: {s:.0f} s")):
        try:
            start()
        except AISError as error:
            if error.status_code == 409:
                return False
            raise ClusterError(
                f"ETL {name} did not start: {error.message.strip()} "
                "(an AIStore that is not built or deployed for ETL cannot start any)."
            ) from None
    return True


@contextmanager
def _said_every(seconds: float, say: Callable[[float], None]) -> Iterator[None]:
    """Say something while a call blocks."""
    begin, done = time.monotonic(), False

    def repeat() -> None:
        while not done:
            time.sleep(0.2)
            if not done and (time.monotonic() - begin) % seconds < 0.2:
                say(time.monotonic() - begin)

    thread = Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done = True
        thread.join()
