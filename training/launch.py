"""torchrun, with the exit code that says "stopped on request, go on later".

    python -m training.launch --nproc-per-node=8 train.py data.root=/data/imagenet

takes torchrun's own options. torchrun itself answers 1 whatever its workers answered; this answers 85 where all that
ended did so on request, and waits longer than 30 s for them to save. SIGUSR1, which SLURM sends to every process of a
step, is the workers' business; SIGTERM, which Kubernetes sends to the first process alone, reaches them through it.
"""

import os
import signal
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run

from training.preemption import EXIT_CODE

SAVE_S = 110
"""Seconds that workers have to finish a step and to save; Kubernetes and SLURM give 120 by default here."""


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun; answers the workers' exit code: 0, 85, 2 if one said so, else 1."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVE_S))
    options = get_args_parser().parse_args(arguments)
    try:
        run(options)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        if codes == {EXIT_CODE}:
            return EXIT_CODE
        print(error, file=sys.stderr, flush=True)
        return 2 if 2 in codes else 1
    except SignalException as error:
        print(f"stopped by {error.sigval.name}", file=sys.stderr, flush=True)
        return EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
