"""The edge to Hydra: registers the schema, checks what Hydra composed, and turns its errors into sentences."""

import atexit
import difflib
import functools
import re
import shutil
import tempfile
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from aistore_data.errors import ConfigError
from training.config import Config, describe_options
from training.options import literal
from training.run_id import base_name, hand_out

EXPECTED_ERRORS = (HydraException, OmegaConfBaseException, ValueError)
"""What Hydra raises for a wrong command line."""

_OPTIONS = [name for name, _, _ in describe_options()]
_GROUPS = {name.rpartition(".")[0] for name in _OPTIONS} - {""}

_HELP = """\
Train torchvision's classification models on ImageNet, repeatably.

    python train.py data=imagefolder data.root=/data/imagenet      train/ and val/ in it
    python train.py data=synthetic                                 the model's speed without a loader
    python train.py mode=evaluate model.name=resnet50 model.weights=IMAGENET1K_V1 data.root=/data/imagenet
    torchrun --nproc-per-node=8 train.py data.root=/data/imagenet  eight processes

== Groups (group=choice) ==
{groups}
== Options (name=value; the default is shown) ==
{options}

== Flags ==
$FLAGS_HELP
Exit codes: 0 done, 1 error, 2 wrong usage or configuration, 85 stopped on request and resumable.
"""


def register() -> None:
    """Make the schema and the resolvers known to Hydra."""
    ConfigStore.instance().store(name="schema", node=Config)
    OmegaConf.register_new_resolver("run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("option_help", option_help, replace=True)
    OmegaConf.register_new_resolver("scratch_dir", scratch_dir, replace=True)


def run_id() -> str:
    """A name for the run that is the same on every rank and after a requeue; a sweep adds the job's number."""
    name, stable = base_name()
    return hand_out(name + sweep_suffix(), stable=stable)


def sweep_suffix() -> str:
    """``-3`` in job 3 of a ``--multirun`` sweep, else nothing."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return f"-{HydraConfig.get().job.num}"
    return ""


@functools.cache
def scratch_dir() -> str:
    """A folder for the ``multirun.yaml`` that Hydra's sweeper insists on writing; removed with the process."""
    path = tempfile.mkdtemp(prefix="imagenet-ais-sweep-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def option_help() -> str:
    """The text of ``--help``, from the schema; Hydra fills in ``$FLAGS_HELP``."""
    rows = describe_options()
    width = max(len(f"{name}={default}") for name, default, _ in rows)
    options = "\n".join(f"{f'{name}={default}':<{width}}  {text}" for name, default, text in rows)
    return _HELP.format(groups="$APP_CONFIG_GROUPS", options=options.replace("$", "$$"))


def check(cfg: DictConfig) -> Config:
    """The composed configuration as plain dataclasses. Raises ConfigError for unknown names, wrong types and values.

    Hydra lets ``+name=value`` through even against a schema, so names are compared again here.
    """
    try:
        container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        assert isinstance(container, dict)
        _refuse_unknown(container)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), literal(container)))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from None
    assert isinstance(config, Config)
    config.check()
    if sweep_suffix() and "${" not in str(OmegaConf.to_container(cfg, resolve=False)["run_dir"]):  # type: ignore[call-overload,index]
        config.run_dir += sweep_suffix()
    return config


def explain(error: Exception) -> str:
    """One sentence for an error that Hydra or OmegaConf raised about the command line."""
    if isinstance(error, OverrideParseException) and re.search("=.*[=#]", error.override):
        return f"{error.override!r}: a value with = or # in it is written in quotes, {_quoted(error.override)}."
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is not of the form name=value: python train.py --help lists the options."
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"there is no {group}={name}: choose one of {', '.join(error.options)}."
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = getattr(cause, "full_key", None)
    first = str(cause).strip().splitlines()[0]
    if key in _GROUPS:
        return f"{key} is a group of options: set {' or '.join(_members(key)[:3])}, …"
    if key and ("is not in struct" in first or "not in '" in first):
        return unknown_option(key)
    return f"{key}: {first}." if key else str(error).strip()


def _quoted(override: str) -> str:
    name, _, value = override.partition("=")
    if value.startswith("["):
        items = [f'"{item.strip()}"' for item in value.strip("[]").split(",")]
        return f"'{name}=[{','.join(items)}]'"
    return f"'{name}=\"{value}\"'"


def unknown_option(name: str) -> str:
    """A sentence for an option that does not exist, with the nearest ones that do."""
    leaves: dict[str, list[str]] = {}
    for option in _OPTIONS:
        leaves.setdefault(option.rpartition(".")[2], []).append(option)
    matches = difflib.get_close_matches(name.rpartition(".")[2], leaves, n=3, cutoff=0.6)
    near = [option for match in matches for option in leaves[match]]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "python train.py --help lists them."
    return f"there is no option {name}: {hint}"


def _members(group: str) -> list[str]:
    return [option for option in _OPTIONS if option.startswith(f"{group}.")]


def _refuse_unknown(container: dict[Any, Any], prefix: str = "") -> None:
    for key, value in container.items():
        name = f"{prefix}{key}"
        if name in _GROUPS and isinstance(value, dict):
            _refuse_unknown(value, f"{name}.")
        elif name not in _OPTIONS:
            raise ConfigError(unknown_option(name))
