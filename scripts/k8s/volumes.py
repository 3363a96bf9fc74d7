"""What a pod sees: its volumes, where they are mounted, and its environment."""

from typing import Any, NamedTuple

from scripts.submission import KubernetesConfig, Submission

CONFIG = "/etc/imagenet-ais"
_SECRETS = {
    # The token as a file, which Kubernetes replaces while the pod runs: a token's life is shorter than a run's.
    "ais_token_secret": ("ais-token", {"AIS_AUTHN_TOKEN_FILE": "token"}),
    "ais_ca_secret": ("ais-ca", {"AIS_CLIENT_CA": "ca.crt"}),
    "ais_cert_secret": ("ais-certificate", {"AIS_CRT": "tls.crt", "AIS_CRT_KEY": "tls.key"}),
}
"""Option → name of the volume, which lies in /etc, and variable → the key of the Secret whose file it names."""
_READABLE_BY_GROUP = 0o440
_SHUTDOWN_MARGIN_S = 5


class _Volume(NamedTuple):
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
    # Between SIGTERM and SIGKILL torch's launcher waits for its processes to save, 30 s unless told.
    shutdown_s = max(1, config.submit.k8s.grace_s - _SHUTDOWN_MARGIN_S)
    values = {"HOME": "/tmp", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(shutdown_s)}  # noqa: S108
    for _, volume, keys in _secrets(config.submit.k8s):
        values |= {variable: f"/etc/{volume}/{key}" for variable, key in keys.items()}
    return [{"name": name, "value": value} for name, value in values.items()]


def _secrets(options: KubernetesConfig) -> list[tuple[str, str, dict[str, str]]]:
    """(name of the Secret, name of the volume, variable → key) of those that are given."""
    return [(secret, *entry) for option, entry in _SECRETS.items() if (secret := getattr(options, option))]


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
        listed.append(_Volume("data", _claim(options.data_claim, readOnly=True), options.data_mount, read_only=True))
    for secret, volume, keys in _secrets(options):
        items = [{"key": key, "path": key} for key in keys.values()]
        source = {"secret": {"secretName": secret, "defaultMode": _READABLE_BY_GROUP, "items": items}}
        listed.append(_Volume(volume, source, f"/etc/{volume}", read_only=True))
    return listed


def _claim(name: str, **more: bool) -> dict[str, Any]:
    return {"persistentVolumeClaim": {"claimName": name, **more}}
