"""Train ImageNet: ``python train.py --help`` explains every option, README.md the rest."""

import os
import signal
import sys
from types import FrameType


def interrupted(number: int, frame: FrameType | None) -> None:
    """ctrl-C before there is anything to save: while modules are imported, an exception could be swallowed."""
    try:
        os.write(2, b"\nstopped by SIGINT before the run began.\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    signal.signal(signal.SIGINT, interrupted)

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from sources.errors import ConfigError  # noqa: E402
from training.config.compose import EXPECTED_ERRORS, check, explain, register, sweep_suffix  # noqa: E402
from training.config.files import check_words  # noqa: E402
from training.config.overrides import quote_overrides  # noqa: E402
from training.evaluate.sweep import tell  # noqa: E402
from training.loader.workers import start_worker_server  # noqa: E402
from training.processes.preemption import EXIT_CODE, StopFlag, report, silence  # noqa: E402
from training.report.output import never_fail, put_error  # noqa: E402

exit_codes: list[int] = []
"""The exit codes of the jobs of a sweep so far."""

evaluated: list[str] = []
"""The run directories of those of them that were evaluations."""


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(composed: DictConfig) -> None:
    """One job: compose, check, run. A sweep (--multirun) calls it once for each job, until one is asked to stop."""
    exit_codes.append(1)
    try:
        config = check(composed)
    except ConfigError as error:
        put_error(f"error: {error}")
        exit_codes[-1] = error.exit_code
        return
    if config.data.workers != 0:
        start_worker_server(config.data.source)  # which imports torch while this process does
    from training.run import run  # here, so that --help and a typing error need not wait for torch

    exit_codes[-1] = run(config)
    if config.mode == "evaluate":
        evaluated.append(config.run_dir)
    if sweep_suffix() and (exit_codes[-1] == EXIT_CODE or StopFlag.late):
        put_error("the sweep ends here, since it was asked to stop: the same command goes on with it.")
        raise SystemExit(EXIT_CODE)


def cli() -> int:
    """The exit code: 0 done, 1 error, 2 wrong usage or configuration, 85 stopped on request and resumable."""
    never_fail()
    register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them and leaving with 1
    try:
        check_words(sys.argv[1:])
        sys.argv[1:] = quote_overrides(sys.argv[1:])
        main()
    except EXPECTED_ERRORS as error:
        if exit_codes:  # a job had begun: this is our own mistake
            raise
        put_error(f"error: {explain(error)}")
        return ConfigError.exit_code
    tell(evaluated)
    failed = [str(number) for number, code in enumerate(exit_codes) if code]
    if failed and len(exit_codes) > 1:
        put_error(f"{len(failed)} of the sweep's {len(exit_codes)} jobs failed: {', '.join(failed)}.")
    return max(exit_codes, default=0)


def program() -> int:
    """``cli``, which a launcher hears of, and which late signals do not disturb any more."""
    code = 1
    try:
        code = cli()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
    finally:
        silence()
        report(code)
    return code


if __name__ == "__main__":
    sys.exit(program())
