"""The options of the training: the model, its optimiser, and the loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from training.config.options import free, option, require, where

_SMALLEST_ALPHA = 0.01


def _is_mixed(values: Mapping[str, Any]) -> bool:
    return values.get("train.mixup") != 0 or values.get("train.cutmix") != 0


@dataclass
class ModelConfig:
    """The options of the model."""

    name: str = option("resnet18", "any classification model of torchvision.models, or timm/NAME of timm")
    weights: str = option(
        "",
        "weights to begin with: a name of torchvision (IMAGENET1K_V1), timm or a tag for timm/NAME, or a file; "
        "empty: random weights",
    )
    head: str = option(
        "auto",
        "auto: a new classifier if the weights are for other classes than the data|keep: the classifier of the "
        "weights|new: always a new classifier",
        choices=("auto", "keep", "new"),
        changes_result=lambda values: bool(values.get("model.weights")),
    )
    num_classes: int | None = option(None, "outputs of the classifier; empty: one for each class of the data", low=1)
    drop_path: float | None = option(
        None, "stochastic depth: probability of skipping the last block; empty: the model's default", low=0, below=1
    )
    dropout: float | None = option(
        None, "dropout probability before the classifier; empty: the model's default", low=0, below=1
    )
    kwargs: list[str] = option(
        [], "timm/NAME: further arguments for timm.create_model, NAME=VALUE, such as aa_layer=blurpool"
    )


@dataclass
class TrainConfig:
    """The options of the training."""

    epochs: int = option(
        90, "passes over the training data", low=1, changes_result=where("optim.schedule", "cosine", "linear")
    )
    """More epochs of the other schedules begin with the same steps."""
    batch_size: int = option(256, "images in an optimiser step, over all processes (the global batch)", low=1)
    loss: str = option("ce", "ce (cross entropy)|bce (binary cross entropy of each class)", choices=("ce", "bce"))
    class_weights: str = option(
        "none",
        "none|balanced: weight a sample's loss by n / (classes * n_class), for classes of different sizes",
        choices=("none", "balanced"),
    )
    label_smoothing: float = option(0.0, "share of each target that is spread evenly over all classes", low=0, below=1)
    bce_threshold: float = option(
        0.0,
        "loss=bce: targets above this become 1 and all others 0; 0: targets stay as they are",
        low=0,
        below=1,
        changes_result=where("train.loss", "bce"),
    )
    mixup: float = option(0.0, "mixup: alpha of the distribution Beta(alpha, alpha) of the mixing ratio; 0: off")
    cutmix: float = option(0.0, "CutMix, which pastes a box of another sample: its alpha; 0: off")
    mix_prob: float = option(1.0, "share of the batches that are mixed", low=0, high=1, changes_result=_is_mixed)
    mix_switch: float = option(
        0.5,
        "share of the mixed batches that use CutMix, if mixup and cutmix are both on",
        low=0,
        high=1,
        changes_result=lambda values: values.get("train.mixup") != 0 and values.get("train.cutmix") != 0,
    )
    random_erasing: float = option(0.0, "share of the training samples in which a box is erased", low=0, high=1)
    repeated_augmentation: int = option(
        1, "augmented views of each image in a global batch; with N views an epoch visits one in N images", low=1
    )
    ema_decay: float = option(
        0.0,
        "decay of the averaged weights (EMA) at each update; 0: keep no averaged weights",
        low=0,
        below=1,
    )
    ema_every: int = option(
        1,
        "steps between two updates of the averaged weights",
        low=1,
        changes_result=lambda values: values.get("train.ema_decay") != 0,
    )
    accumulate: int = option(
        1, "micro-batches of each process in an optimiser step, for a batch that does not fit into memory", low=1
    )
    freeze: str = option(
        "nothing",
        "nothing|head: train the last layer alone|patterns of the parameters to freeze, such as layer1.*,bn1.*",
    )
    stop_after: int = free(
        0, "stop early: validations in a row without a better acc@1 after which training ends; 0: off", low=0
    )
    profile: int = free(0, "steps near the start that torch's profiler traces; 0: none", low=0)
    compile: bool = option(False, "compile the model with torch.compile")
    channels_last: bool = option(True, "store activations in the channels-last memory format (NHWC)")
    checkpoint_every: int = free(0, "also write last.pt every N steps; 0: at the end of each epoch only", low=0)
    checkpoint_every_s: float = free(0.0, "also write last.pt every N seconds; 0: off", low=0)
    keep: int = free(0, "epochs whose checkpoints are kept beside last.pt and best.pt, the newest ones", low=0)
    log_every: int = free(50, "steps between two log lines", low=1)

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed with each other, two by two."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        views = self.repeated_augmentation
        require(
            self.batch_size % views == 0 and (views == 1 or self.batch_size > views),
            f"train.batch_size={self.batch_size} cannot hold train.repeated_augmentation={views} views of each of "
            f"several images: choose a multiple of {views}, {2 * views} or more.",
        )
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            require(
                value == 0 or _SMALLEST_ALPHA <= value <= 1,
                f"train.{name}={value:g} must be 0, which is off, or an alpha from {_SMALLEST_ALPHA:g} to 1.",
            )


EVAL_CLASSES = ("auto", "all", "data", "r", "a")
"""Words for the classes that are possible answers."""


@dataclass
class EvalConfig:
    """When and how it is validated."""

    every: int = free(
        1, "epochs between two validations; the last epoch always has one, and best.pt is the best of them", low=1
    )
    ema: str = option(
        "auto",
        "averaged weights: auto (validate them too, and choose best.pt by the better of the two)|off",
        choices=("auto", "off"),
        changes_result=lambda values: values.get("train.ema_decay") != 0,
    )
    flip: bool = free(False, "mode=evaluate: average the logits of each photo and of its mirror image")
    classes: str = free(
        "auto",
        "mode=evaluate: classes that count as answers: auto (all, or the 200 of ImageNet-R or -A for their folders)|"
        "all|data (those of the folders)|r (ImageNet-R)|a (ImageNet-A)|a file that lists them",
    )
    labels: str = free(
        "",
        "mode=evaluate: a JSON file with the right classes of each photo of ILSVRC2012_val, such as ReaL's real.json",
    )
    predictions: str = free(
        "none",
        "mode=evaluate: none|csv|parquet: write each photo's five most probable classes",
        choices=("none", "csv", "parquet"),
    )
    compare_precision: str = free(
        "none",
        "mode=evaluate: none|fp32|bf16|fp16: predict in this precision too, and count predictions that differ",
        choices=("none", "fp32", "bf16", "fp16"),
    )

    def check(self, mode: str, precision: str, multilabel: bool) -> None:
        """Raise ConfigError for values that make no sense in a run of this mode and precision, on such labels."""
        for name in ("flip", "classes", "labels", "predictions", "compare_precision"):
            value = getattr(self, name)
            shown = str(value).lower() if isinstance(value, bool) else value
            default = value == getattr(EvalConfig, name)
            require(
                mode == "evaluate" or default,
                f"eval.{name}={shown} is for mode=evaluate, and a run that trains does not take it: leave it out.",
            )
            require(
                not multilabel or default,
                f"eval.{name}={shown} is for photos of one class, and data.multilabel=true has several: leave it out.",
            )
        require(
            self.compare_precision != precision,
            f"eval.compare_precision={precision} is the precision of the run already: choose another one of the two.",
        )


OPTIMIZER_DEFAULTS: dict[str, dict[str, Any]] = {
    "sgd": {"momentum": 0.9},
    "adamw": {"betas": [0.9, 0.999], "eps": 1e-8},
    "nadamw": {"betas": [0.9, 0.999], "eps": 1e-8},
    "rmsprop": {"momentum": 0.9, "alpha": 0.99, "eps": 1e-8},
    "muon": {"momentum": 0.95, "betas": [0.9, 0.95], "eps": 1e-7},
    "lamb": {"betas": [0.9, 0.999], "eps": 1e-6},
}
"""Name of an optimiser → its own options, and what they are where nothing is said."""

TIMM = "timm/"
"""What ``optim.name`` and ``model.name`` begin with for one that timm alone knows."""


def _of_optimizers(*names: str) -> Callable[[Mapping[str, Any]], bool]:
    """An option changes the result for these optimisers, and for any that timm alone knows."""
    return lambda values: values.get("optim.name") in names or str(values.get("optim.name")).startswith(TIMM)


@dataclass
class OptimConfig:
    """The optimiser and its learning rate. An option of one optimiser or schedule changes nothing of the others."""

    name: str = option(
        "sgd", "sgd|adamw|nadamw|rmsprop of torch, muon|lamb of timm, or another one of timm's, timm/NAME"
    )
    lr: float = option(0.1, "peak learning rate for the global batch", low=0)
    reference_batch: int = option(
        0, "the batch size that lr is meant for; lr is scaled linearly to batch_size; 0: do not scale", low=0
    )
    momentum: float | None = option(
        None,
        "sgd, rmsprop, muon: momentum; empty: 0.9, and 0.95 for muon",
        low=0,
        changes_result=_of_optimizers("sgd", "rmsprop", "muon"),
    )
    nesterov: bool = option(
        False, "sgd, muon: use Nesterov momentum", changes_result=where("optim.name", "sgd", "muon")
    )
    betas: list[float] | None = option(
        None,
        "adamw, nadamw, lamb, and the vectors of muon: decay of the running means of the gradient and of its square, "
        "each from 0 to below 1; empty: [0.9,0.999], and [0.9,0.95] for muon",
        changes_result=_of_optimizers("adamw", "nadamw", "muon", "lamb"),
    )
    eps: float | None = option(
        None,
        "added to the denominator of the update; empty: 1e-8, 1e-6 for lamb, 1e-7 for muon",
        low=0,
        changes_result=_of_optimizers("adamw", "nadamw", "rmsprop", "muon", "lamb"),
    )
    alpha: float | None = option(
        None,
        "rmsprop: decay of the running mean of the squared gradient; empty: 0.99",
        low=0,
        below=1,
        changes_result=where("optim.name", "rmsprop"),
    )
    weight_decay: float = option(
        1e-4,
        "weight decay: an L2 penalty for sgd and rmsprop, decoupled for adamw, nadamw and muon, in the update for lamb",
        low=0,
    )
    decay_norms_and_biases: bool = option(True, "also decay norms, biases, position embeddings and class tokens")
    layer_decay: float = option(
        0.0,
        "fine-tuning: factor from a block's learning rate to that of the block before it, by timm's rule; 0: off",
        low=0,
        high=1,
    )
    clip_norm: float = option(0.0, "clip the global norm of a step's gradients to this value; 0: off", low=0)
    schedule: str = option(
        "step",
        "schedule after the warm-up: step|cosine|linear|constant",
        choices=("step", "cosine", "linear", "constant"),
    )
    warmup_epochs: float = option(0.0, "epochs of linear warm-up", low=0)
    warmup_start: float = option(
        0.0,
        "learning rate of the first step of the warm-up",
        low=0,
        changes_result=lambda values: values.get("optim.warmup_epochs") != 0,
    )
    min_lr: float = option(
        0.0,
        "schedule=cosine or linear: learning rate at the end",
        low=0,
        changes_result=where("optim.schedule", "cosine", "linear"),
    )
    step_epochs: int = option(
        30, "schedule=step: epochs between two drops", low=1, changes_result=where("optim.schedule", "step")
    )
    step_gamma: float = option(
        0.1, "schedule=step: factor of each drop", low=0, changes_result=where("optim.schedule", "step")
    )

    def __post_init__(self) -> None:
        for name, value in OPTIMIZER_DEFAULTS.get(self.name, {}).items():
            if getattr(self, name) is None:
                setattr(self, name, list(value) if isinstance(value, list) else value)

    def peak(self, batch_size: int) -> float:
        """The peak learning rate for a global batch."""
        return self.lr * batch_size / self.reference_batch if self.reference_batch else self.lr

    def check(self) -> None:
        """Raise ConfigError for values that make no sense."""
        known = ", ".join(OPTIMIZER_DEFAULTS)
        require(
            self.name in OPTIMIZER_DEFAULTS or (self.name.startswith(TIMM) and self.name != TIMM),
            f"optim.name must be one of {known}, or {TIMM}NAME for another one of timm's, not {self.name!r}."
            + (" Several values are a sweep: add --multirun." if "," in self.name else ""),
        )
        require(not self.nesterov or self.momentum != 0, "optim.nesterov=true needs optim.momentum above 0.")
        several = 2 if self.name in OPTIMIZER_DEFAULTS else None
        require(
            self.betas is None
            or (len(self.betas) == (several or len(self.betas)) and all(0 <= beta < 1 for beta in self.betas)),
            f"optim.betas takes two numbers from 0 to below 1, such as [0.9,0.999], not {self.betas}.",
        )
        for name in ("warmup_start", "min_lr"):
            value = getattr(self, name)
            require(value <= self.lr, f"optim.{name}={value:g} must not be more than the peak, optim.lr={self.lr:g}.")
