"""The configuration: every option, its type, default and help, checked once; plain dataclasses from there on."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from training.config.options import free, group, option, options_of, require, values_of
from training.config.recorded import check_texts


def _where(name: str, *values: str) -> Callable[[Mapping[str, Any]], bool]:
    """An option that changes the result only where another one has one of these values."""
    return lambda options: options.get(name) in values


@dataclass
class EtlConfig:
    """The two ETLs of data=aistore."""

    train_name: str = option("imagenet-train", "name of the training ETL: 6 to 32 of a-z, 0-9 and -")
    val_name: str = option("imagenet-val", "name of the validation ETL")
    manage: str = option(
        "auto",
        "auto: start what is missing (an administrator's right)|reuse: only use what runs",
        choices=("auto", "reuse"),
    )
    on_exit: str = option(
        "auto",
        "keep|stop what this run started; auto: stop on the embedded server, keep on a cluster",
        choices=("auto", "keep", "stop"),
    )
    image: str = option(
        "", "container image built from etl/Dockerfile; empty: the class is sent to AIStore's own image"
    )
    dependencies: list[str] = option(
        [], "packages of the pod, NAME==VERSION; empty: NumPy and Pillow as installed here"
    )
    comm_type: str = option("hpush", "hpush|hpull: how a storage node talks to its pod", choices=("hpush", "hpull"))
    num_workers: int | str = option("auto", "processes of each pod; auto: 4, or half of the CPUs embedded", low=1)
    init_timeout_s: int = option(300, "seconds in which an ETL must have started", low=1)
    deadline_s: float = option(2.0, "seconds after which a sample is made here instead", above=0)
    adaptive_deadline: bool = option(True, "do so sooner where one storage node is much later than the others")

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
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

    source: str = free(
        "imagefolder", "set by data=imagefolder|aistore|synthetic", choices=("imagefolder", "aistore", "synthetic")
    )
    root: str = free("", "imagefolder: the folder that holds train/ and val/, each with a folder for each class")
    endpoint: str = free(
        "", "aistore: the cluster's proxy, http://HOST:PORT; empty: AIS_ENDPOINT; embedded: none needed"
    )
    bucket: str = free("ais://imagenet", "aistore: the bucket: ais://NAME, s3://NAME, gs://NAME, ais://#NAMESPACE/NAME")
    val_bucket: str = free("", "aistore: the bucket of the validation split; empty: data.bucket holds both")
    train_prefix: str = free("train/", "aistore: what the names of training objects begin with")
    val_prefix: str = free("val/", "aistore: what the names of validation objects begin with")
    embedded_root: str = free("", "endpoint=embedded: the folder with train/ and val/ to serve; it is never changed")
    embedded_layout: str = free(
        "folders",
        "endpoint=embedded: folders (CLASS/x.JPEG)|pairs (0000353.jpg and .cls)",
        choices=("folders", "pairs"),
    )
    transform: str = free(
        "etl",
        "aistore: etl (the cluster makes the samples)|client (this machine does)|hybrid (some here, some there)",
        choices=("etl", "client", "hybrid"),
    )
    local_share: float = free(0.5, "transform=hybrid: share of the samples that this machine makes", low=0, high=1)
    wire: str = option(
        "raw", "raw (exact)|jpeg (a tenth of the bytes, lossy): how samples travel", choices=("raw", "jpeg")
    )
    etl: EtlConfig = group(EtlConfig, changes_result=False)
    train_samples: int = option(
        1281167, "synthetic: training samples in an epoch", low=1, changes_result=_where("data.source", "synthetic")
    )
    val_samples: int = option(
        50000, "synthetic: validation samples", low=1, changes_result=_where("data.source", "synthetic")
    )
    image_size: int = option(224, "side of a training sample in pixels (random resized crop, horizontal flip)")
    val_image_size: int = option(224, "side of a validation sample in pixels (central crop)")
    val_resize: int = option(256, "short side of a validation image in pixels before the crop")
    interpolation: str = option("bilinear", "bilinear|bicubic, both antialiased", choices=("bilinear", "bicubic"))
    scale: list[float] = option([0.08, 1.0], "smallest and largest share of the image's area in a training crop")
    ratio: list[float] = option([0.75, 4 / 3], "smallest and largest width / height of a training crop")
    workers: int | str = free(
        "auto", "loader processes of each training process; auto: one for each of its CPUs", low=0
    )
    prefetch: int = free(4, "batches that each worker makes ahead", low=1)
    on_corrupt: str = option(
        "raise",
        "raise|replace: a training sample that is no image ends the run|is another one",
        choices=("raise", "replace"),
        changes_result=lambda values: bool(values.get("replaced")),  # until then both have made the same samples
    )
    max_replaced: int = free(100, "on_corrupt=replace: more different samples than this end the run", low=0)
    patience_s: float = free(
        600.0, "seconds to wait for a cluster or a disk that is gone before saving and giving up", low=0
    )
    audit_every: int = free(
        256, "aistore: compare one in so many of the ETL's samples with one made here; 0: none", low=0
    )
    fingerprint: str = option(
        "sampled",
        "off|sampled|full: hash what the model sees, pixels of one sample in 16|of all",
        choices=("off", "sampled", "full"),
        changes_result=lambda values: values.get("batches_done") != 0,  # an epoch's is of one kind
    )

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        self.etl.check()
        if self.source == "aistore" and self.endpoint == "embedded":
            require(
                self.embedded_root != "",
                "data.embedded_root is not set: data.endpoint=embedded serves a folder that holds train/ and val/.",
            )
        if self.source == "aistore":
            self._check_buckets()
        if self.source == "imagefolder":
            require(
                self.root != "", "data.root is not set: give the folder that holds train/ and val/, data.root=PATH."
            )
        for name in ("scale", "ratio"):
            require(
                len(getattr(self, name)) == 2, f"data.{name} takes two numbers, [low,high], not {getattr(self, name)}."
            )

    def _check_buckets(self) -> None:
        from aistore_data.bucket.uri import parse_bucket  # here, so that a folder needs no SDK

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
    num_classes: int | None = option(None, "size of the last layer; empty: the classes of the data", low=1)


@dataclass
class TrainConfig:
    """How it is trained."""

    epochs: int = option(
        90, "passes over the training data", low=1, changes_result=_where("optim.schedule", "cosine", "linear")
    )
    """More epochs of the other schedules begin with the same steps."""
    batch_size: int = option(256, "global batch: images in one optimiser step, over all processes", low=1)
    label_smoothing: float = option(0.0, "share of each target that goes to all classes alike", low=0, below=1)
    accumulate: int = option(
        1, "micro-batches in an optimiser step of each process, for batches larger than memory", low=1
    )
    compile: bool = option(False, "torch.compile the model")
    channels_last: bool = option(True, "keep activations in NHWC order")
    checkpoint_every: int = free(0, "write last.pt every N steps too; 0: at the end of each epoch only", low=0)
    checkpoint_every_s: float = free(0.0, "write last.pt every N seconds too; 0: never", low=0)
    keep: int = free(0, "checkpoints of former epochs to keep beside last.pt and best.pt", low=0)
    log_every: int = free(50, "steps between two log lines", low=1)


@dataclass
class OptimConfig:
    """The optimiser and its learning rate. An option of one optimiser or schedule changes nothing of the others."""

    name: str = option("sgd", "sgd|adamw, torch's own", choices=("sgd", "adamw"))
    lr: float = option(0.1, "peak learning rate, for the global batch", low=0)
    momentum: float = option(0.9, "sgd: momentum", low=0, changes_result=_where("optim.name", "sgd"))
    nesterov: bool = option(False, "sgd: Nesterov's momentum", changes_result=_where("optim.name", "sgd"))
    betas: list[float] = option(
        [0.9, 0.999],
        "adamw: decay of the mean gradient and of the mean square, each from 0 to below 1",
        changes_result=_where("optim.name", "adamw"),
    )
    eps: float = option(
        1e-8, "adamw: added to the root of the mean square", low=0, changes_result=_where("optim.name", "adamw")
    )
    weight_decay: float = option(1e-4, "sgd: L2 penalty; adamw: decoupled from the gradient", low=0)
    decay_norms_and_biases: bool = option(True, "apply the weight decay to normalisation layers and biases too")
    clip_norm: float = option(0.0, "scale the gradients of a step down to this norm of all together; 0: off", low=0)
    schedule: str = option(
        "step", "step|cosine|linear|constant, after the warm-up", choices=("step", "cosine", "linear", "constant")
    )
    warmup_epochs: float = option(0.0, "epochs in which the learning rate rises linearly to its peak", low=0)
    warmup_start: float = option(
        0.0,
        "learning rate that the warm-up rises from, with its first step",
        low=0,
        changes_result=lambda values: values.get("optim.warmup_epochs") != 0,
    )
    min_lr: float = option(
        0.0,
        "schedule=cosine or linear: learning rate after the last step",
        low=0,
        changes_result=_where("optim.schedule", "cosine", "linear"),
    )
    step_epochs: int = option(
        30, "schedule=step: epochs between two drops", low=1, changes_result=_where("optim.schedule", "step")
    )
    step_gamma: float = option(
        0.1, "schedule=step: factor of each drop", low=0, changes_result=_where("optim.schedule", "step")
    )

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        require(not self.nesterov or self.momentum > 0, "optim.nesterov=true needs optim.momentum above 0.")
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            f"optim.betas takes two numbers from 0 to below 1, such as [0.9,0.999], not {self.betas}.",
        )
        for name in ("warmup_start", "min_lr"):
            value = getattr(self, name)
            require(value <= self.lr, f"optim.{name}={value:g} must not be more than the peak, optim.lr={self.lr:g}.")


@dataclass
class Config:
    """A run."""

    seed: int = option(0, "of the initial weights, the order of samples and their augmentation")
    run_dir: str = free("runs/${run_id:}", "everything that the run writes; a stable id by default")
    run_mirror: str = free("", "ais://BUCKET/PREFIX that keeps the newest checkpoint and the records; empty: none")
    resume: str = free(
        "auto", "auto: go on from run_dir's last checkpoint if there is one|never: replace it|a checkpoint"
    )
    mode: str = free("train", "train|evaluate", choices=("train", "evaluate"))
    device: str = free("auto", "auto|cpu|cuda", choices=("auto", "cpu", "cuda"))
    precision: str = option(
        "fp32", "fp32|bf16|fp16 (autocast; fp16 with a gradient scaler, on GPUs only)", choices=("fp32", "bf16", "fp16")
    )
    deterministic: bool = option(False, "the same bits on the same GPU at every run, at the cost of some speed")
    allow_changes: bool = free(False, "go on from a checkpoint although configuration, data, code or versions differ")
    threads: int | str = free("auto", "torch's threads in each process; auto: its share of the CPUs", low=1)
    meet_s: float = free(900.0, "several processes: seconds in which all must have come at the start", low=1)
    data: DataConfig = group(DataConfig)
    model: ModelConfig = group(ModelConfig)
    optim: OptimConfig = group(OptimConfig)
    train: TrainConfig = group(TrainConfig)

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        check_texts(self)
        for item, value in values_of(self):
            item.check(value)
        for part in (self.data, self.optim):
            part.check()
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


def describe_options(kind: type[Config] = Config) -> list[tuple[str, str, str]]:
    """(name, default, help) of every option, in order: for ``--help``."""
    return [(item.name, format_value(item.default), item.explained) for item in options_of(kind)]


def format_value(value: Any) -> str:
    """A value as one types it on the command line."""
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(format_value(item) for item in value)}]"
    return str(value).lower() if isinstance(value, bool) else f"{value:.6g}" if isinstance(value, float) else str(value)
