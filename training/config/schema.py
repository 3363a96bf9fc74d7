"""The configuration: every option, its type, default and help, checked once; plain dataclasses from there on."""

import re
from dataclasses import dataclass
from typing import Any

from training.config.data_checks import check_data
from training.config.data_options import DataConfig
from training.config.log_options import LogConfig
from training.config.options import free, group, option, options_of, require, values_of
from training.config.recorded import check_texts
from training.config.train_options import TIMM, EvalConfig, ModelConfig, OptimConfig, TrainConfig


@dataclass
class Config:
    """The options of a run."""

    seed: int = option(0, "seed of the initial weights, of the order of samples and of their augmentation")
    run_dir: str = free(
        "runs/${run_id:}", "the folder that the run writes to; by default named after RUN_ID, the job or the time"
    )
    run_mirror: str = free(
        "", "ais://BUCKET/PREFIX that gets a copy of the newest checkpoint and of the records; empty: none"
    )
    resume: str = free(
        "auto",
        "auto: go on from the last checkpoint in run_dir, if any|never: begin anew and replace it|a checkpoint's path",
    )
    mode: str = free("train", "train|evaluate", choices=("train", "evaluate"))
    device: str = free("auto", "auto|cpu|cuda", choices=("auto", "cpu", "cuda"))
    precision: str = option(
        "fp32", "fp32|bf16|fp16 (autocast; fp16 with a gradient scaler, on GPUs only)", choices=("fp32", "bf16", "fp16")
    )
    deterministic: bool = option(False, "make runs on the same GPU equal bit for bit, at the cost of some speed")
    allow_changes: bool = free(False, "go on from a checkpoint even if configuration, data, code or versions differ")
    threads: int | str = free("auto", "threads of torch in each process; auto: its share of the CPUs", low=1)
    meet_s: float = free(900.0, "several processes: seconds that they wait for each other at the start", low=1)
    data: DataConfig = group(DataConfig)
    model: ModelConfig = group(ModelConfig)
    optim: OptimConfig = group(OptimConfig)
    train: TrainConfig = group(TrainConfig)
    eval: EvalConfig = group(EvalConfig)
    log: LogConfig = group(LogConfig)

    def __post_init__(self) -> None:
        # timm, whose import takes a second, knows it of its models, and weights know it that are evaluated.
        if self.mode == "train" and not self.model.name.startswith(TIMM):
            self.data.settle()

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        check_texts(self)
        for item, value in values_of(self):
            item.check(value)
        check_data(self.data)
        for part in (self.optim, self.train, self.log):
            part.check()
        self._check_labels()
        self.eval.check(self.mode, self.precision, self.data.multilabel)
        last = self.data.sides()[-1:]
        require(
            not last or last[0][0] < self.train.epochs or self.mode != "train",
            f"data.sizes={self.data.sizes} has samples from epoch {last[0][0] if last else 0} on, and train.epochs="
            f"{self.train.epochs} ends before: epochs are counted from 0.",
        )
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

    def _check_labels(self) -> None:
        weights = f"train.class_weights={self.train.class_weights}"
        require(
            not self.data.multilabel or self.train.loss == "bce",
            "data.multilabel=true asks of each class whether a photo shows it, which is the loss of train.loss=bce.",
        )
        if self.train.class_weights != "none":
            require(
                self.data.balance == "none",
                f"{weights} and data.balance={self.data.balance} both make up for classes of different sizes, and "
                "together would favour the small ones: leave one of them out.",
            )
            require(
                not self.data.not_one_class,
                f"{weights} needs one class for each sample, and {self.data.not_one_class}: leave it out.",
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
