"""Jobs on Kubernetes: what is rendered, that it fits the schemas, and a sentence for each mistake."""

import functools
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hydra import compose, initialize_config_dir

from scripts import submit
from scripts.k8s.manifests import job_name, render
from scripts.k8s.pod import configuration_in_pod, memory_quantity
from scripts.submission import Submission
from training.config.compose import check, register
from training.processes.preemption import EXIT_CODE
from training.run_dir.plain_yaml import dump

Manifests = dict[str, dict[str, Any]]

IMAGE = "submit.k8s.image=registry.example/imagenet-ais:1"
CLAIMS = ["submit.k8s.runs_claim=runs", "submit.k8s.data_claim=imagenet", "data.root=/data/imagenet"]
ON_CPUS = [IMAGE, *CLAIMS, "run_dir=runs/first"]
ON_GPUS = [
    *(IMAGE, *CLAIMS, "run_dir=/runs/big", "submit.nodes=2", "submit.gpus_per_node=8", "submit.cpus_per_task=12"),
    *("submit.mem=900G", 'submit.k8s.resources=["rdma/hca=1"]', "submit.k8s.queue=research"),
    *('submit.k8s.near="app.kubernetes.io/name=ais"', 'submit.k8s.node_selector=["pool=a100"]'),
]
FROM_AIS = [
    *(IMAGE, "data=aistore", "data.endpoint=https://ais:51080", "run_mirror=ais://runs/k8s", "run_dir=mirrored"),
    *(
        "submit.k8s.ais_token_secret=ais-token",
        "submit.k8s.ais_ca_secret=ais-ca",
        "submit.k8s.ais_cert_secret=ais-cert",
    ),
]
JOBS = pytest.mark.parametrize("overrides", [ON_CPUS, ON_GPUS, FROM_AIS], ids=["cpus", "gpus", "ais"])


@pytest.fixture(autouse=True)
def run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_ID", "20260102-030405")
    monkeypatch.delenv("AIS_ENDPOINT", raising=False)


@functools.cache
def resolved(*overrides: str) -> Submission:
    [config] = submit.resolve(list(overrides), multirun=False)
    return config


def configure(*overrides: str) -> Submission:
    return configuration_in_pod(resolved(*overrides))


def manifests(*overrides: str) -> Manifests:
    """By kind, after a round trip through the YAML that kubectl reads."""
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(dump(render(configure(*overrides))))}


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    [container] = pod_of(job)["containers"]
    assert isinstance(container, dict)
    return container


def environment_of(job: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container_of(job)["env"]}


def mounted(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The source of the volume at each path."""
    sources = {volume["name"]: volume for volume in pod_of(job)["volumes"]}
    mounts = container_of(job)["volumeMounts"]
    assert {mount["name"] for mount in mounts} == set(sources)
    return {mount["mountPath"]: sources[mount["name"]] | {"mount": mount} for mount in mounts}


@JOBS
def test_every_object_fits_the_newest_schema_strictly(overrides: list[str]) -> None:
    kinds = manifests(*overrides)
    assert list(kinds) == ["ConfigMap", "Service", "NetworkPolicy", "Job"]
    for manifest in kinds.values():
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_schemas_would_find_a_wrong_name() -> None:
    job = manifests(*ON_CPUS)["Job"]
    pod_of(job)["terminationGraceSeconds"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


@JOBS
def test_what_train_py_composes_in_the_pod_is_what_was_resolved(overrides: list[str], tmp_path: Path) -> None:
    kinds = manifests(*overrides)
    words = container_of(kinds["Job"])["args"]
    script, *options = words[words.index("train.py") :]
    assert (script, options) == ("train.py", ["--config-path", "/etc/imagenet-ais", "--config-name", "config"])
    volume = mounted(kinds["Job"])["/etc/imagenet-ais"]
    assert volume["configMap"]["name"] == kinds["ConfigMap"]["metadata"]["name"]
    [(name, text)] = kinds["ConfigMap"]["data"].items()
    (tmp_path / name).write_text(text)
    register()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        composed = check(compose("config"))
    assert composed == configure(*overrides).run


@JOBS
def test_the_launcher_is_the_command_and_the_rendezvous_is_static(overrides: list[str]) -> None:
    kinds = manifests(*overrides)
    config, job = configure(*overrides), kinds["Job"]
    container, name = container_of(job), job["metadata"]["name"]
    assert container["command"] == ["python", "-m", "training.processes.launch"]
    assert container["args"][:6] == [
        f"--nnodes={config.submit.nodes}",
        f"--nproc-per-node={config.submit.tasks_on_a_node}",
        "--node-rank=$(JOB_COMPLETION_INDEX)",
        f"--master-addr={name}-0.{name}",
        "--master-port=29500",
        "--max-restarts=0",
    ]
    assert job["spec"]["completionMode"] == "Indexed"
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == config.submit.nodes
    service = kinds["Service"]
    assert service["metadata"]["name"] == pod_of(job)["subdomain"] == name
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}


def action_for(job: dict[str, Any], exit_code: int, conditions: list[str]) -> str:
    """What the Job controller does about a failed pod: the first rule that fits; without one it counts."""
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        codes, patterns = rule.get("onExitCodes"), rule.get("onPodConditions")
        assert (codes is None) != (patterns is None)
        if codes:
            assert (codes["containerName"], codes["operator"]) == (container_of(job)["name"], "In")
        if (codes and exit_code in codes["values"]) or any(p["type"] in conditions for p in patterns or []):
            return str(rule["action"])
    return "Count"


@pytest.mark.parametrize(
    ("exit_code", "conditions", "action"),
    [
        (EXIT_CODE, ["DisruptionTarget"], "Ignore"),  # evicted, and saved
        (EXIT_CODE, [], "Ignore"),  # its peer was evicted
        (137, ["DisruptionTarget"], "Ignore"),  # evicted, and too slow
        (2, ["DisruptionTarget"], "Ignore"),
        (2, [], "FailJob"),
        (1, [], "Count"),
        (137, [], "Count"),  # killed, as for its memory
    ],
)
def test_which_failures_count(exit_code: int, conditions: list[str], action: str) -> None:
    assert action_for(manifests(*ON_CPUS)["Job"], exit_code, conditions) == action


def test_a_failed_pod_is_replaced_by_the_job_alone_and_when_it_is_gone() -> None:
    job = manifests(*ON_GPUS, "submit.k8s.backoff_limit=3")["Job"]
    assert pod_of(job)["restartPolicy"] == "Never"
    assert job["spec"]["podReplacementPolicy"] == "Failed"
    assert job["spec"]["backoffLimit"] == 6, "each of the two pods counts once in every failed attempt"


def test_the_launcher_waits_for_a_save_as_long_as_the_grace_period_allows() -> None:
    job = manifests(*ON_CPUS, "submit.k8s.grace_s=300")["Job"]
    assert pod_of(job)["terminationGracePeriodSeconds"] == 300
    assert environment_of(job)["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "295"


@JOBS
def test_pods_are_not_root_and_have_no_privileges(overrides: list[str]) -> None:
    job = manifests(*overrides, "submit.k8s.run_as_user=4321")["Job"]
    pod = pod_of(job)
    user = {"runAsNonRoot": True, "runAsUser": 4321, "runAsGroup": 4321, "fsGroup": 4321}
    assert user.items() <= pod["securityContext"].items()
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container_of(job)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = {path for path, volume in mounted(job).items() if not volume["mount"].get("readOnly")}
    assert writable == {"/dev/shm", "/tmp", "/runs"}
    assert environment_of(job)["HOME"] == "/tmp"


def test_a_job_on_cpus() -> None:
    job = manifests(*ON_CPUS, "submit.tasks_per_node=2", "submit.cpus_per_task=3", "submit.mem=8G")["Job"]
    expected = {"cpu": "6", "memory": "8Gi", "ephemeral-storage": "20Gi"}
    assert container_of(job)["resources"] == {"requests": expected, "limits": expected}
    for absent in ("nodeSelector", "affinity", "tolerations"):
        assert absent not in pod_of(job)
    assert "suspend" not in job["spec"] and "kueue.x-k8s.io/queue-name" not in job["metadata"]["labels"]


def test_a_job_on_gpus_with_rdma_in_a_queue_near_ais() -> None:
    kinds = manifests(*ON_GPUS)
    job, pod = kinds["Job"], pod_of(kinds["Job"])
    expected = {"cpu": "96", "memory": "900Gi", "ephemeral-storage": "20Gi", "nvidia.com/gpu": "8", "rdma/hca": "1"}
    assert container_of(job)["resources"] == {"requests": expected, "limits": expected}
    assert pod["nodeSelector"] == {"pool": "a100"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert job["spec"]["suspend"] is True
    [affinity] = pod["affinity"].values()
    assert list(affinity) == ["preferredDuringSchedulingIgnoredDuringExecution"]
    terms = [term["podAffinityTerm"] for term in affinity["preferredDuringSchedulingIgnoredDuringExecution"]]
    assert [term["topologyKey"] for term in terms] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for term in terms:
        assert term["labelSelector"] == {"matchLabels": {"app.kubernetes.io/name": "ais"}}
        assert term["namespaceSelector"] == {}, "AIStore has a namespace of its own"
    assert configure(*ON_GPUS).device == "cuda"


def test_claims_and_shared_memory() -> None:
    volumes = mounted(manifests(*ON_CPUS, "submit.k8s.shm_size=2Gi")["Job"])
    assert volumes["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    assert volumes["/runs"]["persistentVolumeClaim"] == {"claimName": "runs"}
    assert volumes["/data"]["persistentVolumeClaim"] == {"claimName": "imagenet", "readOnly": True}
    assert volumes["/data"]["mount"]["readOnly"] is True


def test_a_mirror_in_place_of_a_claim() -> None:
    config, kinds = configure(*FROM_AIS), manifests(*FROM_AIS)
    assert (config.run_mirror, config.run_dir) == ("ais://runs/k8s", "/runs/mirrored")
    assert mounted(kinds["Job"])["/runs"]["emptyDir"] == {"sizeLimit": "20Gi"}


def test_memory_and_disk_are_limited_always() -> None:
    job = manifests(*ON_CPUS, "submit.tasks_per_node=2", "submit.k8s.ephemeral_storage=3Gi")["Job"]
    expected = {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "3Gi"}
    assert container_of(job)["resources"] == {"requests": expected, "limits": expected}
    volumes = [volume["emptyDir"] for volume in pod_of(job)["volumes"] if "emptyDir" in volume]
    assert len(volumes) == 2 and all(volume["sizeLimit"] for volume in volumes)
    assert mounted(job)["/tmp"]["emptyDir"] == {"sizeLimit": "3Gi"}


@JOBS
def test_nobody_but_the_jobs_own_pods_reaches_its_ports(overrides: list[str]) -> None:
    kinds = manifests(*overrides)
    policy, labels = kinds["NetworkPolicy"]["spec"], kinds["Job"]["spec"]["template"]["metadata"]["labels"]
    chosen = policy["podSelector"]["matchLabels"]
    assert chosen.items() <= labels.items() and kinds["Job"]["metadata"]["name"] in chosen.values()
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": [{"podSelector": {"matchLabels": chosen}}]}]
    assert list(kinds) == ["ConfigMap", "Service", "NetworkPolicy", "Job"], "the policy is there before the pods are"
    assert "NetworkPolicy" not in manifests(*overrides, "submit.k8s.network_policy=false")


@pytest.mark.parametrize(
    "value", ["08", "1e3", "0o17", "on", "null", "1_000", "0x1f", "2026-01-02", ".5", "~", "12:30"]
)
def test_labels_that_look_like_numbers_are_texts_to_go_too(value: str) -> None:
    text = dump(render(configure(*ON_CPUS, f'submit.k8s.node_selector=["pool={value}"]')))
    assert f'pool: "{value}"\n' in text


def test_secrets_are_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_AUTHN_TOKEN", "the-token-of-whoever-submits")
    kinds = manifests(*FROM_AIS)
    env, volumes = environment_of(kinds["Job"]), mounted(kinds["Job"])
    assert "AIS_AUTHN_TOKEN" not in env, "a variable stays as it was when the pod started"
    files = {
        "AIS_AUTHN_TOKEN_FILE": ("ais-token", "token"),
        "AIS_CLIENT_CA": ("ais-ca", "ca.crt"),
        "AIS_CRT": ("ais-cert", "tls.crt"),
        "AIS_CRT_KEY": ("ais-cert", "tls.key"),
    }
    for variable, (secret, key) in files.items():
        folder, name = os.path.split(env[variable])
        source = volumes[folder]["secret"]
        assert source["secretName"] == secret and {"key": key, "path": name} in source["items"]
        assert source["defaultMode"] == 0o440, "the pods' group reads it, and nobody else"
    assert "the-token" not in json.dumps(kinds)
    assert "Secret" not in kinds


def test_the_endpoint_of_the_environment_travels_in_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIS_ENDPOINT", "http://ais:51080")
    resolved.cache_clear()
    assert configure(*FROM_AIS, "data.endpoint=").data.endpoint == "http://ais:51080"
    assert configure(*ON_CPUS).data.endpoint == ""


@pytest.mark.parametrize(
    ("run_dir", "expected", "name"),
    [
        ("runs/first", "/runs/first", "imagenet-first"),
        ("/runs/a/b", "/runs/a/b", "imagenet-b"),
        ("here", "/runs/here", "imagenet-here"),
    ],
)
def test_run_directories_and_names(run_dir: str, expected: str, name: str) -> None:
    config = configure(IMAGE, *CLAIMS, f"run_dir={run_dir}")
    assert config.run_dir == expected
    assert job_name(config) == name


@pytest.mark.parametrize("run_id", ["A.B_c", "a-b-c", "A-b-c", "x" * 200, "-", "é", "lr=0.1"])
@pytest.mark.parametrize("name", ["a", "n" * 40])
def test_names_are_dns_labels_of_52_characters_and_do_not_meet(run_id: str, name: str) -> None:
    config = configure(*ON_CPUS, f"submit.name={name}")
    mine, other = (job_name(replace(config, run_dir=f"/runs/{word}")) for word in (run_id, f"{run_id}."))
    assert mine != other
    for word in (mine, other):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", word) and len(word) <= 52


def test_a_job_keeps_its_name_and_its_configuration_is_never_replaced() -> None:
    first, again = manifests(*ON_CPUS), manifests(*ON_CPUS)
    assert first == again
    assert first["ConfigMap"]["immutable"] is True
    for manifest in first.values():
        assert manifest["metadata"]["namespace"] == "default"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "imagenet-first"


@pytest.mark.parametrize(
    ("mem", "expected"), [("", ""), ("200G", "200Gi"), ("512", "512Mi"), ("1T", "1Ti"), ("64Gi", "64Gi"), ("9M", "9Mi")]
)
def test_memory_in_sbatchs_notation(mem: str, expected: str) -> None:
    assert memory_quantity(mem) == expected


# --- the command ---


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = submit.main(["k8s", *words])
    output = capsys.readouterr()
    return code, output.out, output.err


KUBECTL = """\
#!/bin/sh
echo "$*" >> "$KUBECTL_LOG"
cat > "$KUBECTL_LOG.stdin"
for word in $*; do
  [ "$word" = "$KUBECTL_REFUSES" ] && { echo "$KUBECTL_MESSAGE" >&2; exit 1; }
done
echo "job.batch/imagenet-first created"
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that writes down how it was called; it refuses calls with the word $KUBECTL_REFUSES."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("KUBECTL_LOG", str(tmp_path / "calls"))
    monkeypatch.setenv("KUBECTL_REFUSES", "nothing")
    return tmp_path / "calls"


def test_a_dry_run_prints_the_manifests_and_asks_nobody(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    code, out, _ = run(capsys, "--dry-run", *ON_GPUS)
    assert code == 0
    assert list(yaml.safe_load_all(out)) == list(manifests(*ON_GPUS).values())
    assert "config.yaml: |\n" in out, "the configuration is to be read by people"


def test_it_is_checked_by_the_server_and_then_applied(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *ON_GPUS)
    assert (code, err) == (0, "")
    checked, applied = kubectl.read_text().splitlines()
    assert checked == "apply -f - --dry-run=server --validate=strict"
    assert applied == "apply -f -"
    assert list(yaml.safe_load_all(kubectl.with_name("calls.stdin").read_text())) == list(manifests(*ON_GPUS).values())
    assert "imagenet-first created" in out and "job imagenet-big, run directory /runs/big" in out
    for command in ("logs -f", "get job,pods", "delete job,service,configmap"):
        assert f"kubectl -n default {command}" in out


def test_a_job_for_each_combination(kubectl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--multirun", IMAGE, *CLAIMS, "seed=0,1")
    assert code == 0
    assert len(set(re.findall(r"^job (\S+),", out, re.MULTILINE))) == 2
    assert len(kubectl.read_text().splitlines()) == 4


@pytest.mark.parametrize("refused", ["--dry-run=server", "apply"])
def test_a_refusal_is_passed_on(
    refused: str, kubectl: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = 'Error from server (Forbidden): configmaps is forbidden: User "eve" cannot create resource "configmaps"'
    monkeypatch.setenv("KUBECTL_REFUSES", refused)
    monkeypatch.setenv("KUBECTL_MESSAGE", message)
    code, out, err = run(capsys, *ON_CPUS)
    assert (code, out) == (1, "")
    assert err == f"error: kubectl apply failed, exit code 1: {message}\n"
    assert len(kubectl.read_text().splitlines()) == 1, "nothing is applied after a refusal"


def test_options_of_slurm_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--dry-run", *ON_CPUS, "submit.partition=gpu", "submit.time=1:00:00")
    assert code == 0
    assert err == "note: no effect on Kubernetes, only on SLURM: submit.time, submit.partition\n"


def test_data_that_no_claim_holds_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--dry-run", IMAGE, "submit.k8s.runs_claim=runs", "data.root=/imagenet")
    assert code == 0
    assert err.startswith("note: the pods have data.root=/imagenet only if the image holds it")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.root=/data", "submit.k8s.runs_claim=runs"], "submit.k8s.image is not set"),
        (["data.root=/data", IMAGE], "neither submit.k8s.runs_claim nor run_mirror is set"),
        ([*ON_CPUS, "run_mirror=ais://runs/a"], "run_mirror=ais://runs/a needs a cluster that the pods reach"),
        ([*ON_CPUS, "run_dir=/home/me/run"], "run_dir=/home/me/run does not lie in submit.k8s.runs_mount=/runs"),
        ([*ON_CPUS, "run_dir=/runs"], "does not lie in"),
        ([*ON_CPUS, "run_dir=/runs/../etc"], "does not lie in"),
        ([*ON_CPUS, "run_dir=.."], "does not lie in"),
        ([*ON_CPUS, "run_dir=."], "does not lie in"),
        ([*ON_CPUS, "run_dir=/runs/x", "submit.k8s.runs_mount=runs"], "does not lie in submit.k8s.runs_mount=runs"),
        ([*ON_CPUS, "data.root=/imagenet"], "data.root=/imagenet does not lie in submit.k8s.data_mount=/data"),
        (
            [*ON_CPUS, "data=shards", "data.root=", "data.val_shards=/data/v.tar", "data.train_shards=/wds/{0..9}.tar"],
            "data.train_shards=/wds/{0..9}.tar does not lie in submit.k8s.data_mount=/data",
        ),
        ([*ON_CPUS, "submit.mem=lots"], "submit.mem=lots is not an amount of memory such as 200G"),
        ([*ON_CPUS, "submit.mem=0G"], "submit.mem=0G is not an amount"),
        ([*ON_CPUS, "submit.k8s.ephemeral_storage=lots"], "submit.k8s.ephemeral_storage=lots is not an amount such as"),
        ([*ON_CPUS, "submit.k8s.shm_size=0"], "submit.k8s.shm_size=0 is not an amount such as 20Gi"),
        ([*ON_CPUS, 'run_dir="/runs/a\x85b"'], "run_dir="),
        ([*ON_CPUS, 'submit.k8s.queue="a\u2028b"'], "submit.k8s.queue="),
        ([*ON_CPUS, "submit.k8s.run_as_user=0"], "submit.k8s.run_as_user must be 1 or more"),
    ],
)
def test_a_mistake_is_a_sentence(overrides: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--dry-run", *overrides)
    assert (code, out) == (2, "")
    assert expected in err and err.startswith("error: ") and len(err.splitlines()) == 1


def test_no_kubectl(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = run(capsys, *ON_CPUS)
    assert code == 1
    assert err.startswith("error: there is no kubectl on PATH") and len(err.splitlines()) == 1
