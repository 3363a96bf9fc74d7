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

from aistore_data.client.access import object_path, printable, server_message, statement_of
from aistore_data.client.http_reader import HttpReader
from aistore_data.etls.payload import class_payload, runtime_image
from aistore_data.etls.tags import INFO_BYTES, unanswered
from etl.code import code_sha256
from etl.request import CODE_VARIABLE, Request, encode
from etl.sample import CorruptSample, Key, Spec, transform
from etl.server import TrainETL, ValETL
from sources.errors import ClusterError, ObjectError
from sources.manifest import Manifest

Say = Callable[[str], None]
Recipe = Literal["train", "val"]

_NOBODY = "?"
_PLACES = 64
"""Samples of a manifest among which one is looked for on every target."""
_WITHOUT_ETL = ("requires Kubernetes", "non-Kubernetes", "without ETL support")
"""Words of an AIStore that has no Kubernetes (status 400), or is built without ETL (501)."""


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
        stage, owner = _look(client, name, settings, say)
        if stage and owner != code:
            suffix = f"-{code[:8]}"
            ours = name if name.endswith(suffix) else f"{name[:23]}{suffix}"
            if ours != name:
                say(f"ETL {name} {_whose(owner)} and is left alone; this run uses {ours}")
                name = ours
                stage, owner = _look(client, name, settings, say)
            if stage and owner != code:  # ours by its name
                say(f"ETL {name} {_whose(owner)}; starting it anew")
                stop(client, name)
                stage = ""
        if stage == "Running":
            say(f"ETL {name} is running already")
            return name, False
        if stage:
            _restart(client, name, say)
            return name, False
        if _init(client, name, recipe, code, settings, say):
            return name, True
        say(f"ETL {name} was started by somebody at the same moment")
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
        stage, owner = _look(client, name, settings, say)
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


def prove(
    reader: HttpReader, uri: str, manifest: Manifest, name: str, spec: Spec, targets: int, tags: bool = False
) -> int:
    """Compare the ETL's samples with those made here, on objects of every target; answers how many were compared.

    ``targets``: how many there are; 0 if this token may not know, and then wherever some samples turn out to lie.
    ``tags``: whether it ``knows_tags``, and so must prove its answers.
    Raises ClusterError that names the versions on both sides if a byte differs.
    """
    hosts: set[str] = set()
    compared = 0
    for index in np.linspace(0, len(manifest) - 1, min(len(manifest), _PLACES)).astype(int).tolist():
        if compared >= 2 and len(hosts) >= (targets or _PLACES):
            break
        object_name = manifest.name(index)
        host = reader.host_of(object_path(uri, object_name))
        if host in hosts and compared >= 2:
            continue
        hosts.add(host)
        key = Key(compared, 3, index) if spec.recipe == "train" else None
        row = bytearray(spec.size * spec.size * 3)
        arguments = encode(Request(spec, key, tag=index if tags else None))
        path = object_path(uri, object_name, etl_name=name, etl_args=arguments)
        stated = statement_of(uri, object_name, arguments) if tags else None
        try:
            here = transform(reader.get(object_path(uri, object_name)), spec, key).tobytes()
            reader.get_into(path, memoryview(row), stated)
        except CorruptSample:
            continue  # training will say so when it comes to this object
        except ObjectError as error:
            raise unanswered(name, f"{uri}/{object_name}", error) from None
        if here != bytes(row):
            answer = reader.get(object_path(uri, object_name, etl_name=name, etl_args='{"wire":"info"}'), INFO_BYTES)
            info = printable(answer.decode("utf-8", "replace"))
            raise ClusterError(
                f"ETL {name} makes other pixels of {uri}/{object_name} than this machine. There: {info}. Here: "
                f"Pillow {PIL.__version__}, NumPy {np.__version__}, code {code_sha256()}. "
                "Use the same versions on both sides."
            )
        compared += 1
    return compared


def _look(client: Client, name: str, settings: EtlSettings, say: Say) -> tuple[str, str]:
    """An ETL's stage, "" if there is none of this name, and the fingerprint of the code that it runs.

    One that is being started is waited for. The fingerprint is "" where the ETL runs, but has none, and ``_NOBODY``
    where the cluster cannot tell: it was stopped, or its nodes were, and the targets know it no longer.
    """
    end = time.monotonic() + settings.init_timeout_s
    while (stage := _stage(client, name)) == "Initializing" and time.monotonic() < end:
        say(f"ETL {name} is being started by somebody")
        time.sleep(2)
    if not stage:
        return "", ""
    try:
        details = client.etl(name).view()
    except AISError as error:
        if error.status_code == 404:
            return stage, _NOBODY
        raise
    environment = details.init_msg.runtime.env or []
    return stage, next((variable.value for variable in environment if variable.name == CODE_VARIABLE), "")


def _whose(owner: str) -> str:
    return "is stopped or broken" if owner == _NOBODY else "runs other code"


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
        payload = class_payload(TrainETL if recipe == "train" else ValETL)
        packages = ",".join(settings.dependencies or default_dependencies())
        client.etl(name).init(image=runtime_image(), ETL_CLASS_PAYLOAD=payload, PACKAGES=packages, **options)

    with _said_every(10, lambda s: say(f"ETL {name} is starting: {s:.0f} s")):
        try:
            start()
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
