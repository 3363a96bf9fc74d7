"""The life cycle of the two ETLs on a cluster: start what is missing, attach to what is ours, prove it, stop it.

"Ours" is decided by a fingerprint of the code that travels as an environment variable of the pod and is read back. An
ETL that runs other code under our name belongs to somebody: it is left alone, and ours starts under another name.
"""

import base64
import hashlib
import lzma
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Literal

import cloudpickle
import numpy as np
import PIL
from aistore import Client
from aistore.sdk.errors import AISError
from requests.exceptions import RequestException

from aistore_data.client.access import server_message
from etl.code import code_sha256
from etl.pod_cache import FOLDER_VARIABLE, GB_VARIABLE
from etl.pod_index import INDEX_VARIABLE
from etl.request import CODE_VARIABLE
from etl.server import ImageETL, TrainETL, ValETL, ship_by_value
from sources.errors import ClusterError

Say = Callable[[str], None]
Recipe = Literal["train", "val"]
RECIPES: tuple[Recipe, Recipe] = ("train", "val")

RUNS = "is running already"
_NOBODY = "?"
_MOST_PAYLOAD = 128 * 1024 - 32
"""Bytes: Linux gives 128 KB to a variable of an environment, with its name."""
_WITHOUT_ETL = ("requires Kubernetes", "non-Kubernetes", "without ETL support")
"""Words of an AIStore that has no Kubernetes (status 400), or is built without ETL (501)."""


@dataclass(frozen=True)
class EtlSettings:
    """How the ETLs are started."""

    manage: Literal["auto", "reuse"] = "auto"
    num_workers: int = 4
    init_timeout_s: int = 300
    comm_type: str = "hpush"
    dependencies: tuple[str, ...] = ()
    image: str = ""
    index: str = "auto"
    """auto or off: whether pods that are started here keep a JPEG index, which changes no byte."""
    cache_gb: float = 0.0
    """GB of decoded photos that a pod of the training ETL keeps; 0: none."""
    cache_dir: str = ""
    """A folder in the pod; empty: its folder for temporary files."""

    def cache_variables(self, recipe: Recipe) -> dict[str, str]:
        """The environment of a pod that keeps decoded photos: training alone, which asks for its photos more often."""
        if recipe == "val" or self.cache_gb == 0:
            return {}
        return {GB_VARIABLE: f"{self.cache_gb:.9g}", FOLDER_VARIABLE: self.cache_dir}


def ensure(client: Client, name: str, recipe: Recipe, settings: EtlSettings, say: Say) -> tuple[str, bool]:
    """The name of a running ETL with our code, and whether it was started here.

    Raises ClusterError with the pod's last words if it does not start.
    """
    if settings.manage == "reuse":
        return name, False
    code, variables = code_sha256(), settings.cache_variables(recipe)
    try:
        stage, environment = _look(client, name, settings, say)
        owner = environment.get(CODE_VARIABLE, "")
        if stage and (owner != code or not variables.items() <= environment.items()):
            what = "is stopped or broken" if owner == _NOBODY else "runs other code"
            if owner == code:
                what = "keeps no decoded photos, or otherwise than this run wants it"
            suffix = f"-{_fingerprint(code, variables)[:8]}"
            ours = name if name.endswith(suffix) else f"{name[:23]}{suffix}"
            if ours != name:
                say(f"ETL {name} {what} and is left alone; this run uses {ours}")
                return ensure(client, ours, recipe, settings, say)
            say(f"ETL {name} {what}; starting it anew")
            stop(client, name)
            stage = ""
        if stage == "Running":
            say(f"ETL {name} {RUNS}")
            return name, False
        if stage:
            _restart(client, name, say)
            return name, False
        if _init(client, name, recipe, code, settings, say):
            return name, True
        say(f"ETL {name} was started by somebody else at the same moment")
        return ensure(client, name, recipe, settings, say)
    except AISError as error:
        raise ClusterError(_no_etls(name, error)) from None
    except RequestException as error:
        raise ClusterError(f"the cluster did not answer while ETL {name} was being started: {error}.") from None


def repair(client: Client, name: str, recipe: Recipe, settings: EtlSettings, say: Say) -> None:
    """Bring an ETL of ours back that does not answer, whatever stage the cluster believes it to be in.

    Raises ClusterError, also where somebody else's is in its place.
    """
    code = code_sha256()
    try:
        stage, environment = _look(client, name, settings, say)
        owner = environment.get(CODE_VARIABLE, "")
        if stage and owner not in (code, _NOBODY):
            raise ClusterError(f"ETL {name} runs other code by now: somebody has replaced it.")
        if stage:
            try:
                _restart(client, name, say)
                return
            except ClusterError:
                stop(client, name)
        _init(client, name, recipe, code, settings, say)
    except (AISError, RequestException) as error:
        raise ClusterError(f"ETL {name} could not be started again: {error}.") from None


def stop(client: Client, name: str) -> None:
    """Stop and delete an ETL; one that is gone already is fine."""
    etl = client.etl(name)
    for action in (etl.stop, etl.delete):
        try:
            action()
        except AISError as error:
            if error.status_code != 404:
                raise ClusterError(f"ETL {name} could not be stopped: {_said(error)}") from None


def _fingerprint(code: str, variables: dict[str, str]) -> str:
    """Return the fingerprint of an ETL, made of its code and of what its pods keep, if they keep anything."""
    return hashlib.sha256(f"{code} {sorted(variables.items())}".encode()).hexdigest() if variables else code


def _look(client: Client, name: str, settings: EtlSettings, say: Say) -> tuple[str, dict[str, str]]:
    """An ETL's stage, "" if there is none of this name, and its environment, with the fingerprint of its code.

    One that is being started is waited for. The fingerprint is missing where the ETL runs without, and ``_NOBODY``
    where the cluster cannot tell: it was stopped, or its nodes were, and the targets know it no longer.
    """
    end = time.monotonic() + settings.init_timeout_s
    while (stage := _stage(client, name)) == "Initializing" and time.monotonic() < end:
        say(f"ETL {name} is being started by somebody else")
        time.sleep(2)
    if not stage:
        return "", {}
    try:
        details = client.etl(name).view()
    except AISError as error:
        if error.status_code == 404:
            return stage, {CODE_VARIABLE: _NOBODY}
        raise
    return stage, {variable.name: variable.value for variable in details.init_msg.runtime.env or []}


def _stage(client: Client, name: str) -> str:
    """Running, Initializing, Aborted or Unknown; "" if there is no ETL of this name."""
    stages = ["Running", "Initializing", "Aborted", "Unknown"]
    return next((info.stage for info in client.cluster().list_etls(stages) if info.id == name), "")


def _restart(client: Client, name: str, say: Say) -> None:
    """Stop and start one of ours that is broken, which repairs what AIS leaves behind."""
    say(f"ETL {name} is broken; starting it again")
    try:
        client.etl(name).stop()
        client.etl(name).start()
    except AISError as error:
        raise ClusterError(f"ETL {name} could not be started again: {_said(error)}") from None
    say(f"ETL {name} is running again")


def _said(error: AISError) -> str:
    """The server's own words; those of a pod hold its log with line ends written as two characters."""
    return server_message(error.message.encode()).replace("\\n", "\n").strip()


def _no_etls(name: str, error: AISError) -> str:
    """The sentence for a cluster that does not let this run look at ETLs."""
    said = _said(error)
    if error.status_code in (401, 403):
        return (
            f"ETL {name} cannot be looked at with this token (status {error.status_code}): {said}. Use an "
            "administrator's token, or data.etl.manage=reuse with ETLs that an administrator has started."
        )
    if any(words in said for words in _WITHOUT_ETL):
        return (
            f"this cluster cannot run ETL {name}: {said}. AIStore runs ETLs on Kubernetes alone, and if it is built "
            "with them. Use data.transform=client, which makes the same samples here, or another deployment."
        )
    return f"ETL {name} cannot be looked at (status {error.status_code}): {said}"


def default_dependencies() -> tuple[str, str]:
    """The packages of a pod with the versions of this machine, as others might make other pixels."""
    return f"numpy=={np.__version__}", f"pillow=={PIL.__version__}"


def _init(client: Client, name: str, recipe: Recipe, code: str, settings: EtlSettings, say: Say) -> bool:
    """Start the ETL; False if there is one of this name by now."""
    options: dict[str, Any] = {
        "comm_type": settings.comm_type,
        "init_timeout": f"{settings.init_timeout_s}s",
        "direct_file_access": settings.comm_type == "hpush",
        CODE_VARIABLE: code,
        "NUM_WORKERS": str(settings.num_workers),
        **settings.cache_variables(recipe),
    }
    if settings.index == "off":
        options[INDEX_VARIABLE] = "0"
    if settings.image:
        options |= {"image": settings.image, "IMAGENET_AIS_RECIPE": recipe}
    else:  # AIStore's image that runs a class of this Python's version
        options["image"] = f"aistorage/runtime_python:{sys.version_info.major}.{sys.version_info.minor}"
        options["PACKAGES"] = ",".join(settings.dependencies or default_dependencies())
        options["ETL_CLASS_PAYLOAD"] = class_payload(TrainETL if recipe == "train" else ValETL)
    with _said_every(10, lambda s: say(f"ETL {name} is starting: {s:.0f} s")):
        try:
            client.etl(name).init(**options)
        except AISError as error:
            if error.status_code == 409:
                return False
            raise ClusterError(f"ETL {name} did not start: {_said(error)}{_delete_failed(client, name)}") from None
    return True


def _delete_failed(client: Client, name: str) -> str:
    """Delete what is left of an ETL that did not start, which would be in the way; "" or why it could not be."""
    try:
        client.etl(name).delete()
    except AISError as error:
        if error.status_code != 404:
            return f"\nWhat is left of ETL {name} could not be deleted: {_said(error)}"
    return ""


class _Call:
    """Becomes ``function(argument)`` where it is unpickled."""

    def __init__(self, function: Callable[[Any], Any], argument: Any) -> None:
        self._call = function, (argument,)

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return self._call


def class_payload(etl_class: type[ImageETL]) -> str:
    """An ETL class as the variable ETL_CLASS_PAYLOAD of its pod.

    As the SDK's ``init_class`` makes it, but compressed: the pod unpickles a call that decompresses the class.
    """
    ship_by_value()
    packed = lzma.compress(cloudpickle.dumps(etl_class), preset=9)
    text = base64.b64encode(pickle.dumps(_Call(pickle.loads, _Call(lzma.decompress, packed)))).decode()
    assert len(text) <= _MOST_PAYLOAD, f"the code of {etl_class.__name__} has {len(text)} bytes"
    return text


@contextmanager
def _said_every(seconds: float, say: Callable[[float], None]) -> Iterator[None]:
    """Say something while a call blocks."""
    begin, done = time.monotonic(), Event()

    def repeat() -> None:
        while not done.wait(seconds):
            say(time.monotonic() - begin)

    thread = Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
