"""torchrun, with the exit code that says "stopped on request, go on later".

    python -m training.processes.launch --nproc-per-node=8 train.py data.root=/data/imagenet

takes torchrun's own options. torchrun itself answers 1 whatever its workers answered; this answers 85 where all of them
ended on request with their state saved, and waits longer than 30 s for that. SIGUSR1, which SLURM sends to every
process of a step, is the workers' business; SIGTERM, which Kubernetes sends to the first process alone, and SIGHUP,
unless it is ignored, reach them through it. Where all processes run on one machine, their meeting point listens on
the loopback alone.
"""

import dataclasses
import os
import signal
import sys
from typing import Any

from torch.distributed.elastic.multiprocessing.api import PContext, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import c10d_rendezvous_backend, dynamic_rendezvous, static_tcp_rendezvous
from torch.distributed.launcher.api import LaunchConfig
from torch.distributed.run import get_args_parser, run

from sources.disk import scratch_folder
from training.processes.preemption import EXIT_CODE, VARIABLE, reported
from training.processes.rendezvous import store_on_loopback
from training.processes.world import LOOPBACK
from training.report.output import never_fail, put_error

SAVE_S = 110
"""Seconds that workers have to finish a step and to save; Kubernetes and SLURM give 120 by default here."""


def main(arguments: list[str] | None = None) -> int:
    """Run torchrun; answers the workers' exit code: 0, 85, 2 if one said so, else 1."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVE_S))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does, with a warning; the trainer sets its own
    options = get_args_parser().parse_args(arguments)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # nohup: the agent would hear it all the same
        options.signals_to_handle = "SIGTERM,SIGINT,SIGQUIT"
    wait_for_saves()
    if str(options.nnodes) in ("1", "1:1"):
        meet_on_loopback(options)
    with scratch_folder() as folder:
        os.environ[VARIABLE] = str(folder)
        try:
            run(options)  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            codes = {failure.exitcode for failure in error.failures.values()}
            if codes == {EXIT_CODE}:
                return EXIT_CODE
            put_error(str(error))
            return 2 if 2 in codes else 1
        except SignalException as error:
            return after_signal(error.sigval.name, reported(folder))
    return 0


def after_signal(name: str, codes: list[int]) -> int:
    """The exit code after a signal to the agent, whose workers have left ``codes``, and a sentence."""
    if codes and set(codes) == {EXIT_CODE}:
        put_error(f"stopped by {name}: the same command goes on.")
        return EXIT_CODE
    if codes and set(codes) == {0}:
        put_error(f"{name} came when the run was done.")
        return 0
    put_error(
        f"error: stopped by {name}, and not all processes could save: the same command goes on from what is there."
    )
    return 1


def wait_for_saves() -> None:
    """Give workers ``SAVE_S`` to save: before torch 2.12 the agent kills them after 30 s in any case."""
    if "shutdown_timeout" in {field.name for field in dataclasses.fields(LaunchConfig)}:
        return
    close = PContext.close

    def patient(self: Any, death_sig: Any = None, timeout: int = 30) -> None:
        close(self, death_sig, max(timeout, int(os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"])))

    PContext.close = patient  # type: ignore[method-assign]


def meet_on_loopback(options: Any) -> None:
    """Let the store of a run on one machine listen there alone."""
    options.master_addr = options.local_addr = LOOPBACK
    for module in (c10d_rendezvous_backend, static_tcp_rendezvous):
        vars(module)["TCPStore"] = store_on_loopback
    handler: Any = dynamic_rendezvous.DynamicRendezvousHandler
    handler._create_tcp_store_server = lambda _, *at: store_on_loopback(*at, is_master=True, multi_tenant=True)


if __name__ == "__main__":
    never_fail()
    sys.exit(main())
