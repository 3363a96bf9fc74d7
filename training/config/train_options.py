"""The options of the training: the model, its optimiser, and the loop."""

from dataclasses import dataclass

from training.config.options import free, option, require, where


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
        90, "passes over the training data", low=1, changes_result=where("optim.schedule", "cosine", "linear")
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
    momentum: float = option(0.9, "sgd: momentum", low=0, changes_result=where("optim.name", "sgd"))
    nesterov: bool = option(False, "sgd: Nesterov's momentum", changes_result=where("optim.name", "sgd"))
    betas: list[float] = option(
        [0.9, 0.999],
        "adamw: decay of the mean gradient and of the mean square, each from 0 to below 1",
        changes_result=where("optim.name", "adamw"),
    )
    eps: float = option(
        1e-8, "adamw: added to the root of the mean square", low=0, changes_result=where("optim.name", "adamw")
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
        changes_result=where("optim.schedule", "cosine", "linear"),
    )
    step_epochs: int = option(
        30, "schedule=step: epochs between two drops", low=1, changes_result=where("optim.schedule", "step")
    )
    step_gamma: float = option(
        0.1, "schedule=step: factor of each drop", low=0, changes_result=where("optim.schedule", "step")
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
