"""``train.profile``: torch's profiler over some steps of a run, as a trace that a browser opens."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from training.report.console import Console
from training.run_dir.records import Records

_LEFT_OUT = 3
"""Steps before those of the trace, in which libraries choose their kernels; in the last of them the profiler runs."""


class StepProfile:
    """Is told of every step; the trace begins after ``_LEFT_OUT`` of this process's steps."""

    def __init__(self, torchs: "profile | None" = None) -> None:
        self._torchs = torchs

    def step(self) -> None:
        """Tell the profiler that a step is done."""
        if self._torchs is not None:
            self._torchs.step()


@contextmanager
def step_profile(steps: int, records: Records, console: Console, enabled: bool) -> Iterator[StepProfile]:
    """A profile of the next ``steps`` steps after a few, written when they are done; 0 or not ``enabled``: none.

    A run that ends before has a trace of those that it had.
    """
    if not steps or not enabled:
        yield StepProfile()
        return

    written = []

    def write(done: profile) -> None:
        records.trace(done.export_chrome_trace)
        written.append(True)
        console.say("train.profile: the trace is profile/trace.json.gz in the run directory; ui.perfetto.dev opens it")

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    plan = schedule(wait=_LEFT_OUT - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as torchs:
        yield StepProfile(torchs)
    if not written:
        console.say(f"train.profile: no trace, since the run took fewer than {_LEFT_OUT} steps")
