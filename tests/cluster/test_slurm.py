"""The shipped job script on a real SLURM of two nodes: whatever ends an attempt, the run ends as if nothing had.

Most tests freeze the ranks (SIGSTOP) at a step, so that what happens to them happens there however fast they are.
"""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.submit import main
from tests.conftest import TINY, ForkedTrain, Result, Zygote, make_small_folder
from tests.support.slurm import NODES, Slurm, until, why_not

RUN = [*TINY, "train.epochs=3", "train.checkpoint_every=2", "train.log_every=1", "data.fingerprint=full"]
"""9 steps in 3 epochs, with checkpoints after steps 2, 3, 5, 6, 8 and 9."""
TWO_NODES = ["submit.nodes=2", "submit.cpus_per_task=2", "submit.partition=low"]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := why_not():
        pytest.skip(reason)
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@dataclass(frozen=True)
class Undisturbed:
    """The same run on two processes of this machine, without SLURM."""

    root: Path
    result: Result


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    root = make_small_folder(tmp_path_factory.mktemp("data") / "small")
    result = ForkedTrain(zygote, tmp_path_factory.mktemp("whole") / "cwd")(f"data.root={root}", *RUN, world=2)
    assert result.code == 0, result.output
    return Undisturbed(root, result)


class Job:
    """A submitted run."""

    def __init__(self, slurm: Slurm, number: str, run_dir: Path) -> None:
        self.slurm = slurm
        self.number = number
        self.run_dir = run_dir
        self.asked = self.queued = self.saved = 0.0

    def lines(self) -> list[dict[str, float]]:
        path = self.run_dir / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def log(self) -> str:
        path = self.run_dir / "logs" / f"{self.number}.log"
        return path.read_text() if path.exists() else ""

    def logs(self) -> str:
        paths = sorted((self.run_dir / "logs").glob(f"{self.number}*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in paths)

    def ranks(self) -> dict[int, int]:
        """Process number of each living rank."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and b"train.py" in _content(entry / "cmdline"):
                words = dict(word.split(b"=", 1) for word in _content(entry / "environ").split(b"\0") if b"=" in word)
                task = words.get(b"SLURM_PROCID")
                if task and words.get(b"SLURM_STEP_ID") == b"1" and words[b"SLURM_JOB_ID"] == self.number.encode():
                    found[int(task)] = int(entry.name)
        return found

    def freeze(self, step: int) -> dict[int, int]:
        """Stop all ranks once ``step`` was recorded."""

        def reached() -> bool:
            assert self.slurm.job(self.number).get("JobState") in ("PENDING", "RUNNING", "CONFIGURING"), self.logs()
            end = time.monotonic() + 2
            while time.monotonic() < end:
                if any(line["kind"] == "train_step" and line["step"] >= step for line in self.lines()):
                    return True
                time.sleep(0.005)
            return False

        until(f"step {step} of job {self.number}", reached, timeout=180, every=0)
        ranks = self.ranks()
        for pid in ranks.values():
            os.kill(pid, signal.SIGSTOP)
        assert sorted(ranks) == [0, 1], self.logs()
        return ranks

    def thaw(self, ranks: dict[int, int], after: signal.Signals, timeout: float = 60) -> float:
        """Go on, once the signal has come to all (SLURM's timer sends SIGCONT with it); answers when."""

        def has_come(pid: int) -> bool:
            return _state_of(pid) != "T" or _is_pending(pid, after)

        until(f"{after.name} has come", lambda: all(map(has_come, ranks.values())), timeout)
        now = time.time()
        for pid in ranks.values():
            _signal(pid, signal.SIGCONT)
        return now

    def back_in_the_queue(self, asked: float) -> None:
        """It gets there by itself, with what it had done saved; start it again soon."""
        self.slurm.wait(self.number, "PENDING")
        self.asked, self.queued = asked, time.time()
        self.saved = (self.run_dir / "checkpoints" / "last.pt").stat().st_mtime
        self.slurm.hurry(self.number)

    def went_on(self, whole: Undisturbed, name: str, attempts: int = 2) -> None:
        """The job completes, and ends as the undisturbed run did."""
        ended = self.slurm.wait(self.number)
        assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), self.logs()
        same_end(self.run_dir, whole)
        lines = self.lines()
        assert {line["attempt"] for line in lines} == set(range(1, attempts + 1))
        first = next(line for line in lines if line["attempt"] == attempts)
        begun = time.mktime(
            time.strptime(re.findall(r"^(\S+) attempt ", self.log(), re.MULTILINE)[-1], "%Y-%m-%dT%H:%M:%S")
        )
        print(
            f"FIGURE {name}: last checkpoint {self.saved - self.asked:.1f} s after the signal, in the queue after "
            f"{self.queued - self.asked:.1f} s, started again {begun - self.queued:.0f} s later; "
            f"step {first['step']} {first['time'] - begun:.1f} s after that"
        )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has ended


def _is_pending(pid: int, name: signal.Signals) -> bool:
    status = _content(Path(f"/proc/{pid}/status")).decode()
    return any(
        int(mask, 16) >> (name - 1) & 1 for mask in re.findall(r"^S(?:hd|ig)Pnd:\s*(\w+)$", status, re.MULTILINE)
    )


def same_end(run_dir: Path, whole: Undisturbed) -> None:
    result = Result(0, "", run_dir)
    assert result.summary()["state_sha256"] == whole.result.summary()["state_sha256"]
    assert result.fingerprints() == whole.result.fingerprints()
    assert (run_dir / "stream.bin").read_bytes() == (whole.result.run_dir / "stream.bin").read_bytes()


Submit = Callable[..., Job]


@pytest.fixture
def submit(
    slurm: Slurm,
    whole: Undisturbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Submit]:
    """python -m scripts.submit slurm, in this process."""
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("RUN_ID", "one")  # which a submission sets, and this takes away afterwards
    jobs = []

    def call(*overrides: str, run_dir: Path = tmp_path / "a run 100%") -> Job:
        words = [f"data.root={whole.root}", f"run_dir={run_dir}", *RUN, *TWO_NODES, *overrides]
        code = main(["slurm", *words])
        said = capsys.readouterr()
        assert code == 0, said.err
        number = re.findall(r"^submitted job (\d+): ", said.out)[0]
        jobs.append(Job(slurm, number, run_dir))
        return jobs[-1]

    yield call
    for job in jobs:
        slurm.call("scancel", "--signal=KILL", "--full", job.number)
        slurm.call("scancel", job.number)
    for name in NODES:
        if f"slurmd-{name}" not in slurm.daemons:
            slurm.start_node(name)
    for job in jobs:
        slurm.wait(job.number)


def test_stopped_before_the_time_limit_it_goes_on(slurm: Slurm, submit: Submit, whole: Undisturbed) -> None:
    """scancel --signal sends what --signal=USR1@120 sends, to the same processes."""
    job = submit()
    ranks = job.freeze(4)
    slurm.call("scancel", "--signal=USR1", job.number)
    job.back_in_the_queue(job.thaw(ranks, signal.SIGUSR1))
    job.went_on(whole, "USR1")
    names = {f"{job.number}-{attempt}-rank-{rank}.log" for attempt in (0, 1) for rank in (0, 1)}
    assert {path.name for path in (job.run_dir / "logs").iterdir()} == {f"{job.number}.log", "latest.log", *names}
    words = [line.split(maxsplit=1)[1] for line in job.log().splitlines() if re.match(r"20\d\d-", line)]
    assert [word.split(":")[0] for word in words] == [
        "attempt 0 on 127.0.0.[1-2]",
        "exit code 85",
        "attempt 1 on 127.0.0.[1-2]",
        "done",
    ]
    assert "going on from" in (job.run_dir / "logs" / "latest.log").read_text()


def test_a_folder_that_the_nodes_do_not_share_is_named_by_the_one_that_misses_it(slurm: Slurm, submit: Submit) -> None:
    if not slurm.hides:
        pytest.skip("needs the right to hide a folder from a node (unshare --mount)")
    job = submit(run_dir=slurm.not_shared / "run")
    ended = slurm.wait(job.number)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "2:0", "0")
    config = next(job.run_dir.glob("submitted/*/config.yaml"))
    assert f"error: 127.0.0.2 does not see {config}: run_dir must be on a shared disk." in job.log()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("submit.partition=nosuch", "SLURM refused the job: invalid partition specified: nosuch"),
        ('submit.extra=["--nodelist=nosuch"]', "SLURM refused the job: "),
        ("submit.gpus_per_node=1", "SLURM refused the job: Invalid generic resource (gres) specification."),
    ],
)
def test_what_slurm_refuses_is_a_sentence(
    slurm: Slurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    expected: str,
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm.conf))
    monkeypatch.setenv("RUN_ID", "one")
    assert main(["slurm", "data.root=/data", f"run_dir={tmp_path}/run", *TWO_NODES, override]) == 1
    message = capsys.readouterr().err
    print(message)
    assert message.startswith(f"error: {expected}") and message.count("\n") == 1


@pytest.mark.long
def test_the_time_limit(slurm: Slurm, submit: Submit, whole: Undisturbed) -> None:
    """SLURM's own timer: the limit is two minutes, the signal comes one before it."""
    job = submit("submit.time=2", "submit.signal_s=60")
    ranks = job.freeze(4)
    job.back_in_the_queue(job.thaw(ranks, signal.SIGUSR1, timeout=120))
    slurm.call("scontrol", "update", f"jobid={job.number}", "TimeLimit=10")
    job.went_on(whole, "time limit")


@pytest.mark.long
def test_preempted_by_a_higher_partition(slurm: Slurm, submit: Submit, whole: Undisturbed) -> None:
    job = submit()
    job.freeze(4)
    asked = time.time()
    other = slurm.ask(
        "sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"
    )
    job.back_in_the_queue(asked)
    assert slurm.wait(other)["JobState"] == "COMPLETED"
    job.went_on(whole, "preemption")


@pytest.mark.long
def test_requeued_by_an_administrator(slurm: Slurm, submit: Submit, whole: Undisturbed) -> None:
    job = submit()
    job.freeze(4)
    asked = time.time()
    slurm.call("scontrol", "requeue", job.number)
    job.back_in_the_queue(asked)
    job.went_on(whole, "scontrol requeue")


@pytest.mark.long
def test_a_cancelled_job_is_not_requeued_and_the_same_command_goes_on(
    slurm: Slurm, submit: Submit, whole: Undisturbed
) -> None:
    job = submit()
    job.freeze(4)
    asked = time.time()
    slurm.call("scancel", job.number)
    ended = slurm.wait(job.number)
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0"), job.logs()
    until("the ranks have ended", lambda: not job.ranks())
    assert (job.run_dir / "PREEMPTED").exists(), job.logs()
    again = submit()
    again.asked, again.queued = asked, time.time()
    again.saved = (job.run_dir / "PREEMPTED").stat().st_mtime
    again.went_on(whole, "scancel and the same command")
    assert len(list(job.run_dir.glob("submitted/*/config.yaml"))) == 2


@pytest.mark.long
def test_a_killed_rank_ends_the_step_and_the_job_goes_on(slurm: Slurm, submit: Submit, whole: Undisturbed) -> None:
    job = submit()
    ranks = job.freeze(4)
    asked = time.time()
    os.kill(ranks[1], signal.SIGKILL)
    os.kill(ranks[0], signal.SIGCONT)
    job.back_in_the_queue(asked)
    assert "exit code 137: back into the queue" in job.log()
    assert "another process of the run has ended" in job.logs()
    assert job.queued - asked < 30
    job.went_on(whole, "a rank killed")


@pytest.mark.long
@pytest.mark.parametrize("patience_s", [10, 300])
def test_a_node_that_dies(slurm: Slurm, submit: Submit, whole: Undisturbed, patience_s: int) -> None:
    """SLURM gives it up after SlurmdTimeout; where that is 300 s, the job is faster, since a rank lost its peer."""
    job = submit()
    ranks = job.freeze(4)
    slurm.set_patience(patience_s)
    asked = time.time()
    slurm.kill_node("127.0.0.2", _parent(ranks[1]), ranks[1])
    os.kill(ranks[0], signal.SIGCONT)
    if patience_s == 300:  # else SLURM has ended the job by then
        until("the job gives up the step", lambda: "exit code 1: back into the queue" in job.log(), timeout=180)
        slurm.start_node("127.0.0.2")  # or SLURM would wait for it
    job.back_in_the_queue(asked)
    if patience_s == 10:
        slurm.start_node("127.0.0.2")
    job.went_on(whole, f"a node dead, SlurmdTimeout={patience_s}")


@pytest.mark.long
def test_a_node_that_slurm_loses_while_its_rank_lives(slurm: Slurm, submit: Submit, whole: Undisturbed) -> None:
    job = submit()
    ranks = job.freeze(4)
    slurm.set_patience(10)
    asked = time.time()
    slurm.kill_node("127.0.0.2")
    until("SLURM ends the step on the other node", lambda: _state_of(ranks[0]) != "T", timeout=120)
    os.kill(ranks[1], signal.SIGCONT)
    job.back_in_the_queue(asked)
    slurm.start_node("127.0.0.2")
    job.went_on(whole, "a slurmd dead")


@pytest.mark.long
@pytest.mark.parametrize("name", ["USR1", "TERM"])
def test_a_late_signal_does_not_fail_a_job_that_is_done(
    slurm: Slurm, submit: Submit, whole: Undisturbed, name: str
) -> None:
    """Between the last save, after which summary.json is written, and the end of the process."""
    job = submit()
    ranks = job.freeze(4)
    for pid in ranks.values():
        os.kill(pid, signal.SIGCONT)
    until("the summary", (job.run_dir / "summary.json").exists, every=0.001)
    alive = job.ranks()
    for pid in alive.values():
        os.kill(pid, signal.SIGSTOP)
    assert alive, "the ranks were faster than this test"
    slurm.call("scancel", f"--signal={name}", job.number)
    time.sleep(2)
    for pid in alive.values():
        os.kill(pid, signal.SIGCONT)
    ended = slurm.wait(job.number)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "0"), job.logs()
    same_end(job.run_dir, whole)


def _signal(pid: int, name: signal.Signals) -> None:
    try:
        os.kill(pid, name)
    except ProcessLookupError:
        pass  # SLURM was faster


def _parent(pid: int) -> int:
    return int(_fields(pid)[1])


def _state_of(pid: int) -> str:
    """T for stopped."""
    return _fields(pid)[0]


def _fields(pid: int) -> list[str]:
    return _content(Path(f"/proc/{pid}/stat")).decode().rpartition(")")[2].split() or ["gone"]
