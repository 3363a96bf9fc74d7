"""The job script: its options, what it does with each end of an attempt, and what is refused before queueing.

srun, sbatch and scontrol are stand-ins here that write down how they were called; tests/cluster has the real ones.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts import slurm
from scripts.submission import Submission
from scripts.submit import main
from sources.errors import ConfigError
from tests.unit.test_command_line import composed

BASE = ["data.root=/data", "submit.nodes=2"]


def rendered(*overrides: str, folder: Path = Path("/runs/a/submitted/now")) -> str:
    config = composed("data.root=/data", "run_dir=/runs/a", *overrides, schema=Submission)
    assert isinstance(config, Submission)
    slurm.check(config)
    script = slurm.render(config, folder)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    return script


def options(script: str) -> list[str]:
    """The words of the #SBATCH lines, which sbatch reads up to the first command."""
    head = script.split("\n\n")[0].splitlines()
    assert head[0] == "#!/bin/bash" and all(line.startswith("#SBATCH ") for line in head[1:])
    return [word for line in head[1:] for word in shlex.split(line.removeprefix("#SBATCH "))]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("submit.name=mine", "--job-name=mine"),
        ("submit.nodes=3", "--nodes=3"),
        ("submit.gpus_per_node=8", "--gpus-per-node=8"),
        ("submit.gpus_per_node=8", "--ntasks-per-node=8"),
        ("submit.tasks_per_node=5", "--ntasks-per-node=5"),
        ("submit.cpus_per_task=6", "--cpus-per-task=6"),
        ("submit.mem=200G", "--mem=200G"),
        ("submit.time=24:00:00", "--time=24:00:00"),
        ("submit.time=1-00", "--time=1-00"),
        ("submit.time=90", "--time=90"),
        ("submit.signal_s=40", "--signal=USR1@40"),
        ("submit.partition='long,gpu'", "--partition=long,gpu"),
        ("submit.account=lab", "--account=lab"),
        ("submit.qos=high", "--qos=high"),
        ("submit.constraint='a100|h100'", "--constraint=a100|h100"),
        ("submit.extra=[--exclusive,'--exclude=a,b']", "--exclude=a,b"),
        ("run_dir=/a run/100%", "--output=/a run/100%%/logs/%j.log"),
        ("", "--requeue"),
        ("", "--open-mode=append"),
        ("", "--signal=USR1@120"),
    ],
)
def test_each_option_reaches_sbatch(override: str, expected: str) -> None:
    assert expected in options(rendered(*[override] if override else []))


def test_what_is_not_asked_for_is_the_site_s_default() -> None:
    names = {option.split("=")[0] for option in options(rendered())}
    assert names == {
        *("--job-name", "--nodes", "--ntasks-per-node", "--cpus-per-task", "--signal", "--requeue", "--open-mode"),
        "--output",
    }


def test_peers_are_never_hidden_and_termination_is_never_trapped() -> None:
    script = rendered("submit.gpus_per_node=8")
    assert "gpus-per-task" not in script and not re.search(r"^\s*trap ", script, re.MULTILINE)


def test_the_python_that_submits_is_the_one_that_runs_unless_a_setup_or_an_image_has_its_own() -> None:
    assert f"\npython={sys.executable}\n" in rendered()
    script = rendered("submit.setup=[module load cuda,'. venv/bin/activate']")
    assert "\npython=python\n" in script and "\nmodule load cuda\n. venv/bin/activate\n" in script
    script = rendered("submit.container_image=/images/train.sqsh")
    assert "\npython=python\n" in script and "\nexport MASTER_ADDR=$(scontrol show hostnames " in script
    words = shlex.split(re.findall(r"^srun_options=\((.*)\)$", script, re.MULTILINE)[0])
    checkout = slurm.CHECKOUT
    assert words == [
        "--cpus-per-task=4",
        "--container-image=/images/train.sqsh",
        f"--container-mounts={checkout}:{checkout},/runs/a:/runs/a,/data:/data",
        f"--container-workdir={checkout}",
    ]


def test_the_folders_of_shards_are_mounted_and_patterns_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = Submission()
    config.data.train_shards, config.data.val_shards = "wds/train-{000..146}.tar", "/val/*.tar"
    config.submit.container_image = "/images/train.sqsh"
    config = slurm.with_absolute_paths(config)
    assert config.data.train_shards == f"{tmp_path}/wds/train-{{000..146}}.tar"
    assert f",{tmp_path}/wds:{tmp_path}/wds,/val:/val" in slurm.render(config, tmp_path)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("", None),
        ("UNLIMITED", None),
        ("90", 5400),
        ("2:30", 150),
        ("1:02:03", 3723),
        ("2-3", 2 * 86400 + 3 * 3600),
        ("2-3:04", 2 * 86400 + 3 * 3600 + 4 * 60),
        ("2-03:04:05", 2 * 86400 + 3 * 3600 + 4 * 60 + 5),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(limit: str, expected: int | None) -> None:
    assert slurm.seconds(limit) == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("submit.time=2:00", "submit.time=2:00 is not more than submit.signal_s=120 s"),
        ("submit.time=tomorrow", "submit.time=tomorrow is not a time limit"),
        ("submit.partition='a b'", "submit.partition='a b' cannot be a value of sbatch's --partition"),
        ("submit.extra=[exclusive]", "submit.extra: 'exclusive' is not an option of sbatch"),
        ("device=cuda", "device=cuda, but submit.gpus_per_node=0"),
        ("device=cpu submit.gpus_per_node=2", "device=cpu would leave submit.gpus_per_node=2 idle"),
        ("submit.max_restarts=-1", "submit.max_restarts must be 0 or more"),
        ("run_dir='/a\"b'", "cannot be written into a job script"),
    ],
)
def test_a_mistake_is_a_sentence(overrides: str, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        rendered(*re.findall(r"(?:[^ ']|'[^']*')+", overrides))
    assert expected in str(error.value)


STAND_IN = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
"""
SRUN = """
for word; do case $word in --output=*) log=${word#--output=}; log=${log//%%/%}; esac; done
[ -n "$log" ] || exit "${CHECK:-0}"
echo "$SAYS" >> "${log/\\%t/1}"
[ -n "$SAVES" ] && mkdir -p "$SAVES" && rm -f "$SAVES/last.pt" && echo "$RANDOM" > "$SAVES/last.pt"
exit "$CODE"
"""


class Site:
    """Stand-ins for SLURM's commands, and a job on them."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.bin.mkdir()
        self.calls = root / "calls"
        self.run_dir = root / "a run"
        self.put("sbatch", 'echo "17;cluster"')
        self.put("scontrol", "exit 1")  # so that the script does not wait for its end
        self.put("srun", SRUN)

    def put(self, tool: str, body: str) -> None:
        (self.bin / tool).write_text(STAND_IN + body)
        (self.bin / tool).chmod(0o755)

    def job(self, *overrides: str) -> Path:
        """Submit; the folder of the submission."""
        assert main(["slurm", *BASE, f"run_dir={self.run_dir}", *overrides]) == 0
        (folder,) = (self.run_dir / "submitted").iterdir()
        return folder

    def attempt(self, folder: Path, code: int, number: int = 0, **environment: str) -> tuple[int, str, list[str]]:
        """Run the script as SLURM would; (exit code, its output, calls of SLURM's commands)."""
        self.calls.write_text("")
        here = {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[0-1]", "CODE": str(code)}
        done = subprocess.run(
            ["bash", str(folder / "job.sbatch")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | here | {"SLURMD_NODENAME": "n0", "SLURM_RESTART_COUNT": str(number)} | environment,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout, self.calls.read_text().splitlines()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(made.calls))
    monkeypatch.setenv("RUN_ID", "one")  # which a submission sets, and this takes away afterwards
    return made


def test_a_submission_leaves_the_configuration_and_says_how_to_follow(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = site.job("data.root=photos", "optim.lr=0.25")
    said = capsys.readouterr().out
    assert "submitted job 17: 2 x 1 processes" in said and "tail -F" in said and "scancel 17" in said
    config = composed(folder=folder)
    assert (config.optim.lr, config.data.root) == (0.25, str(tmp_path / "photos"))
    assert config.run_dir == str(site.run_dir)
    assert site.calls.read_text() == f"sbatch --parsable {folder}/job.sbatch\n"


def test_the_address_of_the_cluster_is_that_of_the_submission(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_ENDPOINT", "http://ais:51080")
    assert composed(folder=site.job("data=aistore")).data.endpoint == "http://ais:51080"


def test_a_dry_run_shows_the_script_and_writes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "--dry-run", *BASE, f"run_dir={site.run_dir}", "submit.partition=gpu"]) == 0
    script = capsys.readouterr().out
    assert "--partition=gpu" in options(script)
    assert not site.run_dir.exists() and not site.calls.exists()


def test_a_sweep_is_a_job_for_each_combination(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", "--multirun", *BASE, f"run_dir={site.run_dir}", "seed=4,5"]) == 0
    assert len(site.calls.read_text().splitlines()) == 2
    folders = [folder for number in (0, 1) for folder in Path(f"{site.run_dir}-{number}").glob("submitted/*")]
    assert [composed(folder=folder).seed for folder in folders] == [4, 5]


def test_what_is_wrong_is_refused_before_queueing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*overrides: str, code: int = 2) -> str:
        assert main(["slurm", *BASE, f"run_dir={site.run_dir}", *overrides]) == code
        message: str = capsys.readouterr().err
        assert message.startswith("error: ") and "Traceback" not in message
        return message

    assert "train.batch_size=13 cannot be split evenly over 2 nodes" in refused("train.batch_size=13")
    assert "model.name=resnet19 is not a classification model" in refused("model.name=resnet19")
    assert not site.run_dir.exists()
    site.put("sbatch", 'echo "sbatch: error: invalid partition specified: nosuch" >&2; exit 1')
    assert "SLURM refused the job: invalid partition specified: nosuch." in refused(code=1)
    assert not list((site.run_dir / "submitted").iterdir())
    (site.run_dir / "photo.jpg").touch()
    assert "holds files, but no run of this trainer" in refused()


@pytest.mark.parametrize("tool", ["sbatch", "scontrol"])
def test_a_machine_without_slurm_is_named(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    (site.bin / tool).unlink()
    monkeypatch.setenv("PATH", str(site.bin))
    assert main(["slurm", *BASE, f"run_dir={site.run_dir}"]) == 1
    assert f"there is no {tool} on the PATH" in capsys.readouterr().err
    assert not site.run_dir.exists()


def test_a_begun_run_with_other_options_is_not_queued(
    site: Site, train: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("experiment=smoke", "train.epochs=1", f"run_dir={site.run_dir}").code == 0  # type: ignore[attr-defined]
    words = ["slurm", "experiment=smoke", f"run_dir={site.run_dir}"]
    assert main([*words, "train.epochs=2", "submit.nodes=2"]) == 0  # may change
    assert main([*words, "optim.lr=1"]) == 2
    assert (
        f"the run in {site.run_dir} was begun with other options:\n  optim.lr: 0.1 → 1.0\n" in capsys.readouterr().err
    )
    assert main([*words, "optim.lr=1", "allow_changes=true"]) == 0


def test_an_attempt_starts_the_trainer_once_each_node_sees_the_run(site: Site) -> None:
    folder = site.job("submit.cpus_per_task=3")
    code, output, calls = site.attempt(folder, 0)
    assert (code, output.splitlines()[-1].split()[1]) == (0, "done"), output
    check, train = calls
    assert check.startswith("srun --nodes=2 --ntasks=2 --ntasks-per-node=1 ") and check.endswith(
        f"{folder}/config.yaml"
    )
    assert train == (
        "srun --cpus-per-task=3 --wait=60 --kill-on-bad-exit=0 --export=ALL --open-mode=append "
        f"--output={site.run_dir}/logs/17-0-rank-%t.log {sys.executable} train.py --config-path {folder} --config-name config"
    )
    code, output, calls = site.attempt(folder, 0, CHECK="2")
    assert code == 2 and len(calls) == 1, output


def test_what_an_outer_torchrun_left_does_not_reach_the_job(site: Site) -> None:
    site.put("srun", 'echo "${RANK-unset} ${MASTER_ADDR-unset}" >> "$CALLS"')
    _, _, calls = site.attempt(site.job(), 0, RANK="3", MASTER_ADDR="elsewhere")
    assert calls[1] == calls[3] == "unset unset"


@pytest.mark.parametrize(
    ("code", "says", "requeued"),
    [
        (85, "", True),
        (137, "", True),
        (138, "srun: error: task 1: User defined signal 1", True),
        (1, "", False),
        (2, "", False),
        (137, "error: data.root=/data does not exist", False),  # the others were killed, since they waited for it
        (143, "rank 3: error: no GPU", False),
        (137, "rank 1: error: another process of the run has ended, and says why itself", True),
        (1, "rank 1: error: another process of the run has ended, and says why itself", True),
    ],
)
def test_what_goes_back_into_the_queue(site: Site, code: int, says: str, requeued: bool) -> None:
    ended, output, calls = site.attempt(site.job(), code, SAYS=says)
    assert ended == code, output
    assert ("scontrol requeue 17" in calls) == requeued, output


def test_attempts_that_save_nothing_come_to_an_end(site: Site) -> None:
    folder = site.job("submit.max_restarts=2")
    saves = {"SAVES": str(site.run_dir / "checkpoints")}

    def requeued(code: int, number: int, **environment: str) -> bool:
        return "scontrol requeue 17" in site.attempt(folder, code, number, **environment)[2]

    assert [requeued(137, number) for number in range(2)] == [True, True]
    assert [requeued(85, number, **saves) for number in range(2, 6)] == [True] * 4
    assert [requeued(code, number) for number, code in ((6, 85), (7, 137), (8, 85))] == [True, True, False]
    assert len(list((site.run_dir / "logs").glob("17-*-rank-1.log"))) == 9


def test_a_node_without_scontrol_or_without_the_checkout_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site.job()
    (site.bin / "scontrol").unlink()
    tools = site.bin.parent / "tools"
    tools.mkdir()
    for tool in ("bash", "date", "ln", "stat", "cat", "basename"):
        (tools / tool).symlink_to(f"/usr/bin/{tool}")
    code, output, calls = site.attempt(folder, 0, PATH=f"{site.bin}:{tools}")
    assert code == 2 and "error: n0 has no scontrol, by which jobs requeue themselves, on its PATH." in output
    script = (folder / "job.sbatch").read_text()
    (folder / "job.sbatch").write_text(re.sub("^checkout=.*$", "checkout=/nowhere", script, flags=re.MULTILINE))
    code, output, calls = site.attempt(folder, 0)
    assert code == 2 and "error: n0 does not see the checkout /nowhere" in output and calls == []
