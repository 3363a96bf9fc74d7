"""What a pod sees: its volumes, where they are mounted, and its environment."""

from dataclasses import dataclass
from typing import Any

from scripts.submission import Submission

CONFIG = "/etc/imagenet-ais"
_TOKEN = "/etc/ais-token"  # noqa: S105  # a folder
_CA = "/etc/ais-ca"
_CERTIFICATE = "/etc/ais-certificate"
_READABLE_BY_GROUP = 0o440
_SHUTDOWN_MARGIN_S = 5


@dataclass(frozen=True)
class _Volume:
    """A volume's name, its source in Kubernetes' words, and where it is mounted."""

    name: str
    source: dict[str, Any]
    path: str
    read_only: bool = False


def volumes(config: Submission, name: str) -> list[dict[str, Any]]:
    """``spec.volumes`` of the pod."""
    return [{"name": volume.name, **volume.source} for volume in _all(config, name)]


def mounts(config: Submission, name: str) -> list[dict[str, Any]]:
    """``volumeMounts`` of the container."""
    return [
        {"name": volume.name, "mountPath": volume.path} | ({"readOnly": True} if volume.read_only else {})
        for volume in _all(config, name)
    ]


def environment(config: Submission) -> list[dict[str, Any]]:
    """``env`` of the container; secrets by reference."""
    options = config.submit.k8s
    # Between SIGTERM and SIGKILL torch's launcher waits for its processes to save, 30 s unless told.
    shutdown_s = max(1, options.grace_s - _SHUTDOWN_MARGIN_S)
    entries: list[dict[str, Any]] = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108
        {"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": str(shutdown_s)},
    ]
    if options.ais_token_secret:
        # A file, which Kubernetes replaces with the Secret while the pod runs: a token's life is shorter than a run's.
        entries.append({"name": "AIS_AUTHN_TOKEN_FILE", "value": f"{_TOKEN}/token"})
    if options.ais_ca_secret:
        entries.append({"name": "AIS_CLIENT_CA", "value": f"{_CA}/ca.crt"})
    if options.ais_cert_secret:
        entries.append({"name": "AIS_CRT", "value": f"{_CERTIFICATE}/tls.crt"})
        entries.append({"name": "AIS_CRT_KEY", "value": f"{_CERTIFICATE}/tls.key"})
    return entries


def _all(config: Submission, name: str) -> list[_Volume]:
    options = config.submit.k8s
    disk: dict[str, Any] = {"emptyDir": {"sizeLimit": options.ephemeral_storage}}
    listed = [
        _Volume("config", {"configMap": {"name": name}}, CONFIG, read_only=True),
        _Volume("shm", {"emptyDir": {"medium": "Memory", "sizeLimit": options.shm_size}}, "/dev/shm"),  # noqa: S108
        _Volume("tmp", disk, "/tmp"),  # noqa: S108
        _Volume("runs", _claim(options.runs_claim) if options.runs_claim else disk, options.runs_mount),
    ]
    if options.data_claim:
        listed.append(_Volume("data", _claim(options.data_claim, True), options.data_mount, read_only=True))
    if options.ais_token_secret:
        listed.append(_Volume("ais-token", _secret(options.ais_token_secret, "token"), _TOKEN, read_only=True))
    if options.ais_ca_secret:
        listed.append(_Volume("ais-ca", _secret(options.ais_ca_secret, "ca.crt"), _CA, read_only=True))
    if options.ais_cert_secret:
        source = _secret(options.ais_cert_secret, "tls.crt", "tls.key")
        listed.append(_Volume("ais-certificate", source, _CERTIFICATE, read_only=True))
    return listed


def _claim(name: str, read_only: bool = False) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name} | ({"readOnly": True} if read_only else {})}


def _secret(name: str, *keys: str) -> dict[str, Any]:
    items = [{"key": key, "path": key} for key in keys]
    return {"secret": {"secretName": name, "defaultMode": _READABLE_BY_GROUP, "items": items}}
