"""Run directories that nobody has chosen: one for a batch job or job step, new ones for what is started by hand."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from training.run_dir import run_id
from training.run_dir.run_id import base_name, hand_out, own_directory

BATCH = {"SLURM_JOB_ID": "17", "ENVIRONMENT": "BATCH"}
STEP = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("RUN_ID", "ENVIRONMENT"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_id, "_may_be_taken", set())


@pytest.mark.parametrize(
    ("variables", "name", "stable"),
    [
        ({"RUN_ID": "mine", **BATCH}, "mine", True),
        (BATCH, "slurm-17", True),
        ({"SLURM_JOB_ID": "17", "SLURM_PROCID": "0"}, "slurm-17", True),
        ({"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"}, "slurm-17", True),
        (BATCH | STEP, "slurm-17", True),
        (BATCH | STEP | {"SLURM_STEP_ID": "2"}, "slurm-17.2", True),
        (STEP, "slurm-17", True),
        ({"SLURM_JOB_ID": "17"}, "slurm-17", False),
        (STEP | {"SLURM_STEP_ID": "4294967290"}, "slurm-17", False),
        (STEP | {"SLURM_PTY_PORT": "40000"}, "slurm-17", False),
        ({"TORCHELASTIC_RUN_ID": "abc"}, "torchrun-abc", True),
    ],
)
def test_names(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str, stable: bool) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert base_name() == (name, stable)


def test_a_name_that_is_taken_gets_a_number_and_a_stable_one_is_found_again() -> None:
    name = hand_out("slurm-17", stable=False)
    assert [own_directory(f"runs/{name}") for _ in range(3)] == ["runs/slurm-17", "runs/slurm-17-2", "runs/slurm-17-3"]
    assert own_directory("runs/chosen") == own_directory("runs/chosen") == "runs/chosen"
    assert not Path("runs/chosen").exists()


def test_of_many_at_once_each_has_its_own() -> None:
    hand_out("now", stable=False)
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(own_directory, ["runs/now"] * 32))
    assert len(set(paths)) == 32 and all(Path(path).is_dir() for path in paths)


def test_workers_that_torchrun_starts_again_find_their_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    hand_out("now", stable=False)
    Path("runs/now").mkdir(parents=True)  # of another one, started in the same second
    found = []
    for restart in ("0", "1", "2"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restart)
        found.append(own_directory("runs/now"))
    assert set(found) == {f"runs/now-{os.getppid()}"}
    Path(found[0]).rmdir()
    assert own_directory("runs/now") == "runs/now"  # the first start has made that one


def test_a_place_that_cannot_be_written_is_left_to_who_says_so() -> None:
    hand_out("now", stable=False)
    Path("file").touch()
    assert own_directory("file/now") == "file/now"
