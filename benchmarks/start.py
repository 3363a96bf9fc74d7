"""Seconds from ``python train.py`` to the first step, with ETLs that run already, beyond importing torch.

    IMAGENET_TRAINER_DATA=FOLDER python -m benchmarks.start [--repeats 5]

FOLDER holds imagenet-sample.tar. An embedded server and both ETLs run throughout; each start attaches to them
(data.etl.manage=reuse), proves their pixels and trains until its first step is done, of eight images of 64 pixels. So
does one from the folder. Each round also times ``python -c 'import torch, torchvision'``, which is subtracted. The
stages are the times between the lines that the trainer prints; all of it runs with one thread and two loader workers.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from aistore_data.client.http_reader import Access
from aistore_data.client.sdk import make_client
from aistore_data.embedded import EmbeddedAIS
from aistore_data.etls import lifecycle
from benchmarks.measure import photo_folder
from benchmarks.results import Table, begin, parser, rows

PROJECT = Path(__file__).resolve().parent.parent
IMPORT = "python -c 'import torch, torchvision'"
STAGES = {
    "imports, configuration, bucket listed": r"ais://imagenet: ",
    "training ETL attached and proved": r"ETL start-train: ",
    "validation ETL attached and proved": r"ETL start-val: ",
    "model, records": r"run directory: ",
    "loader workers, first step": r"  step 1/",
}
"""Each stage ends with the first line that matches."""
OPTIONS = [
    "threads=1", "train.batch_size=8", "train.log_every=1", "data.image_size=64", "data.val_image_size=64",
    "data.val_resize=72", "data.workers=2", "model.name=resnet18",
]  # fmt: skip


def seconds(command: list[str]) -> float:
    """How long a command takes."""
    start_s = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start_s


def first_step(options: list[str]) -> dict[str, float]:
    """Seconds from the start of the trainer to the end of each stage that it goes through."""
    ends: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", *OPTIONS, *options, f"run_dir={folder}/run"]
        start_s = time.perf_counter()
        trainer = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        try:
            assert trainer.stdout is not None
            for line in trainer.stdout:
                for stage, pattern in STAGES.items():
                    if stage not in ends and re.search(pattern, line):
                        ends[stage] = time.perf_counter() - start_s
                if list(STAGES)[-1] in ends:
                    return ends
        finally:
            trainer.terminate()
            trainer.wait()
    raise SystemExit("error: the trainer ended before its first step")


def main() -> int:
    """The command line."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    result = begin(options)
    last = list(STAGES)[-1]
    total: dict[str, list[float]] = defaultdict(list)
    beyond: dict[str, list[float]] = defaultdict(list)
    stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with photo_folder() as root, tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        with EmbeddedAIS(Path(folder) / "ais", imagefolder=root) as server:
            access = Access(server.endpoint, server.token)
            os.environ["AIS_AUTHN_TOKEN"] = server.token
            client, settings = make_client(access), lifecycle.EtlSettings(num_workers=1)
            names = [
                lifecycle.ensure(client, f"start-{recipe}", recipe, settings, print)[0] for recipe in ("train", "val")
            ]
            remote = [f"data.etl.{split}_name=start-{split}" for split in ("train", "val")]
            remote += ["data=aistore", f"data.endpoint={server.endpoint}", "data.etl.manage=reuse"]
            ways = {"train.py data=aistore, running ETLs": remote, "train.py data=imagefolder": [f"data.root={root}"]}
            for repeat in range(options.repeats + 1):
                imported_s = seconds([sys.executable, "-c", "import torch, torchvision"])
                if repeat:
                    total[IMPORT].append(imported_s)
                for way, words in ways.items():
                    ends = first_step(words)
                    if not repeat:  # the first round fills the page cache, and keeps the manifest
                        continue
                    total[way].append(ends[last])
                    beyond[way].append(ends[last] - imported_s)
                    if way == next(iter(ways)):
                        for stage, before in zip(STAGES, [0.0, *ends.values()], strict=False):
                            stages[stage].append(ends[stage] - before)
            for name in names:
                lifecycle.stop(client, name)
    result.add(Table("total", "From the command to the first step", "s", rows(total)))
    result.add(Table("beyond", "From the command to the first step, beyond importing torch", "s", rows(beyond)))
    result.add(Table("stages", "Where the time of a start with running ETLs goes", "s", rows(stages)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
