"""Train ImageNet: ``python train.py --help`` explains every option, README.md the rest."""

import os
import sys

import hydra
from omegaconf import DictConfig

from aistore_data.errors import ConfigError
from aistore_data.text import visible
from training.compose import EXPECTED_ERRORS, check, explain, register
from training.config_files import check_words
from training.overrides import quote_overrides
from training.worker_server import start_worker_server

exit_codes: list[int] = []
"""Of the jobs so far."""


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    """One job: compose, check, run. A sweep (--multirun) calls it once for each job."""
    exit_codes.append(1)
    try:
        config = check(composed)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        exit_codes[-1] = error.exit_code
        return
    if config.data.workers != 0:
        start_worker_server(config.data.source)  # which imports torch while this process does
    from training.run import run  # here, so that --help and a typing error need not wait for torch

    exit_codes[-1] = run(config)


def cli() -> int:
    """The exit code: 0 done, 1 error, 2 wrong usage or configuration, 85 stopped on request and resumable."""
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them and leaving with 1
    try:
        check_words(sys.argv[1:])
        sys.argv[1:] = quote_overrides(sys.argv[1:])
        main()
    except EXPECTED_ERRORS as error:
        if exit_codes:  # a job had begun: this is our own mistake
            raise
        print(f"error: {visible(explain(error))}", file=sys.stderr)
        return ConfigError.exit_code
    return max(exit_codes, default=0)


if __name__ == "__main__":
    sys.exit(cli())
