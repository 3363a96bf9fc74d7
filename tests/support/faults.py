"""Everything that may break while a run goes on, by name; what the user waits, and that the run ends the same."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Result
from tests.support.link import Fault
from tests.support.place import Place, after

Inject = Callable[[Place], None]


def on_links(fault: Fault, seconds: float, *names: str) -> Inject:
    """A fault of some links for a while."""

    def inject(place: Place) -> None:
        links = [getattr(place, name) for name in names or ("to_target",)]
        for link in links:
            link.fault = fault
        after(seconds, lambda: [setattr(link, "fault", None) for link in links])  # type: ignore[func-returns-value]

    return inject


def kill_pods(place: Place) -> None:
    for pid in place.pods():
        os.kill(pid, signal.SIGKILL)


def kill_workers(place: Place) -> None:
    for pid in set(place.processes()) - set(place.pods()):
        os.kill(pid, signal.SIGKILL)


def freeze_pods(place: Place) -> None:
    pods = place.processes()
    for pid in pods:
        os.kill(pid, signal.SIGSTOP)

    def thaw() -> None:
        for pid in pods:
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGCONT)

    after(4, thaw)


def stop_etl(place: Place) -> None:
    place.client.etl("imagenet-train").stop()


def delete_etl(place: Place) -> None:
    place.client.etl("imagenet-train").stop()
    place.client.etl("imagenet-train").delete()


ETL = "etl_name="
OOM = b'{"message":"Put \\"http://pod\\": EOF"}'
RAISED = b'{"message":"ETL error: {\\"detail\\":\\"Processing error: injected\\"}"}'
FAULTS: dict[str, Inject] = {
    "ETL pods killed (SIGKILL)": kill_pods,
    "ETL pods hang (SIGSTOP), and go on after 4 s": freeze_pods,
    "ETL stopped": stop_etl,
    "ETL deleted": delete_etl,
    "the pods' workers killed, as for their memory": kill_workers,
    "transform fails for some objects": on_links(Fault("status", "train/cat/1.*etl_name=", body=RAISED), 60),
    "the pod runs out of memory (400 EOF)": on_links(Fault("status", ETL, code=400, body=OOM), 3),
    "answers cut short": on_links(Fault("cut", ETL), 3),
    "answers of the wrong length": on_links(Fault("short", ETL), 3),
    "empty answers with status 200": on_links(Fault("empty", ETL), 3),
    "connections to the target reset": on_links(Fault("reset"), 3),
    "target ten times slower": on_links(Fault("delay", ETL, seconds=0.2), 5),
    "target slow beyond the deadline": on_links(Fault("delay", ETL, seconds=1.5), 5),
    "proxy hangs": on_links(Fault("hang", seconds=5), 5, "to_proxy"),
    "proxy restarts": on_links(Fault("refuse"), 4, "to_proxy"),
    "503 for everything": on_links(Fault("status", code=503), 3, "to_proxy", "to_target"),
    "429 for everything": on_links(Fault("status", code=429), 3, "to_proxy", "to_target"),
    "target gone, and back after 6 s": on_links(Fault("refuse"), 6),
    "the whole cluster gone for 6 s": on_links(Fault("refuse"), 6, "to_proxy", "to_target"),
    "no route: nothing answers for 6 s": on_links(Fault("hang", seconds=30), 6, "to_proxy", "to_target"),
}
UNSEEN = b'{"message":"ais://b/train/train-000001.tar does not exist"}'
FAULTS_OF_SHARDS: dict[str, Inject] = {
    "transform fails for some shards": on_links(Fault("status", r"train-00000[01]\.tar.*etl_name=", body=RAISED), 60),
    "a shard is not seen for 2 s, as while AIStore moves it": on_links(
        Fault("status", r"train-000001\.tar", code=404, body=UNSEEN), 2
    ),
    "ranges cut short": on_links(Fault("cut", r"\.tar"), 2),
}
"""What happens to runs from tar shards alone, whoever makes the samples."""
WITHOUT_OBJECTS = {  # seconds in which they cannot be had
    "a shard is not seen for 2 s, as while AIStore moves it": 2,
    "ranges cut short": 2,
    "connections to the target reset": 3,
    "503 for everything": 3,
    "429 for everything": 3,
    "target gone, and back after 6 s": 6,
    "the whole cluster gone for 6 s": 6,
    "no route: nothing answers for 6 s": 6,
}


def longest_wait(result: Result) -> float:
    """Seconds that a step or a validation waited for data, at most; but for the first ones, when workers start."""
    lines = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    waits = []
    for kind, images in (("train_step", 12), ("val_epoch", 15)):
        waits += [line["data_wait"] * images / line["img_per_s"] for line in lines if line["kind"] == kind][1:]
    return max(waits)


def assert_the_same(result: Result, whole: Result) -> None:
    assert result.code == 0, result.output
    assert result.summary()["state_sha256"] == whole.summary()["state_sha256"]
    assert result.fingerprints() == whole.fingerprints()
    assert (result.run_dir / "stream.bin").read_bytes() == (whole.run_dir / "stream.bin").read_bytes()
    by_source = result.summary()["samples_by_source"]
    assert by_source["local"] + by_source["etl"] == 510
