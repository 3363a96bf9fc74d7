"""The same command, on a cluster.

    python -m scripts.submit slurm [--dry-run] [--multirun] data.root=/data/imagenet submit.gpus_per_node=8
    python -m scripts.submit k8s   [--dry-run] [--multirun] data.root=/data/imagenet submit.k8s.image=… …

The options are those of train.py. They are resolved here, once: what runs is this machine's configuration. --dry-run
shows what would be submitted and writes nothing; --multirun submits a job for each combination of seed=0,1,2 and the
like. The exit code is 0, 1 if the cluster refused, or 2 for wrong usage or configuration.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from aistore_data.errors import ConfigError, UserError
from scripts import k8s, slurm
from training.compose import EXPECTED_ERRORS, check, explain, register
from training.config import Config

CONF = Path(__file__).resolve().parent.parent / "conf"


def resolve(overrides: list[str], multirun: bool) -> list[Config]:
    """The configuration of each job, each with a run directory of its own. Raises ConfigError."""
    register()
    start = os.environ.get("RUN_ID") or time.strftime("%Y%m%d-%H%M%S")
    try:
        jobs = [overrides]
        if multirun:
            parsed = OverridesParser.create().parse_overrides(overrides)
            jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
        configs = []
        for number, words in enumerate(jobs):
            os.environ["RUN_ID"] = f"{start}-{number}" if multirun else start
            with initialize_config_dir(str(CONF), version_base="1.3"):
                configs.append(check(compose("config", overrides=list(words))))
    except EXPECTED_ERRORS as error:
        raise ConfigError(explain(error)) from None
    directories = [config.run_dir for config in configs]
    for config, suffix in zip(configs, range(len(configs)), strict=True):
        if directories.count(config.run_dir) > 1:
            config.run_dir += f"-{suffix}"
        _check(config)
    return configs


def _check(config: Config) -> None:
    if config.mode != "train":
        raise ConfigError("only mode=train is submitted: an evaluation takes minutes, run it in an allocation.")
    if config.resume != "auto":
        raise ConfigError(
            f"resume={config.resume} cannot be submitted, since a job that is requeued must go on from its own "
            "checkpoint: leave resume=auto, and take a new run_dir to start over."
        )
    if (
        config.data.source == "aistore"
        and config.data.endpoint in ("", "embedded")
        and not os.environ.get("AIS_ENDPOINT")
    ):
        raise ConfigError("data.endpoint must be an address that the nodes can reach: http://HOST:PORT.")
    processes = config.submit.nodes * config.submit.tasks_on_a_node
    parts = processes * config.train.accumulate
    if config.train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} cannot be split evenly over {config.submit.nodes} nodes of "
            f"{config.submit.tasks_on_a_node} processes x train.accumulate={config.train.accumulate}: "
            f"choose a multiple of {parts}."
        )


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.submit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    targets: dict[str, Callable[[Config, bool], None]] = {"slurm": slurm.submit, "k8s": k8s.submit}
    parser.add_argument("target", choices=targets)
    parser.add_argument("--dry-run", action="store_true", help="show what would be submitted")
    parser.add_argument("--multirun", action="store_true", help="a job for each combination")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="options of train.py and submit.…")
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
