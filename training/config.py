"""The configuration: every option, its type, default and help, checked once; plain dataclasses from there on."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from training.options import at_least, auto_or_int, one_of, option, require


@dataclass
class EtlConfig:
    """The two ETLs of data=aistore."""

    train_name: str = option("imagenet-train", "name of the training ETL: 6 to 32 of a-z, 0-9 and -")
    val_name: str = option("imagenet-val", "name of the validation ETL")
    manage: str = option("auto", "auto: start what is missing (an administrator's right)|reuse: only use what runs")
    on_exit: str = option(
        "auto", "keep|stop what this run started; auto: stop on the embedded server, keep on a cluster"
    )
    image: str = option(
        "", "container image built from etl/Dockerfile; empty: the class is sent to AIStore's own image"
    )
    dependencies: list[str] = option(
        [], "packages of the pod, NAME==VERSION; empty: NumPy and Pillow as installed here"
    )
    comm_type: str = option("hpush", "hpush|hpull: how a storage node talks to its pod")
    num_workers: int | str = option("auto", "processes of each pod; auto: 4, or half of the CPUs embedded")
    init_timeout_s: int = option(300, "seconds in which an ETL must have started")
    deadline_s: float = option(2.0, "seconds after which a sample is made here instead")
    adaptive_deadline: bool = option(True, "do so sooner where one storage node is much later than the others")

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        one_of("data.etl.manage", self.manage, ("auto", "reuse"))
        one_of("data.etl.on_exit", self.on_exit, ("auto", "keep", "stop"))
        one_of("data.etl.comm_type", self.comm_type, ("hpush", "hpull"))
        auto_or_int("data.etl.num_workers", self.num_workers, 1)
        at_least("data.etl.init_timeout_s", self.init_timeout_s, 1)
        require(self.deadline_s > 0, f"data.etl.deadline_s={self.deadline_s} must be more than 0.")
        for name in ("train_name", "val_name"):
            value = getattr(self, name)
            require(
                re.fullmatch(r"[a-z0-9][-a-z0-9]{4,30}[a-z0-9]", value) is not None,
                f"data.etl.{name}={value} is no name of an ETL: 6 to 32 of a-z, 0-9 and -, no - at the ends.",
            )
        for dependency in self.dependencies:
            require("==" in dependency, f"data.etl.dependencies: {dependency} is not pinned: write NAME==VERSION.")
        require(self.train_name != self.val_name, "data.etl.train_name and val_name must differ: they are two ETLs.")


@dataclass
class DataConfig:
    """Where samples come from and what they look like."""

    source: str = option("imagefolder", "set by data=imagefolder|aistore|synthetic")
    root: str = option("", "imagefolder: the folder that holds train/ and val/, each with a folder for each class")
    endpoint: str = option(
        "", "aistore: the cluster's proxy, http://HOST:PORT; empty: AIS_ENDPOINT; embedded: none needed"
    )
    bucket: str = option(
        "ais://imagenet", "aistore: the bucket: ais://NAME, s3://NAME, gs://NAME, ais://#NAMESPACE/NAME"
    )
    val_bucket: str = option("", "aistore: the bucket of the validation split; empty: data.bucket holds both")
    train_prefix: str = option("train/", "aistore: what the names of training objects begin with")
    val_prefix: str = option("val/", "aistore: what the names of validation objects begin with")
    embedded_root: str = option("", "endpoint=embedded: the folder with train/ and val/ to serve; it is never changed")
    embedded_layout: str = option("folders", "endpoint=embedded: folders (CLASS/x.JPEG)|pairs (0000353.jpg and .cls)")
    transform: str = option(
        "etl", "aistore: etl (the cluster makes the samples)|client (this machine does)|hybrid (some here, some there)"
    )
    local_share: float = option(0.5, "transform=hybrid: share of the samples that this machine makes")
    wire: str = option("raw", "raw (exact)|jpeg (a tenth of the bytes, lossy): how samples travel")
    etl: EtlConfig = field(default_factory=lambda: EtlConfig())
    train_samples: int = option(1281167, "synthetic: training samples in an epoch")
    val_samples: int = option(50000, "synthetic: validation samples")
    image_size: int = option(224, "side of a training sample in pixels (random resized crop, horizontal flip)")
    val_image_size: int = option(224, "side of a validation sample in pixels (central crop)")
    val_resize: int = option(256, "short side of a validation image in pixels before the crop")
    interpolation: str = option("bilinear", "bilinear|bicubic, both antialiased")
    scale: list[float] = option([0.08, 1.0], "smallest and largest share of the image's area in a training crop")
    ratio: list[float] = option([0.75, 4 / 3], "smallest and largest width / height of a training crop")
    workers: int | str = option("auto", "loader processes of each training process; auto: one for each of its CPUs")
    prefetch: int = option(4, "batches that each worker makes ahead")
    on_corrupt: str = option("raise", "raise|replace: a training sample that is no image ends the run|is another one")
    max_replaced: int = option(100, "on_corrupt=replace: more different samples than this end the run")
    patience_s: float = option(600.0, "aistore: seconds to wait for a cluster that is gone before saving and giving up")
    audit_every: int = option(256, "aistore: compare one in so many of the ETL's samples with one made here; 0: none")
    fingerprint: str = option(
        "sampled", "off|sampled|full: hash what the model sees, pixels of one sample in 16|of all"
    )

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        one_of("data.source", self.source, ("imagefolder", "aistore", "synthetic"))
        one_of("data.transform", self.transform, ("etl", "client", "hybrid"))
        one_of("data.on_corrupt", self.on_corrupt, ("raise", "replace"))
        require(0 <= self.local_share <= 1, f"data.local_share={self.local_share} must be from 0 to 1.")
        at_least("data.patience_s", self.patience_s, 0)
        for name in ("max_replaced", "audit_every"):
            at_least(f"data.{name}", getattr(self, name), 0)
        one_of("data.wire", self.wire, ("raw", "jpeg"))
        one_of("data.embedded_layout", self.embedded_layout, ("folders", "pairs"))
        self.etl.check()
        if self.source == "aistore" and self.endpoint == "embedded":
            require(
                self.embedded_root != "",
                "data.embedded_root is not set: data.endpoint=embedded serves a folder that holds train/ and val/.",
            )
        if self.source == "aistore":
            self._check_buckets()
        one_of("data.fingerprint", self.fingerprint, ("off", "sampled", "full"))
        one_of("data.interpolation", self.interpolation, ("bilinear", "bicubic"))
        if self.source == "imagefolder":
            require(
                self.root != "", "data.root is not set: give the folder that holds train/ and val/, data.root=PATH."
            )
        auto_or_int("data.workers", self.workers, 0)
        for name, low in (("train_samples", 1), ("val_samples", 1), ("prefetch", 1)):
            at_least(f"data.{name}", getattr(self, name), low)
        for name in ("scale", "ratio"):
            require(
                len(getattr(self, name)) == 2, f"data.{name} takes two numbers, [low,high], not {getattr(self, name)}."
            )

    def _check_buckets(self) -> None:
        from aistore_data.bucket_uri import parse_bucket  # here, so that a folder needs no SDK

        train = parse_bucket(self.bucket, "data.bucket=")
        val = parse_bucket(self.val_bucket, "data.val_bucket=") if self.val_bucket else train
        for name in ("train_prefix", "val_prefix"):
            prefix = getattr(self, name)
            require(
                prefix == "" or (prefix.endswith("/") and not prefix.startswith("/")),
                f"data.{name}={prefix} must be empty or end in a slash, and not begin with one, such as train/.",
            )
        apart = not (self.train_prefix.startswith(self.val_prefix) or self.val_prefix.startswith(self.train_prefix))
        require(
            train != val or apart,
            f"data.train_prefix={self.train_prefix} and data.val_prefix={self.val_prefix} overlap in {self.bucket}: "
            "the splits need prefixes of their own, or buckets of their own by data.val_bucket.",
        )


@dataclass
class ModelConfig:
    """What is trained."""

    name: str = option("resnet18", "any classification model of torchvision.models")
    weights: str = option("", "initial weights: a torchvision weights name (IMAGENET1K_V1), or a file; empty: random")
    num_classes: int | None = option(None, "size of the last layer; empty: the classes of the data")

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        if self.num_classes is not None:
            at_least("model.num_classes", self.num_classes, 1)


@dataclass
class TrainConfig:
    """How it is trained: SGD, as ImageNet is trained since 2015."""

    epochs: int = option(90, "passes over the training data")
    batch_size: int = option(256, "global batch: images in one optimiser step, over all processes")
    lr: float = option(0.1, "peak learning rate, for the global batch")
    momentum: float = option(0.9, "momentum of SGD")
    nesterov: bool = option(False, "Nesterov's momentum")
    weight_decay: float = option(1e-4, "L2 penalty")
    decay_norms_and_biases: bool = option(True, "apply the weight decay to normalisation layers and biases too")
    label_smoothing: float = option(0.0, "share of each target that goes to all classes alike")
    warmup_epochs: float = option(0.0, "epochs in which the learning rate rises linearly to its peak")
    schedule: str = option("step", "step|cosine")
    step_epochs: int = option(30, "schedule=step: epochs between two drops")
    step_gamma: float = option(0.1, "schedule=step: factor of each drop")
    accumulate: int = option(1, "micro-batches in an optimiser step of each process, for batches larger than memory")
    compile: bool = option(False, "torch.compile the model")
    channels_last: bool = option(True, "keep activations in NHWC order")
    checkpoint_every: int = option(0, "write last.pt every N steps too; 0: at the end of each epoch only")
    checkpoint_every_s: float = option(0.0, "write last.pt every N seconds too; 0: never")
    keep: int = option(0, "checkpoints of former epochs to keep beside last.pt and best.pt")
    log_every: int = option(50, "steps between two log lines")

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        one_of("train.schedule", self.schedule, ("step", "cosine"))
        for name in ("epochs", "batch_size", "accumulate", "log_every", "step_epochs"):
            at_least(f"train.{name}", getattr(self, name), 1)
        for name in ("lr", "momentum", "weight_decay", "warmup_epochs", "step_gamma", "checkpoint_every"):
            at_least(f"train.{name}", getattr(self, name), 0)
        for name in ("checkpoint_every_s", "keep"):
            at_least(f"train.{name}", getattr(self, name), 0)
        require(0 <= self.label_smoothing < 1, f"train.label_smoothing must be in [0, 1), not {self.label_smoothing}.")
        require(not self.nesterov or self.momentum > 0, "train.nesterov=true needs train.momentum above 0.")


@dataclass
class KubernetesConfig:
    """submit k8s: where the pods run and what they mount."""

    namespace: str = option("default", "namespace of the Job")
    image: str = option("", "image of the trainer, built from the Dockerfile")
    data_claim: str = option("", "PersistentVolumeClaim with the data, mounted read-only at data_mount; empty: none")
    data_mount: str = option("/data", "where data_claim is mounted")
    runs_claim: str = option("", "PersistentVolumeClaim for run directories, mounted at runs_mount; empty: run_mirror")
    runs_mount: str = option("/runs", "where runs_claim is mounted; run_dir lies in it")
    shm_size: str = option("16Gi", "size of /dev/shm, which NCCL uses; batches need none of it")
    gpu_resource: str = option("nvidia.com/gpu", "name of the GPU resource")
    resources: list[str] = option([], "further resources, such as ['rdma/hca=1']")
    queue: str = option("", "Kueue's local queue; empty: no queue")
    ais_token_secret: str = option("", "Secret whose key token is AIS_AUTHN_TOKEN_FILE")
    ais_ca_secret: str = option("", "Secret whose key ca.crt is AIS_CLIENT_CA")
    ais_cert_secret: str = option("", "Secret whose keys tls.crt and tls.key are AIS_CRT and AIS_CRT_KEY")
    node_selector: list[str] = option([], "labels that nodes must have, such as ['zone=a']")
    near: str = option("", "label of pods to be close to, such as 'app=ais': preferred, not required")
    grace_s: int = option(120, "seconds from SIGTERM to SIGKILL: must exceed a step and a save")
    backoff_limit: int = option(6, "failed attempts after which the Job is given up; stops on request do not count")
    run_as_user: int = option(1000, "user and group of the pods; never 0")


@dataclass
class SubmitConfig:
    """python -m scripts.submit: what to ask a cluster for, by sbatch's own names."""

    name: str = option("imagenet", "name of the job")
    nodes: int = option(1, "machines")
    gpus_per_node: int = option(0, "GPUs of each, and processes; 0: tasks_per_node processes on CPUs")
    tasks_per_node: int = option(1, "processes of each machine without GPUs")
    cpus_per_task: int = option(4, "CPUs of each process")
    mem: str = option("", "memory of each machine, such as 200G; empty: the site's default")
    time: str = option("", "time limit of an attempt, such as 24:00:00; the job goes on in the next")
    signal_s: int = option(120, "seconds before the time limit at which the run saves and stops")
    max_restarts: int = option(
        3, "SLURM: attempts in a row that may end without a new checkpoint before the job gives up"
    )
    partition: str = option("", "SLURM's partition")
    account: str = option("", "account to be charged")
    qos: str = option("", "quality of service")
    constraint: str = option("", "features that the nodes must have")
    container_image: str = option("", "SLURM with Pyxis: the image to run in")
    setup: list[str] = option(
        [], "lines of the job before training, such as 'module load cuda' or '. venv/bin/activate'"
    )
    extra: list[str] = option([], "further #SBATCH options, as they are")
    k8s: KubernetesConfig = field(default_factory=KubernetesConfig)

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        for name, low in (
            ("nodes", 1),
            ("gpus_per_node", 0),
            ("tasks_per_node", 1),
            ("cpus_per_task", 1),
            ("signal_s", 1),
            ("max_restarts", 0),
        ):
            at_least(f"submit.{name}", getattr(self, name), low)
        require(
            re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name) is not None,
            f"submit.name={self.name} must be 1 to 40 of a-z, 0-9 and -, from a letter on: Kubernetes takes no others.",
        )
        for name in ("resources", "node_selector"):
            for entry in getattr(self.k8s, name):
                require("=" in entry, f"submit.k8s.{name}: {entry} is not of the form NAME=VALUE.")
        require(self.k8s.near == "" or "=" in self.k8s.near, "submit.k8s.near is not of the form NAME=VALUE.")
        at_least("submit.k8s.run_as_user", self.k8s.run_as_user, 1)
        at_least("submit.k8s.grace_s", self.k8s.grace_s, 1)

    @property
    def tasks_on_a_node(self) -> int:
        """Processes of each machine: one for each GPU."""
        return self.gpus_per_node or self.tasks_per_node


@dataclass
class Config:
    """A run."""

    seed: int = option(0, "of the initial weights, the order of samples and their augmentation")
    run_dir: str = option("runs/${run_id:}", "everything that the run writes; a stable id by default")
    run_mirror: str = option("", "ais://BUCKET/PREFIX that keeps the newest checkpoint and the records; empty: none")
    resume: str = option(
        "auto", "auto: go on from run_dir's last checkpoint if there is one|never: replace it|a checkpoint"
    )
    mode: str = option("train", "train|evaluate")
    device: str = option("auto", "auto|cpu|cuda")
    precision: str = option("fp32", "fp32|bf16|fp16 (autocast; fp16 with a gradient scaler, on GPUs only)")
    deterministic: bool = option(False, "the same bits on the same GPU at every run, at the cost of some speed")
    allow_changes: bool = option(False, "go on from a checkpoint although configuration, data, code or versions differ")
    threads: int | str = option("auto", "torch's threads in each process; auto: its share of the CPUs")
    meet_s: float = option(900.0, "several processes: seconds in which all must have come at the start")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    submit: SubmitConfig = field(default_factory=SubmitConfig)

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        for part in (self.data, self.model, self.train, self.submit):
            part.check()
        one_of("mode", self.mode, ("train", "evaluate"))
        one_of("device", self.device, ("auto", "cpu", "cuda"))
        one_of("precision", self.precision, ("fp32", "bf16", "fp16"))
        auto_or_int("threads", self.threads, 1)
        at_least("meet_s", self.meet_s, 1)
        require(0 <= self.seed < 1 << 63, f"seed must be from 0 to 2**63 - 1, not {self.seed}.")
        require(self.run_dir != "", "run_dir is empty: name the folder that the run writes to.")
        require(
            re.fullmatch(r"([a-z0-9]+://[^/]+(/.*)?)?", self.run_mirror) is not None,
            f"run_mirror={self.run_mirror} is not of the form ais://BUCKET/PREFIX.",
        )
        require(self.mode == "train" or self.run_mirror == "", "mode=evaluate has no mirror: leave out run_mirror.")
        require(
            self.mode == "train" or self.model.weights != "",
            "mode=evaluate needs model.weights: a torchvision weights name such as IMAGENET1K_V1, or a file.",
        )


def describe_options(config: type = Config, prefix: str = "") -> list[tuple[str, str, str]]:
    """(name, default, help) of every option, in order: for ``--help``."""
    rows = []
    for item in dataclasses.fields(config):
        default = getattr(config(), item.name)
        if dataclasses.is_dataclass(default):
            rows += describe_options(type(default), f"{prefix}{item.name}.")
        else:
            rows.append((f"{prefix}{item.name}", format_value(default), item.metadata["help"]))
    return rows


def format_value(value: Any) -> str:
    """A value as one types it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(format_value(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}" if isinstance(value, float) else str(value)
