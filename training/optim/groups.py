"""Which parameters have which weight decay, and with layer decay which share of the learning rate."""

import fnmatch
import re
from types import SimpleNamespace
from typing import Any

from torch import nn

from sources.errors import ConfigError
from training.config.train_options import OptimConfig

_EMBEDDINGS = ("*class_token", "*pos_embedding", "*relative_position_bias_table")
"""Parameters of torchvision's transformers that go without decay as norms do; a model of timm names its own."""

_BLOCKS: dict[str, dict[str, Any]] = {
    r"encoder\.layers\.encoder_layer_0\.": {
        "stem": r"^(?:class_token|conv_proj|encoder\.pos_embedding)",
        "blocks": [(r"^encoder\.layers\.encoder_layer_(\d+)", None), (r"^encoder\.ln", (99999,))],
    },
    r"layer1\.0\.": {"stem": r"^(?:conv1|bn1)\.", "blocks": r"^layer(\d+)\.(\d+)"},
    r"features\.1\.(0|block|conv)\.": {
        "stem": r"^features\.0\.",
        "blocks": [
            (r"^features\.(\d+)\.(\d+)\.(?!weight|bias)", None),
            *((r"^features\.(\d+)", (0,)), (r"^norm\.", (99999,))),
        ],
    },
}
"""A part of a name that models of torchvision with such blocks have → how timm's ``group_parameters`` tells their
blocks: vision transformers; ResNets; Swin, ConvNeXt, EfficientNet and others in stages."""


def parameter_groups(model: nn.Module, options: OptimConfig, rate: float) -> list[dict[str, Any]]:
    """The groups of the parameters that are trained, each with its ``lr`` and ``weight_decay``.

    Without layer decay they are two: matrices and kernels, and what may go without decay, which is vectors and, where
    it does so, embeddings. ``rate`` is the peak learning rate. Raises ConfigError for a model without blocks to grade.
    """
    exempt = set() if options.decay_norms_and_biases else without_decay(model)
    if options.layer_decay:
        groups = _graded(model, options, exempt)
        return [group | {"lr": rate * group["lr_scale"]} for group in groups]
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    vectors = {name for name, parameter in named if parameter.ndim <= 1} | exempt
    decays = {False: options.weight_decay, True: options.weight_decay if options.decay_norms_and_biases else 0.0}
    groups = [
        {"params": [p for name, p in named if (name in vectors) is apart], "weight_decay": decay, "lr": rate}
        for apart, decay in decays.items()
    ]
    return [group for group in groups if group["params"]]


def without_decay(model: nn.Module) -> set[str]:
    """Names of the parameters that go without decay: vectors, biases, and the embeddings of transformers."""
    own: Any = getattr(model, "no_weight_decay", None)
    patterns = list(own()) if own else list(_EMBEDDINGS)
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim <= 1 or name.endswith(".bias") or any(fnmatch.fnmatch(name, one) for one in patterns)
    }


def _graded(model: nn.Module, options: OptimConfig, exempt: set[str]) -> list[dict[str, Any]]:
    """timm's groups, whose ``lr_scale`` falls from 1 at the head by ``layer_decay`` a block."""
    from timm.optim import param_groups_layer_decay

    matcher = _matcher(model)
    known = SimpleNamespace(named_parameters=model.named_parameters, group_matcher=lambda coarse: matcher)
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        known,  # all that it asks a model for
        weight_decay=options.weight_decay,
        no_weight_decay_list=exempt,
        weight_decay_exclude_1d=False,
        layer_decay=options.layer_decay,
    )
    whole = all(parameter.requires_grad for parameter in model.parameters())
    if whole and options.layer_decay != 1 and len({group["lr_scale"] for group in groups}) == 1:
        raise _no_blocks()
    return groups


def _matcher(model: nn.Module) -> Any:
    """How timm's ``group_parameters`` is to tell the blocks of a model."""
    own: Any = getattr(model, "group_matcher", None)
    if own is not None:
        return own(coarse=False)
    names = [name for name, _ in model.named_parameters()]
    for part, matcher in _BLOCKS.items():
        if any(re.match(part, name) for name in names):
            return matcher
    raise _no_blocks()


def _no_blocks() -> ConfigError:
    return ConfigError(
        "optim.layer_decay: this model has no blocks to which learning rates could be graded. Leave it out, or take a "
        "model in blocks, such as resnet50, vit_b_16 or timm/vit_small_patch16_224."
    )
