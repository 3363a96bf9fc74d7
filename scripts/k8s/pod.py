"""What a configuration becomes inside a pod: paths on what is mounted there, addresses instead of the environment."""

import os
import posixpath
import re
import sys
from copy import deepcopy
from pathlib import PurePosixPath

from scripts.submission import KubernetesConfig, Submission
from sources.errors import ConfigError
from training.config.options import require


def configuration_in_pod(config: Submission) -> Submission:
    """A copy of the configuration as the pods need it. Raises ConfigError for what cannot run there."""
    inside = deepcopy(config)
    options = inside.submit.k8s
    require(
        options.image != "",
        "submit.k8s.image is not set: build one with docker build -t REGISTRY/imagenet-ais:1 . and push it.",
    )
    require(
        options.runs_claim != "" or inside.run_mirror != "",
        "neither submit.k8s.runs_claim nor run_mirror is set, so a pod that is restarted would lose its checkpoints: "
        "name a PersistentVolumeClaim, or a bucket, run_mirror=ais://BUCKET/PREFIX.",
    )
    inside.run_dir = _run_dir(inside.run_dir, options.runs_mount)
    if inside.submit.gpus_per_node and inside.device == "auto":
        inside.device = "cuda"  # an image whose torch sees no GPU must not train on CPUs
    inside.submit.mem = memory_quantity(inside.submit.mem)
    for name in ("shm_size", "ephemeral_storage"):
        value = getattr(options, name)
        require(
            re.fullmatch(r"[1-9][0-9]*(\.[0-9]+)?([KMGT]i|[kMGT])", value) is not None,
            f"submit.k8s.{name}={value} is not an amount such as 20Gi: write a number and Ki, Mi, Gi or Ti.",
        )
    if inside.data.source == "aistore" or inside.run_mirror:
        inside.data.endpoint = inside.data.endpoint or os.environ.get("AIS_ENDPOINT", "")
    require(
        inside.run_mirror == "" or inside.data.endpoint not in ("", "embedded"),
        f"run_mirror={inside.run_mirror} needs a cluster that the pods reach: set data.endpoint=http://HOST:PORT.",
    )
    if inside.data.source in ("imagefolder", "shards"):
        for name in ("root", "train_shards", "val_shards"):
            if path := getattr(inside.data, name):
                _check_root(f"data.{name}", path, options)
    return inside


def memory_quantity(mem: str) -> str:
    """sbatch's notation as Kubernetes': 200G, of 1024, becomes 200Gi; a bare number counts MiB. Raises ConfigError."""
    if not mem:
        return ""
    match = re.fullmatch(r"([1-9][0-9]*)(?:([KMGT])i?)?", mem)
    if match is None:
        raise ConfigError(f"submit.mem={mem} is not an amount of memory such as 200G: write a number and K, M, G or T.")
    return f"{match[1]}{match[2] or 'M'}i"


def _run_dir(run_dir: str, mount: str) -> str:
    """A relative run directory's last part lies in the mount; an absolute one must lie there already."""
    path = PurePosixPath(posixpath.normpath(run_dir))
    if not path.is_absolute():
        path = PurePosixPath(mount, path.name)
    require(
        path.name not in ("", "..") and path != PurePosixPath(mount) and path.is_relative_to(mount),
        f"run_dir={run_dir} does not lie in submit.k8s.runs_mount={mount}, which is what the pods share and keep: "
        f"take run_dir={posixpath.join(mount, 'NAME')}, or another runs_mount.",
    )
    return str(path)


def _check_root(name: str, root: str, options: KubernetesConfig) -> None:
    mounted = [options.data_mount] * bool(options.data_claim) + [options.runs_mount] * bool(options.runs_claim)
    if any(PurePosixPath(posixpath.normpath(root)).is_relative_to(mount) for mount in mounted):
        return
    require(
        options.data_claim == "",
        f"{name}={root} does not lie in submit.k8s.data_mount={options.data_mount}, where the pods have "
        f"submit.k8s.data_claim={options.data_claim}.",
    )
    print(
        f"note: the pods have {name}={root} only if the image holds it, since submit.k8s.data_claim is not set.",
        file=sys.stderr,
    )
