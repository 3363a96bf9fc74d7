"""The life cycle of ETLs: initialise, start, stop, delete, view. One target, so one pod for each ETL.

ETLs do not survive a restart of the server; objects do.
"""

import base64
import hmac
import os
import re
import secrets
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from aistore_data.embedded.calls import Message
from aistore_data.embedded.errors import TARGET_ID, ApiError, etl_not_found
from aistore_data.embedded.pods import Pod, inherited
from aistore_data.embedded.store import Bucket

_DESCRIBED = ("stage", "xaction_id", "obj_count", "in_bytes", "out_bytes")
INITIALIZING, RUNNING, ABORTED = "Initializing", "Running", "Aborted"
_NAME = re.compile(r"[a-z0-9][-a-z0-9]{4,30}[a-z0-9]")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|h|m|s)")
_LONGEST_S = 7 * 24 * 3600
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
DEFAULT_INIT_TIMEOUT, DEFAULT_OBJECT_TIMEOUT = "45s", "10s"


def duration_s(text: str) -> float:
    """Seconds of a duration as Go writes it (``5m``, ``1m30s``, ``500ms``). Raises ApiError 400."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ApiError(400, f'"{text[:80]}" is not a duration: write, for example, "45s" or "5m"')
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    if not 0 < seconds <= _LONGEST_S:
        raise ApiError(400, f'"{text}" is not a duration of more than 0 and at most {_LONGEST_S // 3600} hours')
    return seconds


def go_duration(seconds: float) -> str:
    """Write a duration as AIS does: ``1h0m``, ``1m30s``, ``5m``, ``1.5s``, ``20ms``."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms" if seconds else "0s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest:g}s"
    return text.replace("m0s", "m")


def missing_packages(wanted: str) -> str:
    """Empty, or a sentence on what of a comma-separated list of requirements is not installed here."""
    for item in filter(None, map(str.strip, wanted.split(","))):
        try:
            requirement = Requirement(item)
            found = version(requirement.name)
        except InvalidRequirement as error:
            return f'"{item}" is not a requirement that pip understands: {error}.'
        except PackageNotFoundError:
            return f"{item} is not installed, and the embedded server installs nothing: install it beside the server."
        if not requirement.specifier.contains(found, prereleases=True):
            return f"{item} is wanted but {found} is installed, and the embedded server installs nothing."
    return ""


class Etl:
    """One ETL: the message that started it, its stage, and its pod while there is one. Raises ApiError 400."""

    def __init__(self, message: Message) -> None:
        name = message.text("name")
        if not _NAME.fullmatch(name):
            raise ApiError(400, f'ETL name "{name[:80]}" is invalid: 6 to 32 characters of a-z, 0-9 and "-"', "ErrETL")
        kind = message.text("communication") or "hpush://"
        if kind != "hpush://":
            raise ApiError(400, f'communication type "{kind[:80]}" is not supported here: use hpush', "ErrETL")
        runtime = message.message("runtime")
        environment = {item.text("name"): item.text("value") for item in runtime.messages("env")}
        if "ETL_CLASS_PAYLOAD" not in environment:
            raise ApiError(
                400,
                f'ETL[{name}] cannot run the image "{runtime.text("image")}": the embedded server has no containers; '
                "start it by class (init_class)",
                "ErrETL",
            )
        try:
            base64.b64decode(environment["ETL_CLASS_PAYLOAD"], validate=True)
        except ValueError as error:
            raise ApiError(400, f"ETL_CLASS_PAYLOAD of ETL[{name}] is not base64: {error}", "ErrETL") from None
        self.name, self.message, self.environment = name, message.fields, environment
        self.init_timeout_s = duration_s(message.text("init_timeout") or DEFAULT_INIT_TIMEOUT)
        self.object_timeout_s = duration_s(message.text("obj_timeout") or DEFAULT_OBJECT_TIMEOUT)
        self.xaction_id = f"etl-{secrets.token_urlsafe(6)}"
        self.secret = secrets.token_urlsafe(16)
        self.stage = INITIALIZING
        self.pod: Pod | None = None
        self.obj_count = self.in_bytes = self.out_bytes = 0


class Etls:
    """All ETLs of the server. Their pods write logs to ``logs`` and reach the target at ``target_url``."""

    def __init__(self, logs: Path, target_url: str) -> None:
        self._logs = logs
        self._target_url = target_url
        self._etls: dict[str, Etl] = {}
        self._lock = threading.Lock()
        self._closed = False

    def get(self, name: str) -> Etl:
        """Return the ETL of a name. Raises ApiError 404 where there is none."""
        etl = self._etls.get(name)
        if etl is None:
            raise etl_not_found(name)
        return etl

    def is_secret(self, name: str, secret: str) -> bool:
        """Whether ``secret`` is that of the ETL ``name``; it takes as long where there is none."""
        etl = self._etls.get(name)
        expected = etl.secret if etl else secrets.token_urlsafe(16)
        return hmac.compare_digest(secret.encode("utf-8", "replace"), expected.encode())

    def running(self, name: str) -> tuple[Etl, Pod]:
        """Find the ETL of an inline transform. Raises ApiError 404 if it does not run, in the words of AIS's target."""
        etl = self._etls.get(name)
        pod = etl.pod if etl else None
        if etl is None or pod is None or etl.stage != RUNNING:
            hint = f'try starting new ETL with "{self._target_url}/v1/etl/init" endpoint'
            raise ApiError(404, f"t[{TARGET_ID}]: {name} does not exist - {hint}", "ErrNotFound")
        return etl, pod

    def transform(self, stages: list[str], bucket: Bucket, name: str, arguments: str | None) -> bytes:
        """An object, as the ETLs make it one after the other. Raises ApiError."""
        running = [self.running(stage) for stage in stages]
        entry = bucket.get(name)
        bucket_name = bucket.name.rpartition("/")[2]  # AIS tells ETLs no namespace
        # By path whether or not the pod's class wants the path: else the SDK's web server reads the file for it.
        data: bytes | Path = Path(entry.path) if entry.content is None else bucket.read(name)
        for etl, pod in running:
            size = entry.size if isinstance(data, Path) else len(data)
            data = pod.transform(bucket_name, name, arguments, data, etl.object_timeout_s)
            etl.obj_count += 1
            etl.in_bytes += size
            etl.out_bytes += len(data)
        assert isinstance(data, bytes)
        return data

    def init(self, message: Message) -> str:
        """Starts a new ETL and waits until it runs; its id. Raises ApiError 409, or 400 with the pod's last lines."""
        etl = Etl(message)
        with self._lock:
            if etl.name in self._etls:
                raise ApiError(409, f"etl job {etl.name} already exists", "ErrETLAlreadyExists")
            self._etls[etl.name] = etl
        return self._run(etl)

    def start(self, name: str) -> str:
        """Starts a stopped ETL again and waits until it runs."""
        with self._lock:
            etl = self.get(name)
            if etl.stage != ABORTED:
                raise ApiError(400, f"can't start ETL[{name}] during {etl.stage} stage", "ErrETL")
            etl.stage = INITIALIZING
        return self._run(etl)

    def stop(self, name: str) -> None:
        """Ends the ETL's pod; its definition stays."""
        with self._lock:
            etl = self.get(name)
            pod, etl.stage = etl.pod, ABORTED
        if pod is not None:
            pod.kill()

    def delete(self, name: str) -> None:
        """Stop the ETL and forget it."""
        self.stop(name)
        with self._lock:
            self._etls.pop(name, None)

    def close(self) -> None:
        """Ends all pods; none starts afterwards."""
        with self._lock:
            self._closed = True
            pods = [etl.pod for etl in self._etls.values() if etl.pod is not None]
        for pod in pods:
            pod.kill()

    def describe(self) -> list[dict[str, Any]]:
        """Return what GET /v1/etl answers."""
        return [
            {"id": etl.name} | {name: getattr(etl, name) for name in _DESCRIBED}
            for etl in sorted(self._etls.values(), key=lambda etl: etl.name)
        ]

    def view(self, name: str) -> dict[str, Any]:
        """Answer GET /v1/etl/NAME; an ETL that is aborted is not found, as on a cluster."""
        etl = self.get(name)
        if etl.stage == ABORTED:
            raise etl_not_found(name)
        timeouts = {"init_timeout": go_duration(etl.init_timeout_s), "obj_timeout": go_duration(etl.object_timeout_s)}
        return {"init_msg": {**etl.message, **timeouts, "resources": {}}}

    def logs(self, name: str) -> list[dict[str, str]]:
        """The last lines of the pod's log, in base64; here of a stopped ETL too."""
        pod = self.get(name).pod
        text = pod.log_tail() if pod else ""
        return [{"target_id": TARGET_ID, "logs": base64.b64encode(text.encode()).decode()}]

    def health(self, name: str) -> list[dict[str, str]]:
        """Tell whether the ETL's pod runs."""
        return [{"target_id": TARGET_ID, "health_status": self.get(name).stage}]

    def _run(self, etl: Etl) -> str:
        reason, pod = missing_packages(etl.environment.get("PACKAGES", "")), None
        if not reason:
            try:
                pod = self._new_pod(etl)
                reason = pod.wait_ready(etl.init_timeout_s)
            except (OSError, ValueError) as error:  # an environment that no process can have: too large, or with a NUL
                reason = f"the pod cannot be started: {error}."
        with self._lock:
            ours = etl.pod is pod or pod is None  # else it was stopped and started again meanwhile
            if pod and ours and not reason and etl.stage == INITIALIZING and not pod.died.is_set():
                etl.stage = RUNNING
                return etl.xaction_id
            reason = reason or "it was stopped meanwhile"
            if ours:
                etl.stage = ABORTED
        if pod is not None:
            pod.kill()
        lines = f"\n{pod.log_tail()}" if pod else ""
        raise ApiError(400, f"t[{TARGET_ID}]: ETL[{etl.name}] failed to start: {reason}{lines}", "ErrETL")

    def _new_pod(self, etl: Etl) -> Pod:
        environment = inherited(os.environ) | {
            "DIRECT_PUT": str(etl.message.get("support_direct_put", False)).lower(),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(self._logs),  # its own, as a container has one
        }
        environment |= etl.environment
        environment["AIS_TARGET_URL"] = f"{self._target_url}/v1/etl/_object/{etl.name}/{etl.secret}"
        with self._lock:
            if self._closed or etl.stage != INITIALIZING:
                raise ApiError(400, f"ETL[{etl.name}] was stopped while it started", "ErrETL")
            etl.pod = Pod(environment, self._logs, etl.name, lambda pod: self._died(etl, pod))
            return etl.pod

    def _died(self, etl: Etl, pod: Pod) -> None:
        with self._lock:
            if etl.pod is pod and etl.stage == RUNNING:  # while it starts, whoever starts it says what happened
                etl.stage = ABORTED
