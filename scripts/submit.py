"""Submit a run to SLURM or Kubernetes, with the options of train.py.

    python -m scripts.submit slurm [--dry-run] [--multirun] data.root=/data/imagenet submit.gpus_per_node=8
    python -m scripts.submit k8s   [--dry-run] [--multirun] data.root=/data/imagenet submit.k8s.image=… …

The options are those of train.py. They are resolved here, once: what runs is this machine's configuration. --dry-run
shows what would be submitted and writes nothing; --multirun submits a job for each combination of seed=0,1,2 and the
like. The exit code is 0, 1 if the cluster refused, or 2 for wrong usage or configuration.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from scripts import k8s, slurm
from scripts.submission import Submission
from sources.command_line import command
from sources.errors import ConfigError, UserError
from training.config.compose import EXPECTED_ERRORS, check, explain, register, table
from training.config.files import check_words
from training.config.overrides import quote_overrides
from training.config.schema import describe_options

_START = time.strftime("%Y%m%d-%H%M%S")
CONF = Path(__file__).resolve().parent.parent / "conf"


def resolve(overrides: list[str], multirun: bool) -> list[Submission]:
    """The configuration of each job, each with a run directory of its own. Raises ConfigError."""
    register(Submission)
    check_words(overrides)
    overrides = quote_overrides(overrides, sweep=multirun, schema=Submission)
    try:
        jobs: list[list[str]] = [overrides]
        if multirun:
            parsed = OverridesParser.create().parse_overrides(overrides)
            jobs = [list(words) for words in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
        configs = [_compose(words, f"-{number}" if multirun else "") for number, words in enumerate(jobs)]
    except EXPECTED_ERRORS as error:
        raise ConfigError(explain(error)) from None
    directories = [config.run_dir for config in configs]
    for number, config in enumerate(configs):
        if directories.count(config.run_dir) > 1:
            config.run_dir += f"-{number}"
        _check(config)
    return configs


def _compose(overrides: list[str], suffix: str) -> Submission:
    """With a run id of its own, as a job that Hydra sweeps over has."""
    run_id = (os.environ.get("RUN_ID") or _START) + suffix
    OmegaConf.register_new_resolver("run_id", lambda: run_id, replace=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = check(compose("config", overrides=overrides))
        assert isinstance(config, Submission)
        return config


def _check(config: Submission) -> None:
    if config.mode != "train":
        raise ConfigError("only mode=train is submitted: an evaluation takes minutes, run it in an allocation.")
    if config.resume != "auto":
        raise ConfigError(
            f"resume={config.resume} cannot be submitted, since a job that is requeued must go on from its own "
            "checkpoint: leave resume=auto, and take a new run_dir to start over."
        )
    endpoint = config.data.endpoint or os.environ.get("AIS_ENDPOINT", "")
    if config.data.source == "aistore" and (not endpoint or (endpoint == "embedded" and config.submit.nodes > 1)):
        raise ConfigError(
            f"data.endpoint={endpoint} is not an address that all nodes reach: write http://HOST:PORT, or "
            "set AIS_ENDPOINT."
        )
    processes = config.submit.nodes * config.submit.tasks_on_a_node
    parts = processes * config.train.accumulate
    if config.train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} cannot be split evenly over {config.submit.nodes} nodes of "
            f"{config.submit.tasks_on_a_node} processes x train.accumulate={config.train.accumulate}: "
            f"choose a multiple of {parts}."
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    own = [(name, default, text[2:]) for name, default, text in describe_options(Submission) if "submit." in name]
    epilog = f"options of the job (name=value; the default is shown):\n{table(own)}".replace("%", "%%")
    parser = command("scripts.submit", __doc__, epilog=epilog)
    targets: dict[str, Callable[[Submission, bool], None]] = {"slurm": slurm.submit, "k8s": k8s.submit}
    parser.add_argument("target", choices=targets)
    parser.add_argument("--dry-run", action="store_true", help="show what would be submitted")
    parser.add_argument("--multirun", action="store_true", help="a job for each combination")
    parser.add_argument(
        "overrides", nargs="*", metavar="name=value", help="options of train.py (its --help lists them) and of the job"
    )
    options = parser.parse_intermixed_args(arguments)
    try:
        for config in resolve(options.overrides, options.multirun):
            targets[options.target](config, options.dry_run)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
