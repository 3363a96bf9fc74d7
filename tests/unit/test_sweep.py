"""A sweep that is asked to stop begins no further job; one that meets an error in a job goes on with the others."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

STUB = """
import os, runpy, signal, sys, types
codes, jobs = eval(sys.argv.pop(1)), []
def run(config):
    from training.processes.preemption import StopFlag
    stop, code = StopFlag(), codes[len(jobs)]
    jobs.append(config.seed)
    stop.ignore_from_now_on()
    if code == "late":
        os.kill(os.getpid(), signal.SIGTERM)
    return 0 if code == "late" else code
sys.modules["training.run"] = types.ModuleType("training.run")
sys.modules["training.run"].run = run
sys.argv[0] = "train.py"
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("jobs", jobs)
"""


@pytest.mark.parametrize(
    ("codes", "jobs", "code", "said"),
    [
        ([85, 0, 0], [0], 85, "the sweep ends here, since it was asked to stop"),
        ([0, 85, 0], [0, 1], 85, "the sweep ends here"),
        (["late", 0, 0], [0], 85, "the sweep ends here"),
        ([1, 85, 0], [0, 1], 85, "the sweep ends here"),
        ([0, 1, 0], [0, 1, 2], 1, "1 of the sweep's 3 jobs failed: 1."),
        ([0, 0, 0], [0, 1, 2], 0, ""),
    ],
)
def test_which_jobs_are_begun(codes: list[object], jobs: list[int], code: int, said: str, tmp_path: Path) -> None:
    words = ["data=synthetic", "data.workers=0", "seed=0,1,2", "--multirun"]
    process = subprocess.run(
        [sys.executable, "-c", STUB, repr(codes), *words], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert process.returncode == code, process.stderr
    assert f"jobs {jobs}" in process.stdout
    assert said in process.stderr and "Traceback" not in process.stderr and (said or not process.stderr)
