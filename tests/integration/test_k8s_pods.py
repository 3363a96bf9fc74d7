"""The pods of a rendered job as processes of this machine: run, evict one, resume, complete."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts import submit
from scripts.k8s.manifests import render
from scripts.k8s.pod import configuration_in_pod
from tests.conftest import PROJECT, TINY
from tests.unit.test_k8s import container_of

JOB = [
    *(*TINY, "data=synthetic", "data.train_samples=1200", "data.val_samples=12", "train.epochs=1", "device=cpu"),
    *("model.name=shufflenet_v2_x0_5", "submit.nodes=2", "submit.k8s.image=none", "submit.k8s.runs_claim=runs"),
]


class Pods:
    """Both pods: the command, the arguments and the environment of the manifest, with paths and names of this machine."""

    def __init__(self, folder: Path) -> None:
        [resolved] = submit.resolve([*JOB, "run_dir=first", f"submit.k8s.runs_mount={folder}/runs"], multirun=False)
        config_map, service, _, self.job = render(configuration_in_pod(resolved))
        self.name = service["metadata"]["name"]
        self.folder, self.living = folder, list[subprocess.Popen[bytes]]()
        for name, text in config_map["data"].items():
            (folder / name).write_text(text)

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        here = {
            "/etc/imagenet-ais": str(self.folder),
            f"{self.name}-0.{self.name}": "127.0.0.1",
            "29500": port,
        }
        for index in range(self.job["spec"]["completions"]):
            self.living.append(self._start(index, here | {"$(JOB_COMPLETION_INDEX)": str(index)}))

    def _start(self, index: int, replacements: dict[str, str]) -> "subprocess.Popen[bytes]":
        container: dict[str, Any] = container_of(self.job)
        words = [sys.executable, *container["command"][1:], *container["args"]]
        for theirs, ours in replacements.items():
            words = [word.replace(theirs, ours) for word in words]
        environment = os.environ | {entry["name"]: entry["value"] for entry in container["env"]}
        with open(self.log(index), "wb") as log:
            return subprocess.Popen(words, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def log(self, index: int) -> Path:
        return self.folder / f"pod-{index}.log"

    def wait(self) -> list[int]:
        codes = [pod.wait(180) for pod in self.living]
        self.living.clear()
        return codes


@pytest.fixture
def pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pods]:
    monkeypatch.setenv("RUN_ID", "unused")
    started = Pods(tmp_path)
    yield started
    for pod in started.living:
        pod.kill()
        pod.wait()


def test_an_evicted_pod_stops_the_job_and_new_pods_go_on(pods: Pods) -> None:
    pods.start()
    end = time.monotonic() + 120
    while "step 2/" not in pods.log(0).read_text():
        assert time.monotonic() < end and pods.living[0].poll() is None, pods.log(0).read_text()
        time.sleep(0.1)
    pods.living[1].send_signal(signal.SIGTERM)  # as the kubelet does, to the first process
    assert pods.wait() == [85, 85], "the peer of the evicted pod saves and stops too"
    assert "stopped on request" in pods.log(0).read_text()
    pods.start()
    assert pods.wait() == [0, 0]
    log = pods.log(0).read_text()
    assert "going on from" in log and "done: acc@1" in log
    assert json.loads((pods.folder / "runs" / "first" / "summary.json").read_text())["samples_seen"] == 1200
