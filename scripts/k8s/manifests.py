"""The objects of a job, as plain dicts, one small function for each."""

import hashlib
import re
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from scripts.submission import KubernetesConfig, Submission
from sources.errors import ConfigError
from training.processes.preemption import EXIT_CODE
from training.run_dir.records import config_yaml

Manifest = dict[str, Any]

PORT = 29500
CONTAINER = "train"
_GIB_FOR_EACH_CPU = 4
"""GiB of memory for each CPU, if submit.mem is not set: as in most clouds. A pod without a limit may fill its node."""
_NAME_LENGTH = 52
"""The length of a Job's name: a pod's name has 63 characters, with an index and five random ones at the end."""

CONFIG = "/etc/imagenet-ais"
_SECRETS = {
    # The token as a file, which Kubernetes replaces while the pod runs: a token's life is shorter than a run's.
    "ais_token_secret": ("ais-token", {"AIS_AUTHN_TOKEN_FILE": "token"}),
    "ais_ca_secret": ("ais-ca", {"AIS_CLIENT_CA": "ca.crt"}),
    "ais_cert_secret": ("ais-certificate", {"AIS_CRT": "tls.crt", "AIS_CRT_KEY": "tls.key"}),
}
"""Option → name of the volume, which lies in /etc, and variable → the key of the Secret whose file it names."""
_READABLE_BY_GROUP = 0o440
"""Mode of a Secret's files."""
_SHUTDOWN_MARGIN_S = 5


def render(config: Submission) -> list[Manifest]:
    """ConfigMap, headless Service, NetworkPolicy and Indexed Job of a configuration of ``configuration_in_pod``."""
    name = job_name(config)
    policy = [_network_policy(config, name)] if config.submit.k8s.network_policy else []
    return [_config_map(config, name), _service(config, name), *policy, _job(config, name)]


def job_name(config: Submission) -> str:
    """submit.name and the run's id; if Kubernetes does not take the id as it is, shortened, with a hash of it."""
    run_id = PurePosixPath(config.run_dir).name
    slug = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")
    name = f"{config.submit.name}-{slug}"
    if slug == run_id and len(name) <= _NAME_LENGTH:
        return name
    digest = hashlib.sha256(run_id.encode()).hexdigest()[:8]
    return f"{name[: _NAME_LENGTH - 9].rstrip('-')}-{digest}"


def _object(version: str, kind: str, config: Submission, name: str, **content: Any) -> Manifest:
    metadata = {"name": name, "namespace": config.submit.k8s.namespace, "labels": _labels(name)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def _labels(name: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "imagenet-ais",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": "training",
    }


def _config_map(config: Submission, name: str) -> Manifest:
    """Immutable: another job of the same name is refused, instead of changing what a restarted pod reads."""
    data = {"config.yaml": config_yaml(config.run)}
    return _object("v1", "ConfigMap", config, name, immutable=True, data=data)


def _service(config: Submission, name: str) -> Manifest:
    """Gives pod N the name NAME-N.NAME, before it is ready too, so that the others find the first one."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"batch.kubernetes.io/job-name": name},
        "ports": [{"name": "rendezvous", "port": PORT}],
    }
    return _object("v1", "Service", config, name, spec=spec)


def _network_policy(config: Submission, name: str) -> Manifest:
    """Only the job's own pods reach its ports: torch's rendezvous, NCCL and gloo ask nobody for a name."""
    pods = {"matchLabels": {"app.kubernetes.io/instance": name}}
    spec = {"podSelector": pods, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": pods}]}]}
    return _object("networking.k8s.io/v1", "NetworkPolicy", config, name, spec=spec)


def _job(config: Submission, name: str) -> Manifest:
    options = config.submit.k8s
    exits = {"containerName": CONTAINER, "operator": "In"}
    rules = [  # the first that fits decides
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": exits | {"values": [EXIT_CODE]}},  # stopped on request
        {"action": "FailJob", "onExitCodes": exits | {"values": [ConfigError.exit_code]}},
    ]
    spec: Manifest = {
        "completionMode": "Indexed",
        "completions": config.submit.nodes,
        "parallelism": config.submit.nodes,
        # One pod's failure takes the others along, and each of them counts.
        "backoffLimit": options.backoff_limit * config.submit.nodes,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": rules},
        "template": {"metadata": {"labels": _labels(name)}, "spec": _pod(config, name)},
    }
    job = _object("batch/v1", "Job", config, name, spec=spec)
    if options.queue:  # Kueue starts the job, with all of its pods, when they have room
        job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = options.queue
        spec["suspend"] = True
    return job


def _pod(config: Submission, name: str) -> Manifest:
    options = config.submit.k8s
    pod: Manifest = {
        "subdomain": name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace_s,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), options.run_as_user),
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(config, name)],
        "volumes": [{"name": volume.name, **volume.source} for volume in _mounted(config, name)],
    }
    if options.node_selector:
        pod["nodeSelector"] = _pairs(options.node_selector)
    if options.near:  # the nodes, else the zones, that have pods with this label, whatever their namespace
        pods = {"labelSelector": {"matchLabels": _pairs([options.near])}, "namespaceSelector": {}}
        terms = [
            {"weight": weight, "podAffinityTerm": pods | {"topologyKey": key}}
            for weight, key in ((100, "kubernetes.io/hostname"), (50, "topology.kubernetes.io/zone"))
        ]
        pod["affinity"] = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}
    if config.submit.gpus_per_node:
        pod["tolerations"] = [{"key": options.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _container(config: Submission, name: str) -> Manifest:
    return {
        "name": CONTAINER,
        "image": config.submit.k8s.image,
        "command": ["python", "-m", "training.processes.launch"],
        "args": [
            f"--nnodes={config.submit.nodes}",
            f"--nproc-per-node={config.submit.tasks_on_a_node}",
            "--node-rank=$(JOB_COMPLETION_INDEX)",  # a pod that comes back takes the same place again
            f"--master-addr={name}-0.{name}",
            f"--master-port={PORT}",
            "--max-restarts=0",
            *("train.py", "--config-path", CONFIG, "--config-name", "config"),
        ],
        "env": _environment(config),
        "resources": _resources(config),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": volume.name, "mountPath": volume.path} | ({"readOnly": True} if volume.read_only else {})
            for volume in _mounted(config, name)
        ],
    }


def _resources(config: Submission) -> Manifest:
    """Requests equal limits: nothing is taken from a pod that it was promised, and it takes nothing from others."""
    options = config.submit
    cpus = options.cpus_per_task * options.tasks_on_a_node
    amounts = {
        "cpu": str(cpus),
        "memory": options.mem or f"{_GIB_FOR_EACH_CPU * cpus}Gi",
        "ephemeral-storage": options.k8s.ephemeral_storage,
    }
    if options.gpus_per_node:
        amounts[options.k8s.gpu_resource] = str(options.gpus_per_node)
    amounts |= _pairs(options.k8s.resources)
    return {"requests": amounts, "limits": amounts}


def _pairs(entries: list[str]) -> dict[str, str]:
    """``["NAME=VALUE", …]`` as a dict."""
    return {name: value for name, _, value in (entry.partition("=") for entry in entries)}


class _Volume(NamedTuple):
    """A volume's name, its source in Kubernetes' words, and where it is mounted."""

    name: str
    source: dict[str, Any]
    path: str
    read_only: bool = False


def _environment(config: Submission) -> list[dict[str, Any]]:
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


def _mounted(config: Submission, name: str) -> list[_Volume]:
    """List the volumes that a pod mounts."""
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
