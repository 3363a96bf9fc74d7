"""The edge to Hydra: registers the schema, checks what Hydra composed, and turns its errors into sentences."""

import atexit
import functools
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from sources.disk import scratch_folder
from sources.errors import ConfigError, chain
from training.config.files import watch_hydra
from training.config.options import Names, literal
from training.config.overrides import PATHS, expand_user
from training.config.schema import Config, describe_options
from training.run_dir.run_id import base_name, hand_out

EXPECTED_ERRORS = (HydraException, OmegaConfBaseException, ValueError, ConfigError)
"""What Hydra raises for a wrong command line."""

_HELP = """\
Train torchvision's and timm's classification models on ImageNet, repeatably.

    python train.py data=imagefolder data.root=/data/imagenet      train/ and val/ in it
    python train.py data=synthetic                                 the model's speed without a loader
    python train.py mode=evaluate model.name=resnet50 model.weights=IMAGENET1K_V1 data.root=/data/imagenet
    torchrun --nproc-per-node=8 train.py data.root=/data/imagenet  eight processes
    python -m scripts.submit slurm|k8s data.root=/data/imagenet    a job with the same options; its own: --help

== Groups (group=choice) ==
{groups}
== Options (name=value; the default is shown; ~: it changes no result, and may change when a run goes on) ==
{options}

== Flags ==
$FLAGS_HELP
Exit codes: 0 done, 1 error, 2 wrong usage or configuration, 85 stopped on request and resumable.
"""


def register(schema: type[Config] = Config) -> None:
    """Make the schema and the resolvers known to Hydra; ``schema`` has at least the options of a run."""
    watch_hydra(_names)
    ConfigStore.instance().store(name="schema", node=schema)
    OmegaConf.register_new_resolver("run_id", run_id, replace=True)
    OmegaConf.register_new_resolver("option_help", option_help, replace=True)
    OmegaConf.register_new_resolver("scratch_dir", scratch_dir, replace=True)
    for name in ("oc.env", "oc.decode"):
        OmegaConf.register_new_resolver(name, functools.partial(_refuse_resolver, name), replace=True)


def _schema() -> type[Config]:
    """Return the dataclass that is registered with Hydra."""
    return OmegaConf.get_type(ConfigStore.instance().load("schema.yaml").node)  # type: ignore[return-value]


def _names() -> Names:
    return Names(_schema())


def _refuse_resolver(name: str, *arguments: Any) -> None:
    raise ConfigError(
        f"${{{name}:…}} is not taken: its value would be recorded with the run, in config.yaml and every checkpoint. "
        "Write the value itself; secrets belong in the environment, where AIS_AUTHN_TOKEN and the like are read."
    )


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
    stack = ExitStack()
    atexit.register(stack.close)
    return str(stack.enter_context(scratch_folder()))


def option_help() -> str:
    """The text of ``--help``, from the schema; Hydra fills in ``$FLAGS_HELP``."""
    return _HELP.format(groups="$APP_CONFIG_GROUPS", options=table(describe_options()).replace("$", "$$"))


def table(rows: Sequence[tuple[str, str, str]]) -> str:
    """(name, default, help) of options, one in a line."""
    width = max(len(f"{name}={default}") for name, default, _ in rows)
    return "\n".join(f"{f'{name}={default}':<{width}}  {text}" for name, default, text in rows)


def check(cfg: DictConfig) -> Config:
    """The composed configuration as plain dataclasses. Raises ConfigError for unknown names, wrong types and values.

    Hydra lets ``+name=value`` through even against a schema, so names are compared again here.
    """
    schema, names = _schema(), _names()
    try:
        container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        assert isinstance(container, dict)
        _refuse_unknown(names, container)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), literal(container)))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error)) from None
    assert isinstance(config, Config)
    for name in PATHS:
        *groups, leaf = name.split(".")
        holder = functools.reduce(getattr, groups, config)
        setattr(holder, leaf, expand_user(name, getattr(holder, leaf)))
    config.check()
    if sweep_suffix() and "${" not in str(OmegaConf.to_container(cfg, resolve=False)["run_dir"]):  # type: ignore[call-overload,index]
        config.run_dir += sweep_suffix()
    return config


def explain(error: Exception) -> str:
    """One sentence for an error that Hydra or OmegaConf raised about the command line."""
    refused = next((link for link in chain(error) if isinstance(link, ConfigError)), None)
    if refused:
        return str(refused)
    if isinstance(error, OverrideParseException):
        return _explain_word(error.override)
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"there is no {group}={name}: choose one of {', '.join(error.options)}."
    cause = next((link for link in chain(error) if isinstance(link, OmegaConfBaseException)), error)
    key = getattr(cause, "full_key", None)
    if isinstance(cause, InterpolationResolutionError) and key:
        return (
            f"{key}: ${{…}} in a value stands for the value of another option, which cannot be found: "
            f"{str(cause).strip().splitlines()[0]}. As plain text it is written \\${{…}}."
        )
    first, names = str(cause).strip().splitlines()[0], _names()
    if key in names.groups:
        return f"{key} is a group of options: set {' or '.join(names.members(key)[:3])}, …"
    if key and ("is not in struct" in first or "not in '" in first):
        return names.unknown(key)
    return f"{key}: {first}." if key else str(error).strip()


def _explain_word(word: str) -> str:
    name, equals, value = word.partition("=")
    name = name.lstrip("+~")
    default = next((default for option, default, _ in describe_options(_schema()) if option == name), None)
    if not equals:
        return f"{word!r} is not of the form name=value: python train.py --help lists the options."
    if default is not None:
        return f"{name} takes a value such as {default or 'NAME'}, not {value!r}: python train.py --help tells more."
    if "." not in name and "/" not in name and name not in _names().groups:
        return _names().unknown(name)
    quoted = shlex.quote(f'{name}="{value}"')
    return f"{word!r}: Hydra cannot read {value!r}. Put it into quotes: {quoted}."


def _refuse_unknown(names: Names, container: dict[Any, Any], prefix: str = "") -> None:
    for key, value in container.items():
        name = f"{prefix}{key}"
        if name in names.groups and isinstance(value, dict):
            _refuse_unknown(names, value, f"{name}.")
        elif name not in names.options:
            raise ConfigError(names.unknown(name))
