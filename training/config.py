"""The configuration: every option, its type, default and help, checked once; plain dataclasses from there on."""

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aistore_data.errors import ConfigError


def option(default: Any, help: str) -> Any:
    """A dataclass field with a line of help."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


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

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        one_of("data.etl.manage", self.manage, ("auto", "reuse"))
        one_of("data.etl.on_exit", self.on_exit, ("auto", "keep", "stop"))
        one_of("data.etl.comm_type", self.comm_type, ("hpush", "hpull"))
        auto_or_int("data.etl.num_workers", self.num_workers, 1)
        at_least("data.etl.init_timeout_s", self.init_timeout_s, 1)
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
    bucket: str = option("ais://imagenet", "aistore: the bucket that holds both splits")
    train_prefix: str = option("train/", "aistore: what the names of training objects begin with")
    val_prefix: str = option("val/", "aistore: what the names of validation objects begin with")
    embedded_root: str = option("", "endpoint=embedded: the folder with train/ and val/ to serve; it is never changed")
    embedded_layout: str = option("folders", "endpoint=embedded: folders (CLASS/x.JPEG)|pairs (0000353.jpg and .cls)")
    transform: str = option("etl", "aistore: etl (the cluster makes the samples)|client (this machine does)")
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
    fingerprint: str = option(
        "sampled", "off|sampled|full: hash what the model sees, pixels of one sample in 16|of all"
    )

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        one_of("data.source", self.source, ("imagefolder", "aistore", "synthetic"))
        one_of("data.transform", self.transform, ("etl", "client"))
        one_of("data.wire", self.wire, ("raw", "jpeg"))
        one_of("data.embedded_layout", self.embedded_layout, ("folders", "pairs"))
        self.etl.check()
        if self.source == "aistore" and self.endpoint == "embedded":
            require(
                self.embedded_root != "",
                "data.embedded_root is not set: data.endpoint=embedded serves a folder that holds train/ and val/.",
            )
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
class Config:
    """A run."""

    seed: int = option(0, "of the initial weights, the order of samples and their augmentation")
    run_dir: str = option("runs/${run_id:}", "everything that the run writes; a stable id by default")
    resume: str = option(
        "auto", "auto: go on from run_dir's last checkpoint if there is one|never: replace it|a checkpoint"
    )
    mode: str = option("train", "train|evaluate")
    device: str = option("auto", "auto|cpu|cuda")
    precision: str = option("fp32", "fp32|bf16|fp16 (autocast; fp16 with a gradient scaler, on GPUs only)")
    deterministic: bool = option(False, "the same bits on the same GPU at every run, at the cost of some speed")
    allow_changes: bool = option(False, "go on from a checkpoint although configuration, data, code or versions differ")
    threads: int | str = option("auto", "torch's threads in each process; auto: its share of the CPUs")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        for part in (self.data, self.model, self.train):
            part.check()
        one_of("mode", self.mode, ("train", "evaluate"))
        one_of("device", self.device, ("auto", "cpu", "cuda"))
        one_of("precision", self.precision, ("fp32", "bf16", "fp16"))
        auto_or_int("threads", self.threads, 1)
        require(0 <= self.seed < 1 << 63, f"seed must be from 0 to 2**63 - 1, not {self.seed}.")
        require(self.run_dir != "", "run_dir is empty: name the folder that the run writes to.")
        require(
            self.mode == "train" or self.model.weights != "",
            "mode=evaluate needs model.weights: a torchvision weights name such as IMAGENET1K_V1, or a file.",
        )


def require(condition: bool, message: str) -> None:
    """Raise ConfigError(message) unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ConfigError unless ``value`` is one of ``choices``."""
    choices = tuple(choices)
    require(value in choices, f"{name} must be one of {', '.join(choices)}, not {value!r}.")


def at_least(name: str, value: float, low: float) -> None:
    """Raise ConfigError for a value below ``low``."""
    require(value >= low, f"{name} must be {low} or more, not {value}.")


def auto_or_int(name: str, value: int | str, low: int) -> None:
    """Raise ConfigError unless ``value`` is "auto" or an integer of at least ``low``."""
    require(value == "auto" or isinstance(value, int), f"{name} must be auto or a number, not {value!r}.")
    if value != "auto":
        at_least(name, int(value), low)


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
