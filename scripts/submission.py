"""The options of a job, ``submit.…``. They belong to no run: its configuration and its checkpoints do not have them."""

import re
from dataclasses import dataclass, fields

from training.config.options import group, option, require
from training.config.schema import Config


@dataclass
class KubernetesConfig:
    """submit k8s: where the pods run and what they mount."""

    namespace: str = option("default", "namespace of the Job")
    image: str = option("", "image of the trainer, built from the Dockerfile")
    data_claim: str = option("", "PersistentVolumeClaim with the data, mounted read-only at data_mount; empty: none")
    data_mount: str = option("/data", "where data_claim is mounted")
    runs_claim: str = option("", "PersistentVolumeClaim for run directories, mounted at runs_mount; empty: run_mirror")
    runs_mount: str = option("/runs", "where runs_claim is mounted; run_dir lies in it")
    shm_size: str = option("16Gi", "size of /dev/shm, which NCCL uses and batches do not")
    ephemeral_storage: str = option(
        "20Gi", "disk space of the node that a pod may use, for /tmp, and for /runs without runs_claim"
    )
    network_policy: bool = option(True, "let only the job's own pods reach its ports, by a NetworkPolicy")
    gpu_resource: str = option("nvidia.com/gpu", "name of the GPU resource")
    resources: list[str] = option([], "further resources, such as ['rdma/hca=1']")
    queue: str = option("", "local queue of Kueue; empty: no queue")
    ais_token_secret: str = option("", "Secret whose key token is AIS_AUTHN_TOKEN_FILE")
    ais_ca_secret: str = option("", "Secret whose key ca.crt is AIS_CLIENT_CA")
    ais_cert_secret: str = option("", "Secret whose keys tls.crt and tls.key are AIS_CRT and AIS_CRT_KEY")
    node_selector: list[str] = option([], "labels that nodes must have, such as ['zone=a']")
    near: str = option("", "label of pods whose nodes are preferred, such as 'app=ais'")
    grace_s: int = option(120, "seconds from SIGTERM to SIGKILL, which must be enough for a step and a save", low=1)
    backoff_limit: int = option(
        6, "failed attempts after which Kubernetes gives the Job up; stops on request do not count"
    )
    run_as_user: int = option(1000, "user and group that the pods run as; never 0", low=1)


@dataclass
class SubmitConfig:
    """python -m scripts.submit: what to ask a cluster for, by sbatch's own names."""

    name: str = option("imagenet", "name of the job")
    nodes: int = option(1, "nodes", low=1)
    gpus_per_node: int = option(
        0, "GPUs of each node, with a process for each; 0: tasks_per_node processes on CPUs", low=0
    )
    tasks_per_node: int = option(1, "processes on each node, if gpus_per_node is 0", low=1)
    cpus_per_task: int = option(4, "CPUs of each process", low=1)
    mem: str = option(
        "", "memory of each node, such as 200G; empty: the site's default, or on Kubernetes 4 GiB for each CPU"
    )
    time: str = option("", "time limit of an attempt, such as 24:00:00; the job goes on in the next attempt")
    signal_s: int = option(120, "seconds before the time limit at which the run saves and stops", low=1)
    max_restarts: int = option(
        3, "SLURM: attempts in a row that may end without a new checkpoint before the job gives up", low=0
    )
    partition: str = option("", "SLURM: partition")
    account: str = option("", "SLURM: account to charge")
    qos: str = option("", "SLURM: quality of service")
    constraint: str = option("", "SLURM: features that the nodes must have")
    container_image: str = option("", "SLURM with Pyxis: container image to run in")
    setup: list[str] = option(
        [],
        "commands that the job runs before training, such as 'module load cuda' or '. venv/bin/activate'",
        is_command=True,
    )
    extra: list[str] = option([], "SLURM: further #SBATCH options", is_command=True)
    k8s: KubernetesConfig = group(KubernetesConfig)

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        require(
            re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name) is not None,
            f"submit.name={self.name} must be 1 to 40 of a-z, 0-9 and -, and begin with a letter: "
            "Kubernetes takes no other names.",
        )
        for name in ("resources", "node_selector"):
            for entry in getattr(self.k8s, name):
                require("=" in entry, f"submit.k8s.{name}: {entry} is not of the form NAME=VALUE.")
        require(self.k8s.near == "" or "=" in self.k8s.near, "submit.k8s.near is not of the form NAME=VALUE.")

    @property
    def tasks_on_a_node(self) -> int:
        """Processes of each machine: one for each GPU."""
        return self.gpus_per_node or self.tasks_per_node


@dataclass
class Submission(Config):
    """A run, and the job that it is to be."""

    submit: SubmitConfig = group(SubmitConfig, changes_result=False)

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        super().check()
        self.submit.check()

    @property
    def run(self) -> Config:
        """The run's own configuration, which train.py takes."""
        return Config(**{item.name: getattr(self, item.name) for item in fields(Config)})
