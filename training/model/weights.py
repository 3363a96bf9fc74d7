"""The state dict in a file of weights: found among what else its program saved, under the names of the model."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sources.errors import ConfigError, UserError
from training.model.weights_file import Inert, read_file
from training.state.checkpoint_contents import KEYS

_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict")
"""Keys under which programs keep the averaged weights, which their own evaluation uses."""

_PLACES = ("model", "state_dict", "model_state_dict", "net", "network", "module", "weights")
"""Keys under which programs keep the weights themselves."""

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that torch.compile, FSDP and activation checkpointing leave behind, anywhere in a name."""

_OLD_DENSENET = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var|num_batches_tracked))$"
)
"""Names in torchvision's published files of densenet, from before module names had no dots."""

_LISTED = 5
"""Names of each kind that an error lists."""


@dataclass(frozen=True)
class Weights:
    """The tensors that were found in a file, and what else it says of them."""

    path: Path
    tensors: dict[str, torch.Tensor]
    plain: bool = True
    """Whether the file is a state dict and nothing else."""
    config: dict[str, Any] = field(default_factory=dict)
    """The configuration of the run that made it, if it was one of this trainer."""
    environment: dict[str, Any] = field(default_factory=dict)
    """The environment.json of the run."""
    notes: tuple[str, ...] = ()
    """Sentences on what was chosen."""

    @property
    def ours(self) -> bool:
        """Whether it is a checkpoint of this trainer."""
        return bool(self.config)

    @property
    def model_facts(self) -> dict[str, Any]:
        """What a checkpoint of this trainer records of its model: "classes", "outputs" and "transform_input"."""
        facts = self.environment.get("model")
        return facts if isinstance(facts, dict) else {}


def read_weights(path: Path) -> Weights:
    """The state dict in a file: plain, or where the usual programs keep it. Raises ConfigError with a sentence."""
    content = read_file(path)
    if isinstance(content, Inert):
        raise _whole_object(path, content)
    if _is_state_dict(content):
        return Weights(path, _tensors(content))
    if not isinstance(content, dict):
        raise ConfigError(
            f"model.weights={path} holds a {type(content).__name__} and no state dict, a dict of tensors."
        )
    if all(key in content for key in KEYS) and _is_state_dict(content["model"]):
        config, environment = content["config"], content["environment"]
        if isinstance(config, dict) and isinstance(environment, dict):
            place, note = _better(path, content)
            return Weights(
                path, _tensors(content[place]), plain=False, config=config, environment=environment, notes=note
            )
    found = [key for key in (*_AVERAGED, *_PLACES) if _is_state_dict(content.get(key))]
    found += [key for key, value in content.items() if key not in found and _is_state_dict(value)]
    if not found:
        whole = next((content[key] for key in _PLACES if isinstance(content.get(key), Inert)), None)
        if whole is not None:
            raise _whole_object(path, whole)
        names = ", ".join(str(key)[:40] for key in list(content)[:_LISTED]) or "nothing"
        raise ConfigError(f"model.weights={path} holds no state dict, a dict of tensors; it holds {names}.")
    taken, *others = found
    notes: tuple[str, ...] = ()
    if others:
        others_named = ", ".join(str(other)[:40] for other in others[:_LISTED])
        why = ", the average of the weights, as its program's own evaluation does" if taken in _AVERAGED else ""
        notes = (f"model.weights={path}: taken is {taken}{why}; not taken: {others_named}.",)
    return Weights(path, _tensors(content[taken]), plain=False, notes=notes)


def _better(path: Path, content: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """ "ema" where a checkpoint of ours has averaged weights that its last validation found better, else "model"."""
    if not _is_state_dict(content.get("ema")):
        return "model", ()
    figures = content.get("validation")
    found = [figures.get(name) for name in ("acc1", "ema_acc1")] if isinstance(figures, dict) else []
    own, averaged = (value if isinstance(value, float) else 0.0 for value in found or (None, None))
    taken, left = ("averaged weights", "others") if averaged > own else ("weights", "averaged ones")
    return "ema" if averaged > own else "model", (
        f"model.weights={path}: taken are its {taken}, with acc@1 {max(own, averaged):.2f} at its last validation; the "
        f"{left} had {min(own, averaged):.2f}.",
    )


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value):
        return False
    return any(isinstance(item, torch.Tensor) and item.ndim for item in value.values()) and all(
        isinstance(item, torch.Tensor) or name.endswith("_extra_state") for name, item in value.items()
    )


def _tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in state.items() if isinstance(value, torch.Tensor)}


def _whole_object(path: Path, whole: Inert) -> ConfigError:
    return ConfigError(
        f"model.weights={path} holds a whole object of {whole.named}, not its state dict. To load it would run code "
        "that the file names. In the program that wrote it, save the weights alone: "
        "torch.save(model.state_dict(), PATH)."
    )


def under_own_names(weights: dict[str, torch.Tensor], model: nn.Module) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights under the names that ``model`` uses, and names of the file that belong to no part of it.

    What wrappers put before names is dropped, in any nesting, and so is what a file holds beside the model itself, such
    as a loss's buffers in a checkpoint of Lightning or the count of ``AveragedModel``.
    """
    own = model.state_dict()
    clean = {_WRAPPERS.sub("", name): value for name, value in weights.items()}
    clean = {_OLD_DENSENET.sub(r"\1\2", name): value for name, value in clean.items()}
    prefix = _prefix(clean, own)
    inside = {name.removeprefix(prefix): value for name, value in clean.items() if name.startswith(prefix)}
    return inside, [name for name in clean if not name.startswith(prefix)]


def _prefix(names: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> str:
    """What stands before most of the model's own names; the first in the file among equals."""
    counts: Counter[str] = Counter()
    for name in names:
        # Each end of the name that begins after a dot, or the whole name.
        starts = [0, *(index + 1 for index, character in enumerate(name) if character == ".")]
        counts.update(name[:start] for start in starts if name[start:] in own)
    return counts.most_common(1)[0][0] if counts else ""


def differing_shapes(weights: dict[str, torch.Tensor], model: nn.Module) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Names of the tensors that have another shape in ``model`` than in ``weights`` → (the model's, the weights')."""
    return {
        name: (value.shape, weights[name].shape)
        for name, value in model.state_dict().items()
        if name in weights and weights[name].shape != value.shape
    }


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: str, model_name: str) -> None:
    """Load all of ``weights`` into ``model``. Raises UserError that names what does not fit."""
    own, differing = model.state_dict(), differing_shapes(weights, model)
    if not differing:
        try:
            # torch adds num_batches_tracked, which files from before 0.4.1 lack, and renames what old versions wrote.
            result = model.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise UserError(f"{source} does not fit {model_name}: {str(error).strip().splitlines()[-1]}") from None
        missing, unknown = result.missing_keys, result.unexpected_keys
        if not missing and not unknown:
            return
    else:
        missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
        unknown = [name for name in weights if name not in own]
    shapes = [f"{name} has shape {list(theirs)}, not {list(mine)}" for name, (mine, theirs) in differing.items()]
    problems = _some(shapes) + _some([f"{n} is missing" for n in missing]) + _some([f"{n} is unknown" for n in unknown])
    raise UserError(
        f"{source} does not fit {model_name}: {'; '.join(problems)}. Check model.name: these are weights of another "
        "model, or of one that was made with other options."
    )


def _some(problems: list[str]) -> list[str]:
    more = len(problems) - _LISTED
    return [*problems[:_LISTED], f"and {more:,} more like this"] if more > 0 else problems
