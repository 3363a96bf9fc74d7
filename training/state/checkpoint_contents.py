"""What a checkpoint must hold to be gone on from, checked once when it is loaded; from there on it is trusted.

The checks raise ValueError with half a sentence that names the entry, what it holds and what belongs there.
"""

import dataclasses
import math
from typing import Any

import torch

from sources.batch import Counts
from training.config.options import with_present_names
from training.config.train_options import TIMM
from training.report.metrics import IntervalMetrics
from training.state.progress import Progress

FORMAT = 2
"""The format that this version writes. ``migrated`` converts an older one, and a newer one is refused."""

KEYS = ("model", "optimizer", "schedule", "epoch", "batches_done", "best_acc1", "config", "environment")
"""Without these it is no checkpoint of this trainer."""

_COUNTS = ("step", "mu_product", "use_muon")
"""What optimisers keep of a parameter that has not its shape."""

_MOST_VALUES = 100_000
_DEEPEST = 16
_HUGE = 1 << 63


def migrated(state: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint as this version would have written it: what its version did not know is as at the beginning."""
    values = dataclasses.asdict(Progress()) | {"scaler": {}, "steps_per_epoch": None, "format": FORMAT} | state
    for name in ("epoch_tally", "interval_tally"):
        if isinstance(values[name], dict):
            values[name] = dataclasses.asdict(IntervalMetrics()) | values[name]
    for name in ("counts", "counts_before"):
        if isinstance(values[name], list | tuple):  # a version that counted less knows of none
            values[name] = [*values[name], *[0] * (len(Counts()) - len(values[name]))]
    if isinstance(values["config"], dict):
        values["config"] = with_present_names(values["config"])
    return values


def check_format(state: dict[str, Any]) -> None:
    """Raise ValueError for a checkpoint of a newer version."""
    number = state.get("format", 1)
    _require(_is_int(number, 1), "format", number, "a whole number from 1")
    if number > FORMAT:
        raise ValueError(
            f"it has format {number}, and this version reads formats up to {FORMAT}: a newer version wrote it, go on "
            "with that"
        )


def check(state: dict[str, Any]) -> None:
    """Raise ValueError unless a migrated checkpoint holds what it must."""
    for name in ("model", "optimizer", "schedule", "scaler", "config", "environment", "validation"):
        _require(isinstance(state[name], dict), name, state[name], "a dict")
    for name in ("config", "environment", "validation", "changes"):
        _require_plain(name, state[name])
    _require(len(state["model"]) > 0, "model", state["model"], "the model's tensors")
    for where in ("model", "ema") if "ema" in state else ("model",):
        _require(isinstance(state[where], dict), where, state[where], "a dict")
        for name, tensor in state[where].items():
            _require(isinstance(name, str), where, name, "tensors by their names")
            _require(_is_dense(tensor), f"{where}.{name}", tensor, "a tensor")
    _check_optimizer(state["optimizer"])
    scaler = state["scaler"]  # of fp16; empty with any other precision
    for name in ("scale", "growth_factor", "backoff_factor") if scaler else ():
        value = scaler.get(name)
        _require(_is_number(value) and value > 0, f"scaler.{name}", value, "a number above 0")
    for name in ("growth_interval", "_growth_tracker") if scaler else ():
        _require(_is_int(scaler.get(name), 0), f"scaler.{name}", scaler.get(name), "a whole number from 0")
    groups = {"config": ("data", "model", "optim", "train"), "environment": ("content", "data", "versions")}
    for where, names in groups.items():
        for name in names:
            part = state[where].get(name, {})
            _require(isinstance(part, dict), f"{where}.{name}", part, "a dict")
    _check_position(state)
    _check_progress(state)


def check_fits(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], optimizer_name: str
) -> None:
    """Raise ValueError unless a checkpoint that ``check`` has seen is of these parameters and this optimiser.

    Names and shapes of the model's tensors are compared where they are loaded.
    """
    for name, tensor in model.state_dict().items():
        for where in ("model", "ema"):
            theirs = state.get(where, {}).get(name, tensor)
            if theirs.dtype != tensor.dtype:
                raise ValueError(f"its {where}.{name} is {theirs.dtype}, and the model's is {tensor.dtype}")
    optim = state["config"].get("optim")
    theirs = optim.get("name", "sgd") if isinstance(optim, dict) else "sgd"  # there was no other one once
    if theirs != optimizer_name:
        raise ValueError(
            f"its optimizer is {_short(theirs)}, and optim.name={optimizer_name}: give it as model.weights "
            "to begin with its weights alone"
        )
    _check_optimizer_fits(optimizer, state["optimizer"], exact=not optimizer_name.startswith(TIMM))


def _check_optimizer_fits(optimizer: torch.optim.Optimizer, state: dict[str, Any], exact: bool) -> None:
    """``exact``: whether what it keeps of a parameter has its shape, but for ``_COUNTS``; timm's others have many."""
    groups, theirs = optimizer.param_groups, state["param_groups"]
    sizes, their_sizes = [len(group["params"]) for group in groups], [len(group["params"]) for group in theirs]
    if sizes != their_sizes:
        raise ValueError(f"its optimizer.param_groups have {their_sizes} parameters, and the model's have {sizes}")
    own = [parameter for group in groups for parameter in group["params"]]
    numbers = [number for group in theirs for number in group["params"]]
    if len(set(numbers)) != len(numbers) or not set(state["state"]) <= set(numbers):
        raise ValueError("its optimizer.state is of other parameters than optimizer.param_groups")
    for number, parameter in zip(numbers, own, strict=True):
        for name, value in state["state"].get(number, {}).items() if exact else ():
            shape = list(value.shape) if isinstance(value, torch.Tensor) else _short(value)
            if name not in _COUNTS and value is not None and shape != list(parameter.shape):
                raise ValueError(f"its optimizer.state.{number}.{name} is {shape}, and not {list(parameter.shape)}")


def _check_optimizer(optimizer: dict[str, Any]) -> None:
    entries, groups = optimizer.get("state"), optimizer.get("param_groups")
    _require(isinstance(entries, dict), "optimizer.state", entries, "a dict")
    _require(isinstance(groups, list) and len(groups) > 0, "optimizer.param_groups", groups, "a list of groups")
    assert isinstance(entries, dict) and isinstance(groups, list)
    for number, values in entries.items():
        name = f"optimizer.state.{number}"
        _require(_is_int(number, 0), "optimizer.state", number, "numbers of parameters")
        _require(isinstance(values, dict), name, values, "a dict")
        for key, value in values.items():
            fits = value is None or isinstance(value, bool) or _is_dense(value) or _is_number(value)
            _require(isinstance(key, str) and fits, f"{name}.{key}", value, "a tensor or a number")
    for group in groups:
        _require(isinstance(group, dict), "optimizer.param_groups", group, "groups, each a dict")
        numbers = group.get("params")
        _require(_are_ints(numbers), "optimizer.param_groups.params", numbers, "numbers of parameters")
        settings = {name: value for name, value in group.items() if name != "params" and not _is_count(value)}
        _require_plain("optimizer.param_groups", settings)


def _is_count(value: Any) -> bool:
    """Whether it is a number as a tensor, as lamb counts the steps of a group."""
    return _is_dense(value) and value.ndim == 0


def _check_position(state: dict[str, Any]) -> None:
    epochs = state["config"].get("train", {}).get("epochs")
    most = epochs if _is_int(epochs, 1) else 1_000_000
    epoch, batches, steps = state["epoch"], state["batches_done"], state["steps_per_epoch"]
    _require(_is_int(epoch, 0, most), "epoch", epoch, f"a whole number from 0 to {most}, its train.epochs")
    _require(steps is None or _is_int(steps, 1, _HUGE), "steps_per_epoch", steps, "a whole number from 1")
    bound = _HUGE if steps is None else steps
    _require(_is_int(batches, 0, bound), "batches_done", batches, f"a whole number from 0 to {bound}")


def _check_progress(state: dict[str, Any]) -> None:
    best = state["best_acc1"]
    _require(_is_number(best) and 0 <= best <= 100, "best_acc1", best, "a percentage")
    weights = state["best_weights"]
    _require(weights in ("model", "ema"), "best_weights", weights, "model or ema")
    _require(_is_number(state["train_s"]) and state["train_s"] >= 0, "train_s", state["train_s"], "seconds")
    for name in ("counts", "counts_before"):
        counts = state[name]
        fits = _are_ints(counts, _HUGE) and len(counts) == len(Counts())
        _require(fits, name, counts, f"{len(Counts())} whole numbers from 0")
    _require(_are_ints(state["replaced"]), "replaced", state["replaced"], "indices of samples")
    total = state["stream_total"]
    _require(_is_int(total, -1, (1 << 128) - 1), "stream_total", total, "a whole number below 2**128")
    changes = state["changes"]
    fits = isinstance(changes, list) and all(isinstance(change, dict) for change in changes)
    _require(fits, "changes", changes, "a list of dicts")
    for name in ("epoch_tally", "interval_tally"):
        tally = state[name]
        _require(isinstance(tally, dict), name, tally, "a dict")
        sums = tally["sums"]
        fits = _is_dense(sums) and sums.dtype == torch.float64 and sums.shape == (4,)
        _require(fits, f"{name}.sums", sums, "four float64")
        for part in ("seconds", "wait_s"):
            _require(_is_number(tally[part]) and tally[part] >= 0, f"{name}.{part}", tally[part], "seconds")
        _require(_is_int(tally["norms"], 0, _HUGE), f"{name}.norms", tally["norms"], "a whole number from 0")
        fits = _is_number(tally["norm_sum"]) and tally["norm_sum"] >= 0
        _require(fits, f"{name}.norm_sum", tally["norm_sum"], "a sum of norms")
        _require(isinstance(tally["fingerprint"], str), f"{name}.fingerprint", tally["fingerprint"], "text")
    since = state["since_best"]
    _require(_is_int(since, 0, _HUGE), "since_best", since, "a whole number from 0")
    options = state["config"].get("eval")
    every = options.get("every", 1) if isinstance(options, dict) else 1
    validated = state["epoch"] >= (every if _is_int(every, 1) else 1)
    figures = {name: state["validation"].get(name) for name in ("loss", "acc1", "acc5")} if validated else {}
    for name, value in figures.items():
        fits = type(value) is float or _is_number(value)  # not finite, if it diverged
        _require(fits, f"validation.{name}", value, "a number")


def _require_plain(name: str, content: Any) -> None:
    """Raise ValueError for anything but dicts by text, lists, text, numbers and None, or for endlessly many of them."""
    left, waiting = _MOST_VALUES, [(name, content, 0)]
    while waiting:
        place, value, depth = waiting.pop()
        left -= 1
        if depth > _DEEPEST or left < 0:
            raise ValueError(f"{name} is too large or too deep to be what a run records")
        if isinstance(value, dict):
            for key, item in value.items():
                _require(isinstance(key, str), place, key, "entries by their names")
                waiting.append((f"{place}.{key}"[:200], item, depth + 1))
        elif isinstance(value, list | tuple):
            waiting += [(place, item, depth + 1) for item in value]
        else:
            fits = value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) < _HUGE)
            _require(fits, place, value, "a plain value")


def _is_int(value: Any, low: int, high: int | None = None) -> bool:
    return type(value) is int and value >= low and (high is None or value <= high)


def _are_ints(value: Any, high: int | None = None) -> bool:
    return isinstance(value, list) and all(_is_int(item, 0, high) for item in value)


def _is_number(value: Any) -> bool:
    return _is_int(value, -_HUGE, _HUGE) or (type(value) is float and math.isfinite(value))


def _is_dense(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"


def _require(condition: bool, name: str, value: Any, wanted: str) -> None:
    if not condition:
        raise ValueError(f"its {name} is {_short(value)}, which is not {wanted}")


def _short(value: Any) -> str:
    """A value in a few words; what is large is told by its kind alone, since writing it down could take for ever."""
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else "a number of more than 64 bits"
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"
