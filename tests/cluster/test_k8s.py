"""Jobs on a real Kubernetes: the API server's strict check; then run, evict, resume, complete.

    KUBECONFIG=… IMAGENET_K8S_TEST=1 IMAGENET_K8S_IMAGE=… IMAGENET_K8S_CLAIM=… python -m pytest tests/cluster/test_k8s.py

Jobs are made, and deleted again, in IMAGENET_K8S_NAMESPACE (default). The image is the Dockerfile's, CPU-only torch is
enough; the claim keeps run directories, and is ReadWriteMany where pods come to several nodes. Without image and claim
only the API server is asked, which then needs no nodes.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scripts.k8s.manifests import render
from tests.conftest import PROJECT
from tests.unit.test_k8s import JOBS, ON_CPUS, configure, container_of, pod_of
from training.run_dir.plain_yaml import dump

NAMESPACE = os.environ.get("IMAGENET_K8S_NAMESPACE", "default")
IMAGE = os.environ.get("IMAGENET_K8S_IMAGE")
CLAIM = os.environ.get("IMAGENET_K8S_CLAIM")
SMALL = [
    *("data=synthetic", "data.image_size=32", "data.val_image_size=32", "data.val_resize=36", "data.val_samples=16"),
    *("data.train_samples=2400", "model.name=shufflenet_v2_x0_5", "train.batch_size=8", "train.epochs=8"),
    *(
        "optim.lr=0.001",
        "train.log_every=10",
        "threads=1",
        "submit.cpus_per_task=1",
        "submit.mem=2G",
        "submit.k8s.shm_size=256Mi",
    ),
]
"""A run of a minute or a few, most of which is still to come when its first lines are logged."""

pytestmark = pytest.mark.skipif(
    os.environ.get("IMAGENET_K8S_TEST") != "1" or not os.environ.get("KUBECONFIG"),
    reason="needs a Kubernetes cluster: set IMAGENET_K8S_TEST=1 and KUBECONFIG",
)
runs_pods = pytest.mark.skipif(
    not (IMAGE and CLAIM), reason="needs nodes that run pods: set IMAGENET_K8S_IMAGE and IMAGENET_K8S_CLAIM"
)


def kubectl(*words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    command = ["kubectl", "-n", NAMESPACE, *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)


def get(*words: str) -> Any:
    answer = kubectl("get", *words, "-o", "json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def wait_for(what: str, condition: Callable[[], Any], timeout_s: float = 900) -> Any:
    """The first true answer of ``condition``."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if answer := condition():
            return answer
        time.sleep(1)
    raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s\n{kubectl('get', 'job,pods').stdout}")


class Job:
    """A submitted job."""

    def __init__(self, name: str) -> None:
        self.name = name

    def pod(self, index: int, other_than: str = "") -> Any:
        """The newest pod of a completion index, if it is not the one of a uid."""
        pods = get("pods", "-l", f"batch.kubernetes.io/job-name={self.name}")["items"]
        wanted = [
            pod
            for pod in pods
            if pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] == str(index)
            and pod["metadata"]["uid"] != other_than
        ]
        return max(wanted, key=lambda pod: pod["metadata"]["creationTimestamp"], default=None)

    def log(self, pod: Any) -> str:
        return kubectl("logs", pod["metadata"]["name"]).stdout if pod else ""

    def ended(self) -> tuple[str, str] | None:
        """Its last condition's type and reason, once it is Complete or Failed."""
        conditions = get("job", self.name)["status"].get("conditions", [])
        final = [c for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"]
        return (final[0]["type"], final[0].get("reason", "")) if final else None


@pytest.fixture
def submit() -> Iterator[Callable[..., Job]]:
    """Submits as a user does; removes what it made."""
    names = []

    def call(*overrides: str) -> Job:
        run_id = f"test-{uuid.uuid4().hex[:8]}"
        names.append(f"imagenet-{run_id}")
        where = [f"submit.k8s.namespace={NAMESPACE}", f"submit.k8s.image={IMAGE}", f"submit.k8s.runs_claim={CLAIM}"]
        done = subprocess.run(
            [sys.executable, "-m", "scripts.submit", "k8s", *SMALL, *where, f"run_dir=runs/{run_id}", *overrides],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert f"job {names[-1]}, run directory /runs/{run_id}" in done.stdout
        return Job(names[-1])

    yield call
    for name in names:
        kubectl("delete", "job,service,configmap", "-l", f"app.kubernetes.io/instance={name}", "--wait=false")


@JOBS
def test_the_server_takes_every_object_strictly(overrides: list[str]) -> None:
    manifests = render(configure(*overrides, f"submit.k8s.namespace={NAMESPACE}"))
    answer = kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=dump(manifests))
    assert answer.returncode == 0, answer.stderr
    assert not answer.stderr, "the server warns"
    assert len(answer.stdout.splitlines()) == 3


def break_policy(job: dict[str, Any]) -> None:
    pod_of(job)["restartPolicy"] = "OnFailure"  # podFailurePolicy wants Never


def break_mount(job: dict[str, Any]) -> None:
    container_of(job)["volumeMounts"][0]["name"] = "none"


def break_name(job: dict[str, Any]) -> None:
    pod_of(job)["terminationGraceSeconds"] = 1


@pytest.mark.parametrize("damage", [break_policy, break_mount, break_name])
def test_the_server_would_find_a_mistake(damage: Callable[[dict[str, Any]], None]) -> None:
    manifests = render(configure(*ON_CPUS, f"submit.k8s.namespace={NAMESPACE}"))
    damage(manifests[2])
    answer = kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=dump(manifests))
    assert answer.returncode != 0


def test_a_job_that_the_server_refuses_leaves_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    from scripts import submit as command

    name = f"test-{uuid.uuid4().hex[:8]}"
    words = [*ON_CPUS, f"run_dir=runs/{name}", f"submit.k8s.namespace={NAMESPACE}", "submit.k8s.shm_size=much"]
    assert command.main(["k8s", *words]) == 1
    assert "quantities must match" in capsys.readouterr().err
    for kind in ("configmap", "service", "job"):
        assert not get(kind, "-l", f"app.kubernetes.io/instance=imagenet-{name}")["items"]


@runs_pods
def test_run_evict_resume_complete(submit: Callable[..., Job]) -> None:
    job = submit("submit.nodes=2")
    wait_for("the first steps", lambda: "step 10/" in job.log(job.pod(0)))
    first, evicted = job.pod(0), job.pod(1)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": evicted["metadata"]["name"]}}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{evicted['metadata']['name']}/eviction"
    answer = kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    assert answer.returncode == 0, answer.stderr

    uid = first["metadata"]["uid"]
    wait_for("another first pod", lambda: job.pod(0, other_than=uid))
    [status] = get("pod", first["metadata"]["name"])["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 85, "the peer of the evicted pod saved and stopped too"
    assert "stopped on request" in job.log(first)
    assert job.pod(1, other_than=evicted["metadata"]["uid"])

    assert wait_for("the end", job.ended)[0] == "Complete"
    log = job.log(job.pod(0))
    assert "going on from /runs/" in log and "done: acc@1" in log
    assert get("job", job.name)["status"].get("failed", 0) == 0, "an eviction is no failure"


@runs_pods
def test_a_wrong_configuration_fails_the_job_at_once(submit: Callable[..., Job]) -> None:
    job = submit("device=cuda")  # on pods without GPUs: exit code 2
    assert wait_for("the end", job.ended) == ("Failed", "PodFailurePolicy")
    assert "torch sees no GPU here" in job.log(job.pod(0))
    assert get("job", job.name)["status"]["failed"] == 1, "it was not tried again"
