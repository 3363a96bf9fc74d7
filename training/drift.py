"""No silent drift: a run that goes on must be the run that was begun, or say that it is not.

A run is a function of configuration, data, code and versions, so these are compared with those of the checkpoint. What
only decides where samples come from, what is recorded, or how fast it goes may change freely. The number of processes
and of threads and the device may change too, since the stream of samples stays the same; but they change the order in
which floats are added, which is worth a line.
"""

from dataclasses import dataclass
from typing import Any

_FREE = (
    *("run_dir", "run_mirror", "resume", "mode", "allow_changes", "device", "threads", "meet_s", "submit"),
    *("data.source", "data.root", "data.endpoint", "data.bucket", "data.val_bucket"),
    *(
        "data.train_prefix",
        "data.val_prefix",
        "data.embedded_root",
        "data.embedded_layout",
        "data.transform",
        "data.etl",
        "data.workers",
        "data.prefetch",
    ),
    *("train.checkpoint_every", "train.checkpoint_every_s", "train.keep", "train.log_every"),
)
"""Options that do not change the result; data are compared by their hash, device and threads as they turned out."""

_VERSIONS = ("torch", "torchvision", "numpy", "pillow", "libjpeg_turbo", "sample", "cuda", "cudnn")
_ROUNDING = ("world_size", "threads", "device")


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was."""

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: {_short(self.before)} → {_short(self.now)}"


def changes_of_result(before: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """What makes another run of it; both sides are {"config": …, "environment": …} of a checkpoint."""
    free: tuple[str, ...] = _FREE
    if before["config"]["train"]["schedule"] == now["config"]["train"]["schedule"] == "step":
        free = (*free, "train.epochs")  # more epochs of the same steps; a cosine would be another one
    return [
        difference
        for difference in _compare(_decisive(before), _decisive(now))
        if not any(difference.name == name or difference.name.startswith(f"{name}.") for name in free)
    ]


def changes_of_rounding(before: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    """What leaves the stream of samples as it is, but may change the last bits of the weights."""
    return _compare(*({name: side["environment"][name] for name in _ROUNDING} for side in (before, now)))


def _decisive(side: dict[str, Any]) -> dict[str, Any]:
    environment = side["environment"]
    parts = {f"data set {split}": environment["data"].get(split, {}) for split in ("train", "val")}
    versions = {name: environment["versions"].get(name) for name in _VERSIONS}
    return flatten(side["config"]) | flatten(parts) | {"sample code": environment["sample_code"]} | versions


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted names."""
    flat = {}
    for name, value in tree.items():
        flat.update(flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat


def _compare(before: dict[str, Any], now: dict[str, Any]) -> list[Difference]:
    names = [*before, *(name for name in now if name not in before)]
    pairs = [Difference(name, before.get(name), now.get(name)) for name in names]
    return [pair for pair in pairs if pair.before != pair.now]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
