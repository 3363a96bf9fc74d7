"""Jobs on Kubernetes: ConfigMap, headless Service, NetworkPolicy and Indexed Job, applied by the user's own kubectl."""

import shutil
import subprocess
import sys

from scripts.k8s.manifests import job_name, render
from scripts.k8s.pod import configuration_in_pod
from scripts.submission import Submission, SubmitConfig
from sources.errors import ClusterError
from sources.text import shell_word
from training.run_dir.plain_yaml import dump

_SLURM_ONLY = ("time", "signal_s", "partition", "account", "qos", "constraint", "container_image", "setup", "extra")


def submit(config: Submission, dry_run: bool) -> None:
    """Render the job of a resolved configuration and apply it; with ``dry_run`` print its manifests instead.

    Raises ConfigError for a configuration that cannot run in pods, ClusterError without kubectl or if the cluster
    refuses.
    """
    inside = configuration_in_pod(config)
    options, default = config.submit, SubmitConfig()
    changed = [f"submit.{name}" for name in _SLURM_ONLY if getattr(options, name) != getattr(default, name)]
    if changed:
        print(f"note: no effect on Kubernetes, only on SLURM: {', '.join(changed)}", file=sys.stderr)
    text = dump(render(inside))
    if dry_run:
        print(text, end="")
        return
    # The server checks everything first, so that a refusal leaves no half of a job behind.
    _apply(text, "--dry-run=server", "--validate=strict")
    print(_apply(text), end="")
    print(_how_to_follow(inside))


def _apply(manifests: str, *options: str) -> str:
    """What ``kubectl apply`` answers. Raises ClusterError with kubectl's own message if it is refused."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise ClusterError(
            "there is no kubectl on PATH: install it and choose your cluster as its context, or print the manifests "
            "with --dry-run and apply them elsewhere."
        )
    command = [kubectl, "apply", "-f", "-", *options]
    done = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"kubectl apply failed, exit code {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _how_to_follow(config: Submission) -> str:
    name = job_name(config)
    kubectl = f"kubectl -n {shell_word(config.submit.k8s.namespace)}"
    rank_0 = f"batch.kubernetes.io/job-name={name},batch.kubernetes.io/job-completion-index=0"
    return (
        f"job {name}, run directory {config.run_dir}\n"
        f"  log     {kubectl} logs -f --tail=-1 -l {rank_0}\n"
        f"  state   {kubectl} get job,pods -l app.kubernetes.io/instance={name}\n"
        f"  remove  {kubectl} delete job,service,configmap,networkpolicy -l app.kubernetes.io/instance={name}"
    )
